"""``dflash-bench quantised``: a quantised target on a CPU, in every form that its weights can have.

As stored, multiplied by MLX's operation and by this package's, and expanded to float32; plain and
with drafts that are simulated over a real drafter's compute. All of it in turns, in one process.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from matplotlib.figure import Figure
from mlx.utils import tree_flatten
from rich.table import Table

from dflash_serve.adapters.cpu_weights import CpuWeights
from dflash_serve.adapters.exactness import exact_path
from dflash_serve.adapters.layered import LayeredTarget
from dflash_serve.adapters.loading import load_target, on_cpu
from dflash_serve.bench import figures
from dflash_serve.bench.arms import Arm, make_arm, measure
from dflash_serve.bench.errors import BenchError
from dflash_serve.bench.options import DecodeOptions, QuantisedOptions
from dflash_serve.bench.pair import Pair, PairChoice, random_drafter
from dflash_serve.bench.random_targets import RandomTarget, find_random_target, write_quantised
from dflash_serve.bench.report import bars, picture, table_of
from dflash_serve.bench.work import simulated_work
from dflash_serve.measure.figures import middle, ratio
from dflash_serve.measure.results import Result

FORMS: dict[str, tuple[CpuWeights, bool]] = {
    "stored, MLX's product": (CpuWeights.STORED, False),
    "stored, own product": (CpuWeights.STORED, True),
    "float32": (CpuWeights.FLOAT32, True),
}
"""How weights are held, and whether own products multiply them. The first one is the base."""


@dataclass(frozen=True, slots=True)
class Form:
    """One form of the weights: ``held`` bytes of them, decoded plainly and with drafts."""

    name: str
    pair: Pair
    held: int
    plain: Arm
    drafted: Arm

    @property
    def arms(self) -> tuple[Arm, Arm]:
        return self.plain, self.drafted


def run(options: QuantisedOptions) -> Result:
    """Write the target, load it in every form, measure them in turns.

    Raises:
        BenchError: the models run on a GPU, or no such target can be made.
    """
    if not on_cpu():
        raise BenchError("quantised weights are measured on a CPU: on GPUs they stay as stored")
    shape = find_random_target(options.random_target)
    with tempfile.TemporaryDirectory(prefix="quantised-") as directory:
        stored = write_quantised(Path(directory), shape, options.bits, options.group, options.seed)
        forms = [_form(name, Path(directory), shape, options) for name in FORMS]
    arms = [arm for form in forms for arm in form.arms]
    references = [figures.tokens_of(run) for run in measure(arms, options.repeats)[::2]]
    base = middle(forms[0].plain.step_rates)
    entries = [_entry(form, base, wanted) for form, wanted in zip(forms, references, strict=True)]
    different = sum(entry["different_answers"] for entry in entries)
    measured = {
        "parameters": forms[0].pair.target_parameters,
        "stored_bytes": stored,
        "exact_path": exact_path(),
        "forms": entries,
    }
    return Result("quantised", options.recorded(), measured, figures.unequal(different))


def _form(name: str, directory: Path, shape: RandomTarget, options: QuantisedOptions) -> Form:
    weights, own = FORMS[name]
    target = load_target(directory, weights, own_products=own)
    assert isinstance(target, LayeredTarget)
    held = sum(value.nbytes for _, value in tree_flatten(target.parameters()))
    choice = PairChoice(block_size=options.block_size, seed=options.seed)
    mx.random.seed(options.seed)
    drafter, model = random_drafter(shape.config, choice, target)
    count = sum(value.size for _, value in tree_flatten(model.parameters()))
    pair = Pair(name, target, drafter, None, shape.parameters, count)
    decode = DecodeOptions(
        prompts=max(4, options.batch),
        batches=(options.batch,),
        block_size=(options.block_size,),
        max_tokens=options.max_tokens,
        tau=options.tau,
        seed=options.seed,
    )
    work = simulated_work(decode, pair)

    def arm(block: int) -> Arm:
        drafter = work.drafter if block > 1 else None
        return make_arm(pair, work, name, work.config(options.batch, block), drafter)

    return Form(name, pair, held, arm(1), arm(options.block_size))


def _entry(form: Form, base: float, reference: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    plain, drafted = form.plain.step_rates, form.drafted.step_rates
    return {
        "name": form.name,
        "held_bytes": form.held,
        "plain_tokens_per_second": middle(plain),
        "plain_over_base": ratio(middle(plain), base),
        "drafted_tokens_per_second": middle(drafted),
        "drafted_over_plain": ratio(middle(drafted), middle(plain)),
        "drafted_over_base": ratio(middle(drafted), base),
        **figures.both_rounds(form.drafted.answers),
        "different_answers": sum(arm.different(reference) for arm in form.arms),
        "plain_repeats": plain,
        "drafted_repeats": drafted,
    }


def tables(result: Result) -> list[Table]:
    """Memory and speed of each form."""
    columns = [
        *("name", "held_bytes", "plain_tokens_per_second", "plain_over_base"),
        *("drafted_tokens_per_second", "drafted_over_plain", "drafted_over_base"),
        *("tokens_per_round", "tokens_per_round_pooled", "different_answers"),
    ]
    title = f"{result.settings['random_target']} in {result.settings['bits']} bits"
    return [table_of(title, result.measured["forms"], columns)]


def plot(result: Result) -> Figure:
    """Tokens per second, plain and drafted."""
    rates = "plain_tokens_per_second drafted_tokens_per_second"
    return picture(bars("decoding", result.measured["forms"], "name", rates), width=7)
