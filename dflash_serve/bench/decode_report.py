"""Tables and plot of `dflash-bench decode`, made from its JSON values alone."""

from collections.abc import Callable, Mapping
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from dflash_serve.bench.report import percent, table, table_of, times
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
    return table_of(
        "Speed",
        _named(batches, lambda arm: True),
        (
            ("", "row"),
            ("tok/s, prompts included", "end_to_end.tokens_per_second"),
            ("speedup", times("speedup_end_to_end")),
            ("repeats", lambda arm: _span(arm["end_to_end"]["speedup_per_repeat"])),
            ("decode ms/token", lambda arm: 1e3 * arm["decode"]["time_per_output_token"]),
            ("speedup", times("speedup_decode")),
            ("repeats", lambda arm: _span(arm["decode"]["speedup_per_repeat"])),
            ("outside MLX", percent("outside_mlx_fraction")),
            ("different", "different_answers"),
        ),
    )


def _acceptance(batches: list[dict[str, Any]]) -> Table:
    return table_of(
        "Acceptance",
        _named(batches, lambda arm: arm["block"] > 1),
        (
            ("", "row"),
            ("tokens/round", "tokens_per_round"),
            ("pooled", "tokens_per_round_pooled"),
            ("accepted/proposed", percent("accepted_per_proposed")),
            ("accepted/generated", percent("accepted_per_generated")),
            ("above 3", percent("share_above_3")),
            ("above 5", percent("share_above_5")),
            ("rounds", "rounds"),
        ),
    )


def _named(
    batches: list[dict[str, Any]], wanted: Callable[[dict[str, Any]], bool]
) -> list[dict[str, Any]]:
    """The arms that are wanted, called by their batch size too."""
    return [
        arm | {"row": f"batch {batch['batch']}, {arm['name']}"}
        for batch in batches
        for arm in batch["arms"]
        if wanted(arm)
    ]


def _kinds(batch: Mapping[str, Any]) -> Table:
    arms = [arm for arm in batch["arms"] if arm["block"] > 1 and arm["kinds_of_round"] == [0]]
    rows = []
    for kind in arms[0]["kinds"]:
        cells: list[object] = [kind]
        for arm in arms:
            found = arm["kinds"][kind]
            cells += [found["tokens_per_round"], found["tokens_per_round_pooled"]]
            cells.append(times("speedup_decode")(found))
        rows.append(cells)
    columns = ["kind"]
    for arm in arms:
        columns += [f"{arm['name']}: tokens/round", "pooled", "decode speedup"]
    return table(f"By kind, batch {batch['batch']}", columns, rows)


def _costs(batches: list[dict[str, Any]]) -> Table:
    return table_of(
        "Step costs",
        (costs for batch in batches for costs in batch["step_costs"]),
        (
            (
                "rows x block at length",
                lambda one: f"{one['rows']} x {one['block']} at {one['length']}",
            ),
            ("plain ms", "plain_ms"),
            ("verify ms", "verify_ms"),
            ("draft ms", "draft_ms"),
            ("round ms", "round_ms"),
            ("break-even", "break_even_tokens_per_round"),
            ("bound", times("speedup_bound")),
            ("achieved", percent("achieved_of_bound")),
        ),
    )


def _span(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{min(known):.2f}-{max(known):.2f}" if known else "-"
