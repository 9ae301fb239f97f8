"""Prints the lowest version that each pin of pyproject.toml allows, as constraints for pip.

``python tools/lowest.py [EXTRA ...]`` reads the dependencies and those of the named extras.
"""

import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

_PROJECT = Path(__file__).parent.parent / "pyproject.toml"


def lowest(requirement: Requirement) -> str:
    """``numpy>=2.0,<3`` -> ``numpy==2.0``, with its marker."""
    bounds = [item.version for item in requirement.specifier if item.operator in (">=", "==")]
    if len(bounds) != 1:
        raise SystemExit(f"{requirement} has no single lower bound: write NAME>=VERSION")
    marker = f" ; {requirement.marker}" if requirement.marker else ""
    return f"{requirement.name}=={bounds[0]}{marker}"


def main(extras: list[str]) -> None:
    project = tomllib.loads(_PROJECT.read_text(encoding="utf-8"))["project"]
    wanted = list(project["dependencies"])
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    for line in sorted({lowest(Requirement(text)) for text in wanted}):
        print(line)


if __name__ == "__main__":
    main(sys.argv[1:])
