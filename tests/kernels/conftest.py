"""The CPU library on each instruction set that this machine has."""

from collections.abc import Iterator

import pytest

from tests.kernels.cpu_library import ISAS, CpuLibrary


@pytest.fixture(scope="module", params=ISAS)
def library(request, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CpuLibrary]:
    library = CpuLibrary(tmp_path_factory.mktemp("library"))
    if not library.select(request.param):
        pytest.skip("this machine lacks the instruction set")
    yield library
    library.set_threads(1)
