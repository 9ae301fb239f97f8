"""Trees and second drafters as the options ask for them."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from dflash_serve.adapters.base import AdapterError
from dflash_serve.adapters.loading import load_target
from dflash_serve.compose.cards import block_size, drafter_card
from dflash_serve.compose.directories import DEMO
from dflash_serve.compose.loading import load, load_pair
from dflash_serve.compose.options import EngineOptions, OptionsError
from dflash_serve.compose.trees import check_trees, load_second, second_directory, tree_kinds
from dflash_serve.engine.commands import Loaded
from tests.tiny import DFLASH2, DRAFTER, QWEN3_5, write_drafter, write_target

VP = {"dflash_config": DRAFTER["dflash_config"] | {"training_mode": "vp_drafter"}}
BLOCK = 4


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_target(tmp_path_factory.mktemp("target"))


@pytest.fixture(scope="module")
def drafter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drafter(tmp_path_factory.mktemp("drafter"))


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drafter(tmp_path_factory.mktemp("second"), seed=9, **VP)


@contextmanager
def loading(target: Path, drafter: Path, **options: Any) -> Iterator[Loaded]:
    loaded = load(EngineOptions(block_size=BLOCK, **options), target, drafter)
    with closing(loaded.runner):
        yield loaded


@pytest.mark.parametrize(
    ("asked", "kinds"),
    [
        ({}, (0,)),
        ({"tree": "off"}, (0,)),
        ({"tree": "12"}, (12,)),
        ({"tree": "auto"}, (0, 8, 16, 32)),
        ({"second_drafter": "x"}, (0, 8, 16, 32)),
        ({"second_drafter": "x", "tree": "9"}, (9,)),
        ({"speculation": "off"}, (0,)),
    ],
)
def test_kinds_of_round(target: Path, asked: dict[str, Any], kinds: tuple[int, ...]) -> None:
    assert tree_kinds(EngineOptions(**asked), load_target(target)) == kinds


def test_a_second_drafter_is_loaded_and_counted(target: Path, drafter: Path, second: Path) -> None:
    """Its context takes memory too, and so do the places that a tree writes."""
    with loading(target, drafter) as alone, loading(target, drafter, tree="8") as trees:
        assert alone.config.round_tokens == BLOCK
        assert trees.config.round_tokens == 64
        one = alone.runner.bytes_for(256)
    with loading(target, drafter, second_drafter=str(second)) as both:
        assert both.config.tree_nodes == (0, 8, 16, 32)
        assert both.runner.bytes_for(256) > one


def test_a_vp_drafter_may_be_said_as_specforge_says_it(target: Path, tmp_path: Path) -> None:
    said = {"dflash_config": DRAFTER["dflash_config"] | {"loss_type": "vp_drafter"}}
    path = write_drafter(tmp_path / "theirs", **said)
    assert second_directory(EngineOptions(target=str(target), second_drafter=str(path)), 4) == path


def test_a_vp_drafter_is_refused_as_the_first(target: Path, second: Path) -> None:
    """It was trained to go on behind drafts that another one makes."""
    for refuse in (
        lambda: drafter_card(EngineOptions(), second),
        lambda: load_pair(target, second),
    ):
        with pytest.raises(AdapterError, match=r"is a VP-drafter.*--second-drafter"):
            refuse()


def test_the_demo_has_one(target: Path) -> None:
    block = block_size(EngineOptions(), DEMO / "drafter")
    found = second_directory(EngineOptions(second_drafter="auto"), block)
    assert found is not None
    assert found.name == "drafter-vp"
    options = EngineOptions(target=str(target), second_drafter="auto")
    with pytest.raises(OptionsError, match="no VP-drafter is known"):
        second_directory(options, block)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, "training_mode is not vp_drafter"),
        (VP | {"block_size": 3}, "--block-size is 4, but the second drafter was trained with 3"),
        (
            DFLASH2 | {"dflash_config": DFLASH2["dflash_config"] | {"training_mode": "vp_drafter"}},
            "only a DFlash v1 network",
        ),
        (VP | {"hidden_size": 32}, "hidden_size"),
    ],
)
def test_another_drafter_is_refused(
    tmp_path: Path, target: Path, changes: dict[str, Any], reason: str
) -> None:
    path = write_drafter(tmp_path, **changes)
    options = EngineOptions(target=str(target), second_drafter=str(path))
    for refuse in (
        lambda: check_trees(options, target, BLOCK),
        lambda: load_second(options, load_target(target), BLOCK),
    ):
        with pytest.raises((AdapterError, OptionsError), match=reason) as caught:
            refuse()
        assert "\n" not in str(caught.value)


def test_recurrent_targets_refuse_trees_by_name(tmp_path: Path) -> None:
    target = write_target(tmp_path, base=QWEN3_5)
    for asked in ({"tree": "8"}, {"tree": "auto"}):
        with pytest.raises(OptionsError, match="recurrent layers"):
            check_trees(EngineOptions(**asked), target, BLOCK)
    check_trees(EngineOptions(), target, BLOCK)
