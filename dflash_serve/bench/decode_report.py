"""Tables and plot of `dflash-bench decode`, made from its JSON values alone."""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from dflash_serve.bench.report import table
from dflash_serve.measure.results import Result


def tables(result: Result) -> list[Table]:
    """Speeds, acceptance, kinds and step costs."""
    batches = result.measured["batches"]
    made = [_speeds(batches), _acceptance(batches)]
    made += [_kinds(batch) for batch in batches[:1]]
    made.append(_costs(batches))
    return made


def plot(result: Result) -> Figure:
    """Speedup over plain by batch size, and the histogram of committed tokens per round."""
    batches = result.measured["batches"]
    figure = Figure(figsize=(10, 4), layout="constrained")
    speed, rounds = figure.subplots(1, 2)
    for name in [arm["name"] for arm in batches[0]["arms"] if arm["block"]]:
        arms = [_arm(batch, name) for batch in batches]
        x = [batch["batch"] for batch in batches]
        speed.plot(x, [arm["speedup_end_to_end"] for arm in arms], "o-", label=name)
    speed.set(title="speedup, prompts included", xlabel="batch size", ylim=(0, None))
    speed.legend()
    for arm in batches[0]["arms"]:
        if arm["block"] > 1:
            counts = arm["histogram"]
            share = [count / max(1, sum(counts)) for count in counts]
            rounds.plot(range(len(share)), share, "o-", label=arm["name"])
    rounds.set(title="rounds by committed tokens", xlabel="tokens", ylabel="share")
    rounds.legend()
    return figure


def _arm(batch: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(arm for arm in batch["arms"] if arm["name"] == name)
    return found


def _speeds(batches: list[dict[str, Any]]) -> Table:
    rows = []
    for batch in batches:
        for arm in batch["arms"]:
            rows.append(
                (
                    f"batch {batch['batch']}, {arm['name']}",
                    arm["end_to_end"]["tokens_per_second"],
                    _times(arm["speedup_end_to_end"]),
                    _span(arm["end_to_end"]["speedup_per_repeat"]),
                    1e3 * arm["decode"]["time_per_output_token"],
                    _times(arm["speedup_decode"]),
                    _span(arm["decode"]["speedup_per_repeat"]),
                    _percent(arm.get("outside_mlx_fraction")),
                    arm["different_answers"],
                )
            )
    columns = (
        "",
        "tok/s, prompts included",
        "speedup",
        "repeats",
        "decode ms/token",
        "speedup",
        "repeats",
        "outside MLX",
        "different",
    )
    return table("Speed", columns, rows)


def _acceptance(batches: list[dict[str, Any]]) -> Table:
    rows = [
        (
            f"batch {batch['batch']}, {arm['name']}",
            arm["tokens_per_round"],
            arm["tokens_per_round_pooled"],
            _percent(arm["accepted_per_proposed"]),
            _percent(arm["accepted_per_generated"]),
            _percent(arm["share_above_3"]),
            _percent(arm["share_above_5"]),
            arm["rounds"],
        )
        for batch in batches
        for arm in batch["arms"]
        if arm["block"] > 1
    ]
    columns = (
        "",
        "tokens/round",
        "pooled",
        "accepted/proposed",
        "accepted/generated",
        "above 3",
        "above 5",
        "rounds",
    )
    return table("Acceptance", columns, rows)


def _kinds(batch: Mapping[str, Any]) -> Table:
    arms = [arm for arm in batch["arms"] if arm["block"] > 1 and arm["kinds_of_round"] == [0]]
    rows = []
    for kind in arms[0]["kinds"]:
        cells: list[object] = [kind]
        for arm in arms:
            found = arm["kinds"][kind]
            cells += [found["tokens_per_round"], found["tokens_per_round_pooled"]]
            cells.append(_times(found["speedup_decode"]))
        rows.append(cells)
    columns = ["kind"]
    for arm in arms:
        columns += [f"{arm['name']}: tokens/round", "pooled", "decode speedup"]
    return table(f"By kind, batch {batch['batch']}", columns, rows)


def _costs(batches: list[dict[str, Any]]) -> Table:
    rows = [
        (
            f"{costs['rows']} x {costs['block']} at {costs['length']}",
            costs["plain_ms"],
            costs["verify_ms"],
            costs["draft_ms"],
            costs["round_ms"],
            costs["break_even_tokens_per_round"],
            _times(costs["speedup_bound"]),
            _percent(costs["achieved_of_bound"]),
        )
        for batch in batches
        for costs in batch["step_costs"]
    ]
    columns = (
        "rows x block at length",
        "plain ms",
        "verify ms",
        "draft ms",
        "round ms",
        "break-even",
        "bound",
        "achieved",
    )
    return table("Step costs", columns, rows)


def _times(value: float | None) -> str | None:
    return None if value is None else f"{value:.2f}x"


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{100 * value:.1f} %"


def _span(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{min(known):.2f}-{max(known):.2f}" if known else "-"
