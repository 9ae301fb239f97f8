"""The benchmark of the training step: both steps of a small shape, and its report."""

import pytest

from dflash_serve.bench import training_step
from dflash_serve.bench.errors import BenchError
from dflash_serve.bench.options import TrainingStepOptions
from dflash_serve.bench.training_step import Shape, plot, run, tables

TINY = Shape(16, 24, 2, 1, 8, 50, 2, 1, 2, 20, 3, 4, steps=1)
WIDE = Shape(16, 24, 2, 1, 8, 5000, 2, 1, 1, 20, 8, 4, steps=1, plain=False)


def test_both_steps_are_timed_and_weighed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_step, "SHAPES", {"demo": TINY, "wide": WIDE})
    result = run(TrainingStepOptions(only=("demo", "wide"), rounds=2))
    tiny, wide = result.measured["demo"], result.measured["wide"]
    assert tiny["tokens_per_step"] <= 2 * 3 * 3
    assert {kind: len(values) for kind, values in tiny["seconds_per_step"].items()} == {
        "compiled": 2,
        "plain": 2,
    }
    assert tiny["peak_share"] == tiny["peak_bytes"]["compiled"] / tiny["peak_bytes"]["plain"]
    assert len(tiny["growth"]["active_bytes"]) == len(tiny["growth"]["step"]) == 7
    assert wide["logit_bytes"] == 4 * 8 * 3 * 5000
    assert wide["peak_bytes"].keys() == {"compiled"}
    assert "seconds_per_step" not in wide
    assert result.settings["shapes"]["demo"]["hidden"] == 16
    assert tables(result)[0].row_count == 2
    assert [len(axes.patches) for axes in plot(result).axes] == [2]


def test_an_unknown_shape_is_refused_with_the_known_ones() -> None:
    with pytest.raises(BenchError, match="names 'huge', but must be of demo, sparse"):
        run(TrainingStepOptions(only=("huge",)))
