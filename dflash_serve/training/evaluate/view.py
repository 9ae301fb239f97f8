"""An evaluation's figures as tables and as a plot. Knows nothing of how they were measured."""

from collections.abc import Callable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from dflash_serve.measure.figures import Speed
from dflash_serve.measure.intervals import LEVEL
from dflash_serve.measure.tables import table
from dflash_serve.training.evaluate.figures import Figures

TOTAL = "total"
Columns = dict[str, Callable[[Figures], object]]
"""By name, what each shows of a data set's figures."""

_DRAFTING: Columns = {
    "responses": lambda one: one.responses,
    "tokens/round": lambda one: one.drafting.tokens_per_round,
    f"{LEVEL:.0%}": lambda one: one.drafting.tokens_per_round_interval,
    "pooled": lambda one: one.drafting.tokens_per_round_pooled,
    "published": lambda one: one.drafting.published,
    "above 3": lambda one: one.drafting.share_above_3,
    "above 5": lambda one: one.drafting.share_above_5,
    "acc/generated": lambda one: one.drafting.accepted_per_generated,
    "acc/proposed": lambda one: one.drafting.accepted_per_proposed,
}
_SPEED: Columns = {
    "tokens/s": lambda one: one.speculative.tokens_per_second,
    "end to end": lambda one: one.speedup_end_to_end,
    "decode": lambda one: one.speedup_decode,
    "plain ms": lambda one: _milliseconds(one.plain),
    "spec. ms": lambda one: _milliseconds(one.speculative),
    "differing": lambda one: f"{one.differing} of {one.compared}" if one.compared else None,
}


def drafting_table(sets: Mapping[str, Figures], total: Figures) -> Table:
    """Acceptance, one row per data set and one for all responses together."""
    caption = (
        f"tokens/round: mean over responses of their means, z-lab's tau; {LEVEL:.0%}: its interval "
        "(bootstrap over conversations); pooled: all tokens / all rounds; published: z-lab's tau "
        "for the same target; above: share of responses"
    )
    return _table("drafting", caption, _DRAFTING, {**sets, TOTAL: total})


def speed_table(sets: Mapping[str, Figures], total: Figures) -> Table:
    """Time per token both ways and the speedups."""
    caption = (
        "end to end: ratio of tokens per wall second, prompts included; ms: per token after the "
        "first; decode: their ratio; differing: from plain decoding's text"
    )
    return _table("speedup over plain decoding", caption, _SPEED, {**sets, TOTAL: total})


def slot_table(total: Figures) -> Table | None:
    """Acceptance by slot over all responses; None where it is unknown."""
    slots = total.drafting.slots
    if not slots:
        return None
    rows = (
        ("of all rounds", *(one.share for one in slots)),
        ("given those before", *(one.conditional for one in slots)),
    )
    return table("acceptance by slot", ("slot", *(str(one.slot) for one in slots)), rows)


def plot(sets: Mapping[str, Figures], total: Figures) -> Figure:
    """Tokens per round and speedups per data set; histogram and slots over all responses."""
    figure = Figure(figsize=(13, 8), layout="constrained")
    rounds, speedups, sizes, slots = figure.subplots(2, 2).flatten()
    shown = {**sets, TOTAL: total}
    _bars(
        rounds,
        list(shown),
        {
            "mean over responses": [one.drafting.tokens_per_round for one in shown.values()],
            "pooled": [one.drafting.tokens_per_round_pooled for one in shown.values()],
            "published": [one.drafting.published for one in shown.values()],
        },
    )
    rounds.set(title="tokens per round", ylabel="tokens, the bonus token included")
    _bars(
        speedups,
        list(shown),
        {
            "end to end": [one.speedup_end_to_end for one in shown.values()],
            "decoding": [one.speedup_decode for one in shown.values()],
        },
    )
    speedups.axhline(1.0, color="grey", linewidth=0.8)
    speedups.set(title="speedup over plain decoding", ylabel="times")
    _histogram(sizes, total)
    _slots(slots, total)
    return figure


def _table(title: str, caption: str, columns: Columns, shown: Mapping[str, Figures]) -> Table:
    rows = ([name, *(show(one) for show in columns.values())] for name, one in shown.items())
    made = table(title, ("data set", *columns), rows, caption=caption)
    made.rows[-2].end_section = True
    return made


def _bars(axes: Axes, names: Sequence[str], series: Mapping[str, Sequence[float | None]]) -> None:
    """Groups of bars side by side; unknown values leave a gap."""
    if all(value is None for values in series.values() for value in values):
        _unknown(axes)
        return
    series = {label: values for label, values in series.items() if any(values)}
    width = 0.8 / len(series)
    for index, (label, values) in enumerate(series.items()):
        at = [place + (index - (len(series) - 1) / 2) * width for place in range(len(names))]
        bars = axes.bar(at, [value or 0.0 for value in values], width, label=label)
        texts = ["" if value is None else f"{value:.2f}" for value in values]
        axes.bar_label(bars, texts, fontsize=7, rotation=90, padding=3)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.margins(y=0.3)
    axes.legend(loc="upper right", ncols=len(series), fontsize=8)


def _histogram(axes: Axes, total: Figures) -> None:
    axes.set(title="committed tokens per round", xlabel="tokens", ylabel="share of rounds")
    counts = total.drafting.histogram
    if counts is None:
        _unknown(axes)
        return
    whole = sum(counts) or 1
    axes.bar(range(len(counts)), [count / whole for count in counts])
    axes.set_xticks(range(len(counts)))


def _slots(axes: Axes, total: Figures) -> None:
    axes.set(title="acceptance by slot", xlabel="slot", ylabel="share", ylim=(0, 1))
    told = total.drafting.slots
    if not told:
        _unknown(axes)
        return
    judged = [(one.slot, one.conditional) for one in told if one.conditional is not None]
    axes.plot([one.slot for one in told], [one.share for one in told], "o-", label="of all rounds")
    if judged:
        axes.plot(*zip(*judged, strict=True), "s--", label="given those before")
    axes.set_xticks([one.slot for one in told])
    axes.legend(fontsize=8)


def _unknown(axes: Axes) -> None:
    axes.text(0.5, 0.5, "not known", ha="center", va="center", transform=axes.transAxes)
    axes.set(xticks=[], yticks=[])


def _milliseconds(speed: Speed | None) -> float | None:
    seconds = speed.time_per_output_token if speed else None
    return None if seconds is None else 1000 * seconds
