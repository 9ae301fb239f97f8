"""Drafters of every head give plain decoding's tokens, whatever the batch does."""

from pathlib import Path

import pytest

from dflash_serve.adapters.drafter_bits import quantised
from dflash_serve.adapters.loading import load_target
from tests.adapters.test_drafter_bits import wide
from tests.adapters.test_heads import HEADS, load
from tests.engine.test_exactness import generate, requests
from tests.tiny import write_target


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[int]]:
    target = load_target(write_target(tmp_path_factory.mktemp("target")))
    return generate((target, None), requests(12, 3), block=1, batch=1, compiled=False)[0]


@pytest.mark.parametrize("name", HEADS)
def test_every_head_is_exact(tmp_path: Path, oracle: dict[str, list[int]], name: str) -> None:
    drafter = load(tmp_path, HEADS[name])
    target = load_target(tmp_path / "target")
    texts, _, stats = generate((target, drafter), requests(12, 3), block=6, batch=3)
    assert texts == oracle
    assert stats.drafted > 0


def test_a_quantised_drafter_is_exact(tmp_path: Path, oracle: dict[str, list[int]]) -> None:
    drafter = quantised(wide(tmp_path), 4)
    pair = load_target(tmp_path / "target"), drafter
    assert generate(pair, requests(12, 3), block=8, batch=3)[0] == oracle
