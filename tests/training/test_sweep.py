import json
from pathlib import Path

import pytest
from typer.testing import Result

from dflash_serve.measure.errors import DataError
from dflash_serve.training.run.report import read_log
from dflash_serve.training.run.table import Prune, read_table
from tests.training.command import call
from tests.training.runs import World


def write(path: Path, world: World, rest: dict[str, object], **base: object) -> Path:
    words = world.arguments("unused", steps=4, measure_every=2, **base)[1:]
    settings = {
        flag.removeprefix("--"): int(value) if value.isdigit() else value
        for flag, value in zip(words[::2], words[1::2], strict=True)
        if flag != "--out"
    }
    path.write_text(json.dumps({"base": settings, **rest}), encoding="utf-8")
    return path


def invoke(file: Path, out: Path) -> Result:
    return call("sweep", file, "--out", out)


def results(out: Path) -> dict[str, dict[str, object]]:
    return {row["name"]: row for row in json.loads((out / "sweep.json").read_text())}


@pytest.mark.usefixtures("rendered")
def test_a_sweep_ranks_prunes_survives_failures_and_goes_on(tmp_path: Path) -> None:
    world, out = World.make(tmp_path), tmp_path / "sweep"
    runs = [
        {"name": "good", "lr": 0.02, "steps": 18, "measure-every": 6},
        {"name": "bad", "lr": 1e-9, "copy_target": False, "steps": 18, "measure-every": 6},
        {"name": "broken", "lr": 1e30, "clip": 1e30, "warmup": 0},
    ]
    rest = {"runs": runs, "prune": {"share": 0.999, "after": 0.3}}
    file = write(tmp_path / "sweep.json", world, rest)
    result = invoke(file, out)
    assert result.exit_code == 0, result.output
    found = results(out)
    assert [row["state"] for row in found.values()] == ["finished", "pruned", "failed"]
    assert list(found) == ["good", "bad", "broken"]
    assert found["bad"]["steps"] < 18
    best = [row for row in read_log(out / "good" / "log.jsonl") if row.get("best") is True][-1]
    for kind, measured in (("best", best), ("reported", best["reported"])):
        assert found["good"][kind] == measured["tokens_per_round"]
        assert found["good"][f"{kind}_pooled"] == measured["tokens_per_round_pooled"]
    assert found["good"]["reported_interval"] == best["reported"]["tokens_per_round_interval"]
    assert "ranked by best: mean over the responses" in " ".join(result.output.split())
    assert (out / "sweep.png").exists()
    assert (out / "good" / "model.safetensors").exists()
    assert "tokens per round, the best first" in result.output
    assert "…" not in result.output, "a heading or a figure is cut"

    (out / "good" / "outcome.json").unlink()  # as if it had been interrupted
    before = (out / "bad" / "log.jsonl").read_text()
    again = invoke(file, out)
    assert again.exit_code == 0, again.output
    assert "going on behind step 18" in again.output
    assert results(out) == found
    assert (out / "bad" / "log.jsonl").read_text() == before

    runs[1]["lr"] = 1e-3
    changed = invoke(write(tmp_path / "sweep.json", world, rest), out)
    assert changed.exit_code == 2
    assert "lr 1e-09 (now 0.001): choose another name" in changed.output


def test_a_grid_is_every_combination(tmp_path: Path) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text("[base]\ntarget = 't'\n[grid]\nlr = [1e-3, 2e-3]\nmin-lr = [0, 1e-4]\n")
    table = read_table(file)
    assert [entry.name for entry in table.entries] == [
        "lr=0.001,min_lr=0", "lr=0.001,min_lr=0.0001",
        "lr=0.002,min_lr=0", "lr=0.002,min_lr=0.0001",
    ]  # fmt: skip
    assert table.entries[3].own == {"lr": 0.002, "min_lr": 0.0001}
    assert table.base == {"target": "t"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[base]\n", "either runs or a grid"),
        ("nonsense", "cannot be read"),
        ("[grid]\nlr = []\n", "no runs"),
        ("[[runs]]\nname='a'\n[[runs]]\nname='a'\n", "two runs are called a"),
        ("[[run]]\nname='a'\n", "run is .*: Extra inputs"),
        (
            "[grid]\nlr = [1]\n[prune]\nshare = 2\n",
            r"prune\.share is 2: Input should be less than or equal to 1",
        ),
        ("[grid]\nlr = [1]\n[prune]\nshares = 1\n", r"prune\.shares"),
    ],
)
def test_a_wrong_table_is_named(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text(text)
    with pytest.raises(DataError, match=message):
        read_table(file)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"lrr": 1}, "lrr=1: --lrr is no option"),
        ({"lr": -1.0}, "lr=-1.0: --lr is -1.0, but should be greater than 0"),
        ({"out": "x"}, "chooses out"),
    ],
)
def test_a_wrong_setting_is_found_before_anything_runs(
    own: dict[str, object], message: str, tmp_path: Path
) -> None:
    world, out = World.make(tmp_path), tmp_path / "sweep"
    file = write(tmp_path / "sweep.json", world, {"runs": [{"name": "fine"}, own]})
    result = invoke(file, out)
    assert result.exit_code == 2
    assert message in result.output
    assert not out.exists()


def test_hopeless_is_judged_at_the_same_progress() -> None:
    rule = Prune(share=0.8, after=0.25)
    others = [[(0.25, 2.0), (0.5, 3.0), (1.0, 5.0)], [(0.5, 2.5)]]
    assert not rule.hopeless([(0.1, 1.0)], others)
    assert not rule.hopeless([(0.25, 1.7)], others)
    assert rule.hopeless([(0.25, 1.5)], others)
    assert rule.hopeless([(0.5, 2.3)], others)
    assert not rule.hopeless([(0.25, 2.5), (0.5, 2.3)], others)
    assert not rule.hopeless([(0.5, 1.0)], [])
