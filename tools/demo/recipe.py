"""What each demo pair is made of, as numbers and as the commands of its stages in order."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
HELDOUT = HERE.parent.parent / "dflash_serve/demo/heldout.jsonl"
"""The prompts that figures are reported on; nothing is chosen by them."""

ANSWERS = ("--turns", "last", "--max-new", "160", "--batch", "64")
DRAFTER = (
    *("--layers", "2", "--intermediate", "576", "--anchors", "10", "--batch", "12"),
    *("--muon", "--lr", "0.012", "--seed", "1", "--checkpoint-every", "100", "--resume"),
)
DFLASH2 = ("--architecture", "dflash2", "--selector-rank", "64")
VP = ("--training-mode", "vp_drafter", "--prefix-weight-base", "0.9")


@dataclass(frozen=True, slots=True)
class Drafter:
    """One drafter: the folder's name, how long it learns, and what sets it apart."""

    name: str
    steps: int
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Recipe:
    """One pair. ``choosing`` are held-out prompts per kind by which a drafter and its runtime block
    are chosen; ``judged`` are those per kind of `HELDOUT` that figures are reported on.
    """

    family: str
    target_steps: int
    prompts: int
    structured: int
    choosing: int
    judged: int
    taps: str
    block: int
    runtime_blocks: tuple[int, ...]
    drafters: tuple[Drafter, ...]

    def scaled(self, share: float) -> Recipe:
        """Of everything only a share, to try the stages."""
        return replace(
            self,
            target_steps=max(8, round(self.target_steps * share)),
            prompts=max(48, round(self.prompts * share)),
            structured=max(4, round(self.structured * share)),
            choosing=max(1, round(self.choosing * share)),
            judged=max(1, round(self.judged * share)),
            drafters=tuple(replace(d, steps=max(6, round(d.steps * share))) for d in self.drafters),
        )


RECIPES = {
    "demo": Recipe(
        family="qwen3",
        target_steps=8000,
        prompts=14_000,
        structured=2000,
        choosing=20,
        judged=60,
        taps="1,3,5,7",
        block=16,
        runtime_blocks=(8, 12, 16),
        drafters=(
            Drafter("drafter", 4000, DFLASH2),
            Drafter("drafter-v1", 3000, ()),
            Drafter("drafter-vp", 2000, VP),
        ),
    ),
    "hybrid": Recipe(
        family="qwen3_5",
        target_steps=2000,
        prompts=10_000,
        structured=0,
        choosing=20,
        judged=60,
        taps="0,1,2,3",
        block=8,
        runtime_blocks=(8,),
        drafters=(Drafter("drafter", 1500, DFLASH2),),
    ),
}


@dataclass(frozen=True, slots=True)
class Stage:
    """A named command. Started again after a stop it goes on, or is quick."""

    name: str
    command: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Programs:
    """``python`` has the project, and its programs beside it; ``torch_python`` PyTorch. Paths."""

    python: str
    torch_python: str

    @property
    def train(self) -> str:
        return str(Path(self.python).parent / "dflash-train")

    @property
    def bench(self) -> str:
        return str(Path(self.python).parent / "dflash-bench")


def stages(recipe: Recipe, work: Path, programs: Programs) -> list[Stage]:
    """The whole way from nothing to the folder ``shipped``."""
    return [
        *_target(recipe, work, programs),
        *_answers(recipe, work, programs),
        *[_drafter(recipe, drafter, work, programs) for drafter in recipe.drafters],
        *_evals(recipe, work, programs),
        _script(
            "ship",
            "ship.py",
            *("--work", work, "--train", programs.train),
            *(part for drafter in recipe.drafters for part in ("--drafter", drafter.name)),
            *(part for block in recipe.runtime_blocks for part in ("--block", block)),
            python=programs.python,
        ),
    ]


