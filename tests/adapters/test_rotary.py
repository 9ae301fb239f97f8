"""The shared rotation against mlx-lm's, bit for bit, at each row's own offset."""

from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.rope_utils import initialize_rope

from dflash_serve.adapters.base import AdapterError
from dflash_serve.adapters.rotary import AnyRotary, Rotary

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


@pytest.mark.parametrize("name", SCALINGS)
def test_tokens_rotate_by_positions_of_their_own(name: str) -> None:
    """As each would alone: those of a tree do not follow each other."""
    positions = mx.array([[7, 8, 8, 9, 8], [300, 301, 302, 302, 303]], dtype=mx.int32)
    scaling = SCALINGS[name]
    theirs = initialize_rope(16, 10000.0, False, scaling, 512)
    x = mx.random.normal((2, 4, 5, 16), key=mx.random.key(1))
    for rotary in (Rotary(16, 10000.0, scaling, 512), AnyRotary(theirs)):
        got = rotary(x, offset=positions)
        for row in range(2):
            for token in range(5):
                at = int(positions[row, token].item())
                want = theirs(x[row : row + 1, :, token : token + 1], offset=at)
                assert mx.array_equal(got[row : row + 1, :, token : token + 1], want).item()


@pytest.mark.parametrize("kind", ["dynamic", "longrope", "spiral"])
def test_a_rotation_without_an_offset_per_row_is_refused(kind: str) -> None:
    with pytest.raises(AdapterError, match=f"rope_type is '{kind}', supported are default, linear"):
        Rotary(16, 10000.0, {"rope_type": kind, "factor": 2.0}, 512)
