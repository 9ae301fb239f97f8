"""The switch of the hand-written kernels."""

import os
import subprocess
import sys

import mlx.core as mx
import pytest

from dflash_serve.kernels.dispatch import Backend, default_backend, kernel_backend, wanted


@pytest.mark.parametrize(
    ("environ", "expected"),
    [({}, True), ({"DFLASH_KERNELS": "auto"}, True), ({"DFLASH_KERNELS": "plain"}, False)],
)
def test_the_variable_decides(environ, expected):
    assert wanted(environ) is expected


def test_an_unknown_value_is_refused():
    with pytest.raises(ValueError, match="DFLASH_KERNELS='fast' is none of auto, plain"):
        wanted({"DFLASH_KERNELS": "fast"})


def test_plain_turns_kernels_off_where_a_gpu_is_and_leaves_mlx_its_own():
    program = (
        "import mlx.core as mx\n"
        "from unittest.mock import patch\n"
        "from dflash_serve.kernels.dispatch import default_backend, kernel_backend\n"
        "gpu = mx.Device(mx.gpu)\n"
        "with patch.object(mx, 'default_device', lambda: gpu), "
        "patch.object(mx.metal, 'is_available', lambda: True):\n"
        "    print(default_backend().value, kernel_backend().value)\n"
    )
    found = {
        choice: subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"DFLASH_KERNELS": choice},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for choice in ("auto", "plain")
    }
    assert found == {"auto": ["metal", "metal"], "plain": ["metal", "plain"]}


def test_a_cpu_runs_the_plain_form():
    with mx.stream(mx.cpu):
        before = mx.default_device()
        mx.set_default_device(mx.cpu)
        try:
            assert default_backend() is kernel_backend() is Backend.PLAIN
        finally:
            mx.set_default_device(before)