def _target(recipe: Recipe, work: Path, programs: Programs) -> list[Stage]:
    target = work / "target"
    return [
        _script("tokenizer", "tokenizer.py", "--out", target, python=programs.python),
        _script(
            "target",
            "pretrain_target.py",
            *("--target", target, "--family", recipe.family, "--steps", recipe.target_steps),
            *("--seed", 1, "--watched", 5 * recipe.choosing),
            python=programs.torch_python,
        ),
        _script(
            "accuracy",
            "evaluate.py",
            *("--target", target, "--heldout", HELDOUT, "--per-kind", recipe.judged),
            *("--json", work / "accuracy.json"),
            python=programs.python,
        ),
    ]


def _answers(recipe: Recipe, work: Path, programs: Programs) -> list[Stage]:
    corpus = {"python": programs.python}
    chosen = ("--heldout", recipe.choosing, "--seed", 107, "--but", HELDOUT)
    drawn = ("--prompts", recipe.prompts, "--seed", 11)
    made = [
        _script("prompts", "corpus.py", *drawn, "--out", work / "prompts.jsonl", **corpus),
        _script("choosing", "corpus.py", *chosen, "--out", work / "choosing.jsonl", **corpus),
    ]
    for name in ("prompts", "choosing"):
        asked, out = work / f"{name}.jsonl", work / f"{name}-answers.jsonl"
        options = ("--target", work / "target", "--prompts", asked, "--out", out, *ANSWERS)
        made.append(_train(f"answers to {name}", programs, "data", *options))
    if recipe.structured:
        made.append(
            _script(
                "structured",
                "structured.py",
                *("--target", work / "target", "--prompts", work / "prompts.jsonl"),
                *("--answers", work / "prompts-answers.jsonl", "--amount", recipe.structured),
                *("--out", work / "all-answers.jsonl"),
                python=programs.python,
            )
        )
    return made


def _drafter(recipe: Recipe, drafter: Drafter, work: Path, programs: Programs) -> Stage:
    answers = "all-answers.jsonl" if recipe.structured else "prompts-answers.jsonl"
    return _train(
        drafter.name,
        programs,
        "run",
        *("--target", work / "target", "--data", work / answers),
        *("--heldout", work / "choosing-answers.jsonl", "--out", work / drafter.name),
        *("--features", "disk", "--feature-dir", work / "features"),
        *("--block-size", recipe.block, "--gamma", 7 if recipe.block > 8 else 4),
        *("--target-layers", recipe.taps, "--steps", drafter.steps, *DRAFTER),
        *("--measure-every", max(2, drafter.steps // 6), *drafter.options),
    )


def _evals(recipe: Recipe, work: Path, programs: Programs) -> list[Stage]:
    """The first drafter at every runtime block on the choosing prompts, in turns; then all on the
    judged.
    """
    made = [_blocks(recipe, work, programs)] if len(recipe.runtime_blocks) > 1 else []
    for drafter in recipe.drafters:
        if drafter.options != VP:  # a VP-drafter goes on from another's draft: its run measures it
            name, size = f"eval {drafter.name}", min(recipe.judged, 20)
            made.append(
                _train(
                    name,
                    programs,
                    "eval",
                    *("--target", work / "target", "--drafter", work / drafter.name),
                    *("--prompts", HELDOUT, "--samples", size, "--max-new", 256),
                    *("--block-size", recipe.block, "--out", work / name.replace(" ", "-")),
                )
            )
    return made


def _blocks(recipe: Recipe, work: Path, programs: Programs) -> Stage:
    options = (
        *("--target", work / "target", "--drafter", work / recipe.drafters[0].name),
        *("--prompt-file", work / "choosing.jsonl", "--prompts", 5 * recipe.choosing),
        *("--block-size", ",".join(map(str, recipe.runtime_blocks)), "--batch", 1),
        *("--max-tokens", 256, "--repeats", 3, "--out", work / "blocks.json"),
    )
    return Stage("blocks", (programs.bench, "decode", *map(str, options)))


def _script(name: str, file: str, *options: object, python: str) -> Stage:
    return Stage(name, (python, str(HERE / file), *map(str, options)))


def _train(name: str, programs: Programs, *options: object) -> Stage:
    return Stage(name, (programs.train, *map(str, options)))
