"""The names that transformers exports, found once for a run of the tests.

When it is imported, transformers reads each of its 3,000 files, twice, to find these names: half of
the time that a server takes to start. Processes that tests start are given them.
"""

import pickle
from pathlib import Path

import transformers.models
from transformers.utils import import_utils

_SITE = '''"""Imported by every Python that starts with this folder on its path."""

import sys
from importlib.machinery import PathFinder, SourceFileLoader

KNOWN = {known!r}
SCANS = {scans!r}


class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name != "transformers.utils.import_utils":
            return None
        spec = super().find_spec(name, path, target)
        spec.loader = Loader(name, spec.origin)
        return spec


class Loader(SourceFileLoader):
    def exec_module(self, module):
        super().exec_module(module)
        scan = module.create_import_structure_from_path

        def known(path):
            if str(path) not in SCANS:
                return scan(path)
            import pickle

            with open(KNOWN, "rb") as file:
                return pickle.load(file)

        module.create_import_structure_from_path = known


sys.meta_path.insert(0, Finder)
'''


def write_site(folder: Path) -> None:
    """Write the names to ``folder``, and what hands them to a Python with it on its path."""
    package = Path(transformers.models.__file__)
    known = folder / "names.pickle"
    known.write_bytes(pickle.dumps(import_utils.create_import_structure_from_path(package.parent)))
    site = _SITE.format(known=str(known), scans=[str(package), str(package.parent)])
    (folder / "sitecustomize.py").write_text(site, encoding="utf-8")
