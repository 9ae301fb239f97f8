"""Builds the CPU matmul library on Linux; everything else stands in pyproject.toml."""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

CSRC = Path("dflash_serve/kernels/csrc")

# No -march: the instruction set is chosen at run time. No contraction: sums keep their order.
FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-shared", "-pthread", "-fvisibility=hidden")
FLAGS += ("-ffp-contract=off", "-Wall", "-Wno-psabi")


class BuildSharedLibrary(build_ext):
    """Calls the C compiler itself: CFLAGS of the system (fast-math, -march) must not reach this."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split("."))) + ".so"

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = target.with_suffix(".new")  # a running process may have the old file mapped
        errors = []
        for compiler in compilers():
            command = [*compiler, *FLAGS, *ext.sources, "-o", str(fresh)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                fresh.replace(target)
                return
            errors.append(f"{shlex.join(command)}\n{done.stderr.strip()}")
        detail = "\n".join(errors) or "no C compiler found (tried $CC, cc, gcc, clang)"
        raise CompileError(f"MLX will run on its slow reference BLAS.\n{detail}")


def compilers() -> list[list[str]]:
    named = os.environ.get("CC")
    wanted = [named] if named else [sysconfig.get_config_var("CC"), "cc", "gcc", "clang"]
    split = [shlex.split(name) for name in wanted if name]
    return [words for words in split if words and shutil.which(words[0])]


def shared_libraries() -> list[Extension]:
    if sys.platform != "linux":
        return []
    sources = sorted(str(path) for path in CSRC.glob("*.c"))
    headers = sorted(str(path) for path in CSRC.glob("*.h"))
    name = "dflash_serve.kernels.libdflash_blas"
    return [Extension(name, sources, depends=headers, optional=True)]


setup(ext_modules=shared_libraries(), cmdclass={"build_ext": BuildSharedLibrary})
