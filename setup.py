"""Builds the CPU library and the MLX extension over it on Linux; the rest is pyproject.toml's."""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

try:
    import mlx
    import nanobind
except ImportError as error:
    MISSING: ImportError | None = error
else:
    MISSING = None

KERNELS = Path("dflash_serve/kernels")
CSRC = KERNELS / "csrc"
NATIVE = KERNELS / "native"

SHARED = ("-fPIC", "-shared", "-pthread", "-fvisibility=hidden", "-Wall")
# No -march: the instruction set is chosen at run time. No contraction: sums keep their order.
C_FLAGS = ("-O3", "-std=gnu11", "-ffp-contract=off", "-Wno-psabi", *SHARED)
CXX_FLAGS = ("-O2", "-std=c++20", *SHARED)


@dataclass(frozen=True)
class Language:
    """How to compile: compilers in the order of preference, and flags."""

    name: str
    variable: str
    commands: tuple[str, ...]
    flags: tuple[str, ...]

    def compilers(self) -> list[list[str]]:
        named = os.environ.get(self.variable)
        wanted = [named] if named else [sysconfig.get_config_var(self.variable), *self.commands]
        split = [shlex.split(name) for name in wanted if name]
        return [words for words in split if words and shutil.which(words[0])]


C = Language("C", "CC", ("cc", "gcc", "clang"), C_FLAGS)
CXX = Language("C++", "CXX", ("c++", "g++", "clang++"), CXX_FLAGS)


class BuildSharedLibrary(build_ext):
    """Calls the compiler itself: CFLAGS of the system (fast-math, -march) must not reach this."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split("."))) + ".so"

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = target.with_suffix(".new")  # a running process may have the old file mapped
        language = C if ext.language == "c" else CXX
        options = [f"-I{path}" for path in ext.include_dirs] + list(ext.extra_compile_args)
        errors = []
        for compiler in language.compilers():
            command = [*compiler, *language.flags, *options, *ext.sources]
            command += [*ext.extra_link_args, "-o", str(fresh)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                fresh.replace(target)
                return
            errors.append(f"{shlex.join(command)}\n{done.stderr.strip()}")
        wanted = "$" + ", ".join((language.variable, *language.commands))
        detail = "\n".join(errors) or f"no {language.name} compiler found (tried {wanted})"
        raise CompileError(f"MLX will run on its own slow CPU code.\n{detail}")


def shared_libraries() -> list[Extension]:
    if sys.platform != "linux":
        return []
    library = Extension(
        "dflash_serve.kernels.libdflash_blas",
        sorted(str(path) for path in CSRC.glob("*.c")),
        depends=sorted(str(path) for path in CSRC.glob("*.h")),
        language="c",
        optional=True,
    )
    return [library, *extension()]


def extension() -> list[Extension]:
    """Primitives for MLX's graphs, against the headers of the build's own mlx and nanobind."""
    if MISSING is not None:
        print(f"no MLX extension is built: {MISSING}", file=sys.stderr)
        return []
    mlx_root = next(Path(place) for place in mlx.__path__ if (Path(place) / "include").is_dir())
    nanobind_root = Path(nanobind.include_dir()).parent
    includes = [mlx_root / "include", nanobind.include_dir(), CSRC, sysconfig.get_path("include")]
    includes.append(nanobind_root / "ext" / "robin_map" / "include")
    sources = sorted(str(path) for path in NATIVE.glob("*.cpp"))
    return [
        Extension(
            "dflash_serve.kernels._native",
            [*sources, str(nanobind_root / "src" / "nb_combined.cpp")],
            depends=sorted(str(path) for path in (*NATIVE.glob("*.h"), *CSRC.glob("*.h"))),
            include_dirs=[str(path) for path in includes],
            # arrays pass between modules of one nanobind domain: that of mlx.core
            extra_compile_args=["-DNB_DOMAIN=mlx", "-fno-strict-aliasing"],
            extra_link_args=[f"-L{mlx_root / 'lib'}", "-lmlx"],
            language="c++",
            optional=True,
        )
    ]


setup(ext_modules=shared_libraries(), cmdclass={"build_ext": BuildSharedLibrary})
