"""An evaluation's figures as tables and as a plot. Knows nothing of how they were measured."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from dflash_serve.measure.intervals import LEVEL
from dflash_serve.training.evaluate.figures import Figures

TOTAL = "total"

_DRAFTING = (
    "responses",
    "tokens/round",
    f"{LEVEL:.0%}",
    "pooled",
    "published",
    "above 3",
    "above 5",
    "acc/generated",
    "acc/proposed",
)
_SPEED = ("tokens/s", "end to end", "decode", "plain ms", "spec. ms", "differing")


def drafting_table(sets: Mapping[str, Figures], total: Figures) -> Table:
    """Acceptance, one row per data set and one for all responses together."""
    caption = (
        f"tokens/round: mean over responses of their means, z-lab's tau; {LEVEL:.0%}: its interval "
        "(bootstrap over conversations); pooled: all tokens / all rounds; published: z-lab's tau "
        "for the same target; above: share of responses"
    )
    rows = {name: _drafting_cells(one) for name, one in {**sets, TOTAL: total}.items()}
    return _table("drafting", caption, _DRAFTING, rows)


def speed_table(sets: Mapping[str, Figures], total: Figures) -> Table:
    """Time per token both ways and the speedups."""
    caption = (
        "end to end: ratio of tokens per wall second, prompts included; ms: per token after the "
        "first; decode: their ratio; differing: from plain decoding's text"
    )
    rows = {name: _speed_cells(one) for name, one in {**sets, TOTAL: total}.items()}
    return _table("speedup over plain decoding", caption, _SPEED, rows)


def slot_table(total: Figures) -> Table | None:
    """Acceptance by slot over all responses; None where it is unknown."""
    if not total.drafting.slots:
        return None
    made = Table(title="acceptance by slot", title_justify="left")
    made.add_column("slot", justify="left")
    for one in total.drafting.slots:
        made.add_column(str(one.slot), justify="right")
    made.add_row("of all rounds", *(_number(one.share) for one in total.drafting.slots))
    made.add_row("given those before", *(_number(one.conditional) for one in total.drafting.slots))
    return made


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


def _table(
    title: str, caption: str, columns: Sequence[str], rows: Mapping[str, Sequence[str]]
) -> Table:
    made = Table(
        title=title, title_justify="left", caption=caption, caption_justify="left", padding=(0, 1)
    )
    made.add_column("data set", no_wrap=True)
    for column in columns:
        made.add_column(column, justify="right", no_wrap=True)
    for name, cells in rows.items():
        if name == TOTAL:
            made.add_section()
        made.add_row(name, *cells)
    return made


def _drafting_cells(one: Figures) -> list[str]:
    drafting = one.drafting
    return [
        str(one.responses),
        _number(drafting.tokens_per_round),
        str(drafting.tokens_per_round_interval or "-"),
        _number(drafting.tokens_per_round_pooled),
        _number(drafting.published),
        _number(drafting.share_above_3),
        _number(drafting.share_above_5),
        _number(drafting.accepted_per_generated),
        _number(drafting.accepted_per_proposed),
    ]


def _speed_cells(one: Figures) -> list[str]:
    return [
        _number(one.speculative.tokens_per_second, 1),
        _number(one.speedup_end_to_end),
        _number(one.speedup_decode),
        _milliseconds(one.plain.time_per_output_token if one.plain else None),
        _milliseconds(one.speculative.time_per_output_token),
        f"{one.differing} of {one.compared}" if one.compared else "-",
    ]


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


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.2f}"
