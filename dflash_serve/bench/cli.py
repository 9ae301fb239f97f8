"""``dflash-bench``: options -> one measurement -> tables and files.

Heavy imports wait for the command.
"""

import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import typer

from dflash_serve import console
from dflash_serve.bench import options
from dflash_serve.bench.errors import BenchError, refusals
from dflash_serve.measure.errors import DataError
from dflash_serve.measure.results import Result
from dflash_serve.training.commands.options import S, command

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Measure speculative decoding, training, the HTTP server and the kernels.",
)


def main() -> None:
    """Console entry point. Bad input is one line on stderr and exit code 2; a failed check 1."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # "PyTorch was not found"
    console.run(app, "dflash-bench", (BenchError, DataError))


def _guarded(job: Callable[[], int | None]) -> int | None:
    with refusals():
        return job()


def _command(name: str, model: type[S]) -> Callable[[Callable[[S], int | None]], None]:
    """Register work on options as a command, whose help is the options' own."""

    def add(work: Callable[[S], int | None]) -> None:
        work.__doc__ = model.__doc__
        app.command(name)(command(model, _guarded)(work))

    return add


def _measurement(name: str, module: str, model: type[options.Measured]) -> None:
    """Register a module of this room, which measures (``run``) and shows (``tables``, ``plot``)."""

    @_command(name, model)
    def work(given: options.Measured) -> int:
        from dflash_serve.bench.report import make_room

        measurement: Any = import_module(f"dflash_serve.bench.{module}")
        if given.out is not None:
            make_room(given.out)
        result: Result = measurement.run(given)
        return _finish(result, measurement, given)


def _finish(result: Result, measurement: Any, given: options.Measured) -> int:
    """Show the tables, write the files; 1 if a check failed."""
    from dflash_serve.bench.report import Destination, show, write

    show(*measurement.tables(result))
    path = write(result, Destination(given.out, given.save), lambda: measurement.plot(result))
    if path is not None:
        print(f"written to {path}")
    for failure in result.failures:
        print(f"dflash-bench: FAILED: {failure}", file=sys.stderr)
    return 1 if result.failures else 0


_measurement("decode", "decode", options.DecodeOptions)
_measurement("exact", "exact", options.ExactOptions)
_measurement("serve", "serve", options.ServeOptions)
_measurement("kernels", "kernels", options.KernelsOptions)
_measurement("matmul", "matmul", options.MatmulOptions)
_measurement("processing", "processing", options.ProcessingOptions)
_measurement("caches", "caches", options.CachesOptions)
_measurement("start", "startup", options.StartOptions)
_measurement("stops", "stops", options.StopsOptions)
_measurement("stalls", "stalls", options.StallsOptions)
_measurement("http", "httpcost", options.HttpOptions)
_measurement("graph", "graph", options.GraphOptions)
_measurement("quantised", "quantised", options.QuantisedOptions)
_measurement("sweep", "sweep", options.SweepOptions)
_measurement("policy", "policy", options.PolicyOptions)
_measurement("training-memory", "training_memory", options.TrainingMemoryOptions)
_measurement("training-step", "training_step", options.TrainingStepOptions)


@_command("record", options.RecordOptions)
def _record(given: options.RecordOptions) -> int:
    from dflash_serve.bench.policy_record import run_record

    run_record(given)
    print(f"written to {given.path}")
    return 0


if __name__ == "__main__":
    main()
