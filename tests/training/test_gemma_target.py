"""Training a drafter for a target with a rotation and head sizes for each type of layer."""

from pathlib import Path

from dflash_serve.adapters.loading import load_drafter, load_target
from tests.tiny_gemma import GEMMA4
from tests.training.runs import World


def test_a_drafter_of_gemma_4_begins_with_its_targets_sizes(tmp_path: Path) -> None:
    world = World.make(tmp_path, base=GEMMA4)
    result = world.invoke("out", steps=1, lr=1e-9)
    assert result.exit_code == 0, result.output
    target = load_target(world.root / "target")
    drafter = load_drafter(world.root / "out", target)
    assert (drafter.config.rope_theta, drafter.config.head_dim) == (1e6, 16)
