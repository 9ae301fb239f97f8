"""A race from nothing: dflash-train run against a PyTorch trainer, on a target made for it.

    python tools/torch_step/race.py WORK --torch-python PYTHON --out docs/results/NAME.json

One command that goes on where it was when it is started again. It pre-trains a Qwen3 of six million
parameters on the functions of Python's standard library, lets it answer, and trains a drafter with
each trainer: the same answers, first weights, order of examples, recipe and wall time of the whole
job. `dflash-train eval` judges both on prompts of source files that nobody has learnt from.
"""

import argparse
import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dflash_serve  # noqa: F401  # puts its matmul under MLX, which must not be loaded yet

# isort: split
from matplotlib.figure import Figure

from dflash_serve.bench.report import Destination, show, table, write
from dflash_serve.measure.results import Result

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE.parent / "demo"))

from make import Ledger, make  # noqa: E402  # of the demo: stages that are run once
from recipe import Programs, Stage  # noqa: E402

MOST_NEW = 192  # tokens of an answer
RUN = {"layers": 2, "block_size": 16, "anchors": 64, "batch": 8}
NAMES = ("ours", "torch")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How long the parts take, and how many prompts there are of each set."""

    target_minutes: float
    minutes: float
    train: int
    heldout: int
    judge: int
    threads: int


def run_options(work: Path, sizes: Sizes) -> dict[str, Any]:
    """Of `dflash-train run`, by the names of its settings."""
    paths = {
        "target": work / "target",
        "data": work / "train-answers.jsonl",
        "heldout": work / "heldout-answers.jsonl",
        "out": work / "ours",
    }
    return {name: str(path) for name, path in paths.items()} | RUN | {"minutes": sizes.minutes}


def before(work: Path, sizes: Sizes, programs: Programs) -> list[Stage]:
    """The target, its answers and this package's drafter; the other trainer's beginning."""
    own, torch, train = programs.python, programs.torch_python, programs.train
    counts = [f"--{name}={getattr(sizes, name)}" for name in ("train", "heldout", "judge")]
    minutes = ("--minutes", f"{sizes.target_minutes}", "--threads", f"{sizes.threads}")
    options = run_options(work, sizes).items()
    given = [part for name, value in options for part in (option(name), str(value))]
    return [
        Stage("text", (own, str(HERE / "race_text.py"), str(work), *counts)),
        Stage("target", (torch, str(HERE / "race_target.py"), str(work), *minutes)),
        *(answers(name, work, train) for name in ("train", "heldout")),
        Stage("ours", (train, "run", *given)),
        Stage("start", (own, str(HERE / "race_start.py"), "begin", str(work))),
    ]


def answers(name: str, work: Path, train: str) -> Stage:
    paths = {"target": "target", "prompts": f"{name}.jsonl", "out": f"{name}-answers.jsonl"}
    given = [part for key, value in paths.items() for part in (option(key), str(work / value))]
    return Stage(f"answers-{name}", (train, "data", *given, "--max-new", str(MOST_NEW)))


def option(name: str) -> str:
    return "--" + name.replace("_", "-")


def after(work: Path, sizes: Sizes, programs: Programs, seconds: float) -> list[Stage]:
    """The other trainer for as many seconds, and what both drafters are worth."""
    limits = ("--seconds", f"{seconds:.1f}", "--threads", f"{sizes.threads}")
    return [
        Stage("torch", (programs.torch_python, str(HERE / "race_torch.py"), str(work), *limits)),
        Stage("export", (programs.python, str(HERE / "race_start.py"), "export", str(work))),
        *(judged(name, work, programs.train) for name in NAMES),
    ]


def judged(name: str, work: Path, train: str) -> Stage:
    paths = {"target": "target", "drafter": name, "prompts": "judge.jsonl", "out": f"eval-{name}"}
    given = [part for key, value in paths.items() for part in (option(key), str(work / value))]
    return Stage(f"eval-{name}", (train, "eval", *given, "--max-new", str(MOST_NEW)))


def race(work: Path, sizes: Sizes, programs: Programs) -> dict[str, Any]:
    work.mkdir(parents=True, exist_ok=True)
    (work / "run.json").write_text(json.dumps(run_options(work, sizes)))
    names = {str(work): "WORK", f"{ROOT}/": ""}
    names |= {programs.train: "dflash-train", programs.torch_python: "torch-python"}
    ledger = work / "stages.json"
    if "ours" not in seconds_of(ledger):
        shutil.rmtree(work / "ours", ignore_errors=True)  # time is taken of one whole run
    make(before(work, sizes, programs), work, names)
    taken = seconds_of(ledger)
    make(after(work, sizes, programs, taken["ours"] - taken["start"]), work, names)
    return found(work, seconds_of(ledger))


def seconds_of(ledger: Path) -> dict[str, float]:
    """Wall time of the stages that are done."""
    return {name: done.seconds for name, done in Ledger(ledger).done.items()}


def found(work: Path, seconds: dict[str, float]) -> dict[str, Any]:
    drafters = {}
    for name in NAMES:
        results = json.loads((work / f"eval-{name}/results.json").read_text())["results"]
        drafting = results["total"]["drafting"]
        drafters[name] = {
            "tokens_per_round": drafting["tokens_per_round"],
            "tokens_per_round_pooled": drafting["tokens_per_round_pooled"],
            "tokens_per_round_interval": drafting["tokens_per_round_interval"],
            "speedup_end_to_end": results["total"]["speedup_end_to_end"],
            "responses": results["total"]["responses"],
        }
    drafters["ours"] |= {"seconds": seconds["ours"], "steps": steps_of(work / "ours/log.jsonl")}
    drafters["torch"] |= {"seconds": seconds["torch"] + seconds["start"]}
    drafters["torch"] |= json.loads((work / "torch.json").read_text())
    return {
        "target": json.loads((work / "target.json").read_text()),
        "seconds": seconds,
        "drafters": drafters,
    }


def steps_of(log: Path) -> int:
    """Steps of a run that is over."""
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    return max(row["step"] for row in rows if "step" in row)


def plot(drafters: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(4, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.bar(list(drafters), [one["tokens_per_round"] for one in drafters.values()])
    axes.set(title="tokens per round, mean over responses")
    return figure


def report(sizes: dict[str, Any], measured: dict[str, Any], out: Path | None) -> int:
    drafters = measured["drafters"]
    names = ("tokens_per_round", "tokens_per_round_pooled", "steps", "seconds")
    rows = [(name, *(one[column] for column in names)) for name, one in drafters.items()]
    show(table("a drafter from nothing", ("", *names), rows))
    failures = []
    if drafters["ours"]["tokens_per_round"] < drafters["torch"]["tokens_per_round"]:
        failures.append("PyTorch's drafter commits more tokens per round")
    settings = sizes | RUN | {"max_new": MOST_NEW}
    result = Result("torch-race", settings, measured, failures)
    write(result, Destination(out), lambda: plot(drafters))
    for line in failures:
        print(f"FAILED: {line}", file=sys.stderr)
    return 1 if failures else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="receives every stage's files")
    parser.add_argument("--torch-python", required=True, help="has tokenizers too")
    parser.add_argument("--target-minutes", type=float, default=4.0, help="of pre-training")
    parser.add_argument("--minutes", type=float, default=6.0, help="of each trainer")
    parser.add_argument("--train", type=int, default=800, help="prompts")
    parser.add_argument("--heldout", type=int, default=48, help="prompts that choose our drafter")
    parser.add_argument("--judge", type=int, default=64, help="prompts that choose nothing")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    given = vars(parser.parse_args())
    work, torch, out = (given.pop(name) for name in ("work", "torch_python", "out"))
    torch_python = shutil.which(torch)
    if torch_python is None:
        parser.error(f"--torch-python: there is no program {torch}")
    os.environ |= {
        name: str(given["threads"]) for name in ("OMP_NUM_THREADS", "DFLASH_BLAS_THREADS")
    }
    measured = race(work.resolve(), Sizes(**given), Programs(sys.executable, torch_python))
    return report(given, measured, out)


if __name__ == "__main__":
    sys.exit(main())
