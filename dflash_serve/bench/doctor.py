"""``dflash-doctor``: what this machine is, whether a pair fits, what rounds cost, what diverges.

Arguments and tables; `examine` does the looking. Heavy imports wait for the command.
"""

import json
import os
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from dflash_serve import console
from dflash_serve.bench.errors import BenchError, refusals

_STOCK_GFLOPS = 2.5
"""What the matmul in MLX's Linux wheel reaches (one thread, float32), on any size."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def main() -> None:
    """Console entry point. A pair that cannot be used is one line on stderr and exit code 2."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # "PyTorch was not found"
    console.run(app, "dflash-doctor", (BenchError,))


@app.command()
def doctor(
    *,
    target: Annotated[
        str | None, typer.Option(help="Directory or hub id; without it, the demo pair.")
    ] = None,
    drafter: Annotated[
        str, typer.Option(help="auto, none, random (weights), a directory or hub id.")
    ] = "auto",
    random_target: Annotated[
        str | None, typer.Option(help="Random weights: qwen3-100m, qwen3-tiny or a config.json.")
    ] = None,
    cpu_weights: Annotated[
        str, typer.Option(help="As dflash-serve takes it: auto, float32 or stored.")
    ] = "auto",
    prompts: Annotated[int, typer.Option(min=1, help="For the divergence check.")] = 8,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> int:
    """Examine this machine, MLX on it, and a target with its drafter."""
    # the whole room of bench imports MLX; --help must not
    from dflash_serve.bench.examine import examine_machine, examine_pair  # noqa: PLC0415
    from dflash_serve.bench.pair import PairChoice, load_pair  # noqa: PLC0415

    if random_target is not None and (target is not None or drafter != "auto"):
        raise BenchError("--random-target excludes --target and --drafter")
    machine = examine_machine()
    if not as_json:
        _show_machine(machine)
    choice = PairChoice(target, drafter, random_target, cpu_weights=cpu_weights)
    with refusals():
        pair = examine_pair(load_pair(choice), choice, prompts)
    if as_json:
        print(json.dumps(machine | {"pair": pair}, indent=1))
    else:
        _show_pair(pair)
    different = pair.get("divergence", {}).get("different_tokens", 0)
    return 1 if different and machine["exact_path"] else 0


def _show_machine(found: Mapping[str, Any]) -> None:
    from dflash_serve.bench.report import cell, show  # noqa: PLC0415
    from dflash_serve.measure.tables import facts  # noqa: PLC0415

    machine, backend, blas = found["machine"], found["backend"], found["blas"]
    speed = f"{blas['matmul_gflops']:.0f} GFLOP/s"
    if backend["device"].startswith("cpu") and machine["os"].startswith("Linux"):
        speed += f" (the wheel's own matmul: about {_STOCK_GFLOPS})"
    compiler = found["compiler"] or "missing: mx.compile falls back silently, rounds run slower"
    rows = [
        ("machine", f"{machine['cpu']}, {machine['cores']} cores"),
        ("memory", f"{machine['memory_bytes'] / 2**30:.1f} GiB"),
        ("system", machine["os"]),
        *((name, version) for name, version in found["versions"].items()),
        ("device", f"{backend['device']}, kernels: {backend['kernels']}"),
        ("matmul", f"{blas['state']}: {blas['reason']}"),
        ("", f"{blas['isa'] or 'unknown'} x {blas['threads'] or 1} threads, {speed}"),
        ("g++", compiler),
        ("bit-exact path", "yes" if found["exact_path"] else "no: near-ties may differ"),
    ]
    show(facts("This machine", rows, shown=cell))


def _show_pair(pair: Mapping[str, Any]) -> None:
    from dflash_serve.bench.report import cell, show, table_of  # noqa: PLC0415
    from dflash_serve.measure.tables import facts  # noqa: PLC0415

    rows = [(name.replace("_", " "), value) for name, value in pair.items() if _plain(value)]
    tables = [facts(f"Pair {pair['name']}: fits", rows, shown=cell)]
    if "round_costs" in pair:
        for title, entries in (
            ("Round costs", pair["round_costs"]),
            ("Cost table of the block policy", pair["cost_table"]),
            ("Divergence from plain decoding", [pair["divergence"]]),
        ):
            tables.append(table_of(title, entries, list(entries[0])))
    show(*tables)


def _plain(value: Any) -> bool:
    return not isinstance(value, dict | list) or all(isinstance(v, int) for v in value)


if __name__ == "__main__":
    main()
