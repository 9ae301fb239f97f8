"""MLX's C++ header for fused operations, parsed once for a run of the tests.

On the CPU MLX has g++ compile each fused operation as it first runs. Four fifths of that time go
into the header, which is the same for all. A quarter of the rest goes into C++17's special
functions, which <cmath> declares and no operation uses: the parsed header is without them. The
compiled code is the same, byte for byte.

Processes share what is compiled. MLX takes a library that exists for a whole one, so each gets its
name when it is.
"""

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

_HEADER = "mlx/backend/cpu/compiled_preamble.h"
_PARSED = """#define _GLIBCXX_BITS_SPECFUN_H 1  // the special functions
#include <limits>  // what they include and MLX's header needs
#include "{header}"
"""
_SCRIPT = """#!/bin/sh
# Until the header is parsed this is plain g++.
if mkdir "{folder}/begun" 2>/dev/null; then
    {compiler} -std=c++17 -O3 -Wall -fPIC "-I{include}" -x c++-header "{folder}/parsed.h" \\
        -o "{folder}/part" >/dev/null 2>&1 && mv "{folder}/part" "{folder}/{header}.gch"
fi
for word; do before="$last" last="$word"; done
case "$before $last" in
    "-o "/*.so)
        part="${{last%/*}}/$$.part"
        {compiler} "-I{folder}" "$@" -o "$part" && mv "$part" "$last"
        ;;
    *) exec {compiler} "$@" ;;
esac
"""


def write_compiler(folder: Path) -> None:
    """Write a ``g++`` to ``folder`` that keeps the parsed header there; nothing without a g++.

    A folder that exists is another worker's: until its ``g++`` is there, the plain one is found.
    """
    compiler, mlx = shutil.which("g++"), find_spec("mlx")
    if not sys.platform.startswith("linux") or compiler is None or mlx is None:
        return
    (root,) = mlx.submodule_search_locations or ()
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return
    (folder / _HEADER).parent.mkdir(parents=True)
    script, include = folder / "g++", f"{root}/include"
    script.write_text(
        _SCRIPT.format(folder=folder, compiler=compiler, include=include, header=_HEADER),
        encoding="utf-8",
    )
    (folder / "parsed.h").write_text(_PARSED.format(header=_HEADER), encoding="utf-8")
    script.chmod(0o755)
