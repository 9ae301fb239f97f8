"""The shared rotation against mlx-lm's, bit for bit, at each row's own offset."""

from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.rope_utils import initialize_rope

from dflash_serve.adapters.base import AdapterError
from dflash_serve.adapters.rotary import Rotary

SCALINGS: dict[str, dict[str, Any] | None] = {
    "default": None,
    "mrope": {"type": "mrope", "mrope_section": [2, 1, 1]},
    "linear": {"rope_type": "linear", "factor": 2.0},
    "llama3": {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 64},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
}


@pytest.mark.parametrize("dims", [16, 8, 4])
@pytest.mark.parametrize("name", SCALINGS)
def test_rows_rotate_as_with_mlx_lm(name: str, dims: int) -> None:
    """All of a head or its first dimensions; one instance serves queries and keys."""
    scaling, offsets = SCALINGS[name], mx.array([0, 300, 7], dtype=mx.int32)
    rotary = Rotary(dims, 10000.0, scaling, 512)
    theirs = initialize_rope(dims, 10000.0, False, scaling, 512)
    for heads, width in ((4, 5), (2, 5), (2, 1)):
        x = mx.random.normal((3, heads, width, 16), key=mx.random.key(heads))
        want = mx.concatenate(
            [theirs(x[row : row + 1], offset=int(offsets[row].item())) for row in range(3)]
        )
        assert mx.array_equal(rotary(x, offset=offsets), want).item()


@pytest.mark.parametrize("kind", ["dynamic", "longrope", "spiral"])
def test_a_rotation_without_an_offset_per_row_is_refused(kind: str) -> None:
    with pytest.raises(AdapterError, match=f"rope_type is '{kind}', supported are default, linear"):
        Rotary(16, 10000.0, {"rope_type": kind, "factor": 2.0}, 512)
