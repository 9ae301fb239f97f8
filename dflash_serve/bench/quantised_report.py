"""Table and plot of `dflash-bench quantised`, made from its JSON values alone."""

from matplotlib.figure import Figure
from rich.table import Table

from dflash_serve.bench.report import Source, table_of
from dflash_serve.measure.results import Result


def tables(result: Result) -> list[Table]:
    """Memory and speed of each form."""
    columns: tuple[tuple[str, Source], ...] = (
        ("weights", "name"),
        ("MB in memory", lambda form: form["held_bytes"] / 1e6),
        ("plain tok/s", "plain_tokens_per_second"),
        ("of the first", "plain_over_base"),
        ("drafted tok/s", "drafted_tokens_per_second"),
        ("of plain", "drafted_over_plain"),
        ("of the first", "drafted_over_base"),
        ("tokens/round", "tokens_per_round"),
        ("pooled", "tokens_per_round_pooled"),
        ("different", "different_answers"),
    )
    title = f"{result.settings['random_target']} in {result.settings['bits']} bits"
    return [table_of(title, result.measured["forms"], columns)]


def plot(result: Result) -> Figure:
    """Tokens per second, plain and drafted."""
    forms = result.measured["forms"]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for shift, kind in ((-0.2, "plain"), (0.2, "drafted")):
        rates = [form[f"{kind}_tokens_per_second"] for form in forms]
        axes.bar([place + shift for place in range(len(forms))], rates, 0.4, label=kind)
    axes.set_xticks(range(len(forms)), [form["name"] for form in forms])
    axes.set(ylabel="tokens/s", ylim=(0, None))
    axes.legend()
    return figure
