"""Table and plot of `dflash-bench quantised`, made from its JSON values alone."""

from matplotlib.figure import Figure
from rich.table import Table

from dflash_serve.bench.report import table
from dflash_serve.measure.results import Result


def tables(result: Result) -> list[Table]:
    """Memory and speed of each form."""
    rows = [
        (
            form["name"],
            form["held_bytes"] / 1e6,
            form["plain_tokens_per_second"],
            form["plain_over_base"],
            form["drafted_tokens_per_second"],
            form["drafted_over_plain"],
            form["drafted_over_base"],
            form["tokens_per_round"],
            form["tokens_per_round_pooled"],
            form["different_answers"],
        )
        for form in result.measured["forms"]
    ]
    columns = (
        "weights",
        "MB in memory",
        "plain tok/s",
        "of the first",
        "drafted tok/s",
        "of plain",
        "of the first",
        "tokens/round",
        "pooled",
        "different",
    )
    title = f"{result.settings['random_target']} in {result.settings['bits']} bits"
    return [table(title, columns, rows)]


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
