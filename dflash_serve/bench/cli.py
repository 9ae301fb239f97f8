"""``dflash-bench``: options -> one measurement -> tables and files.

Heavy imports wait for the command.
"""

import os
import sys
from collections.abc import Callable
from types import ModuleType

import typer
from pydantic import ValidationError

from dflash_serve import console
from dflash_serve.bench import options
from dflash_serve.bench.errors import BenchError
from dflash_serve.measure.errors import DataError
from dflash_serve.measure.results import Result
from dflash_serve.training.commands.options import S, command
from dflash_serve.training.settings import fault

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
    """A setting that cannot be is refused like other bad input."""
    try:
        return job()
    except ValidationError as error:
        raise BenchError(fault(error)) from error


def _command(name: str, model: type[S]) -> Callable[[Callable[[S], int | None]], None]:
    """Register work on options as a command, whose help is the options' own."""

    def add(work: Callable[[S], int | None]) -> None:
        work.__doc__ = model.__doc__
        app.command(name)(command(model, _guarded)(work))

    return add


def _finish(result: Result, report: ModuleType, given: options.Measured) -> int:
    """Show the tables, write the files; 1 if a check failed."""
    from dflash_serve.bench.report import Destination, show, write

    show(*report.tables(result))
    path = write(result, Destination(given.out, given.save), lambda: report.plot(result))
    if path is not None:
        print(f"written to {path}")
    for failure in result.failures:
        print(f"dflash-bench: FAILED: {failure}", file=sys.stderr)
    return 1 if result.failures else 0


@_command("decode", options.DecodeOptions)
def _decode(given: options.DecodeOptions) -> int:
    from dflash_serve.bench import decode_report
    from dflash_serve.bench.decode import run_decode

    return _finish(run_decode(given), decode_report, given)


@_command("exact", options.ExactOptions)
def _exact(given: options.ExactOptions) -> int:
    from dflash_serve.bench import exact_report
    from dflash_serve.bench.exact import run_exact

    return _finish(run_exact(given), exact_report, given)


@_command("serve", options.ServeOptions)
def _serve(given: options.ServeOptions) -> int:
    from dflash_serve.bench import serve_report
    from dflash_serve.bench.serve import run_serve

    return _finish(run_serve(given), serve_report, given)


@_command("kernels", options.KernelsOptions)
def _kernels(given: options.KernelsOptions) -> int:
    from dflash_serve.bench import kernels_report
    from dflash_serve.bench.kernels import run_kernels

    return _finish(run_kernels(given), kernels_report, given)


@_command("matmul", options.MatmulOptions)
def _matmul(given: options.MatmulOptions) -> int:
    from dflash_serve.bench import matmul_report
    from dflash_serve.bench.matmul import run_matmul

    return _finish(run_matmul(given), matmul_report, given)


@_command("processing", options.ProcessingOptions)
def _processing(given: options.ProcessingOptions) -> int:
    from dflash_serve.bench import processing_report
    from dflash_serve.bench.processing import run_processing

    return _finish(run_processing(given), processing_report, given)


@_command("caches", options.CachesOptions)
def _caches(given: options.CachesOptions) -> int:
    from dflash_serve.bench import caches_report
    from dflash_serve.bench.caches import run_caches

    return _finish(run_caches(given), caches_report, given)


@_command("start", options.StartOptions)
def _start(given: options.StartOptions) -> int:
    from dflash_serve.bench import startup_report
    from dflash_serve.bench.startup import run_startup

    return _finish(run_startup(given), startup_report, given)


@_command("stops", options.StopsOptions)
def _stops(given: options.StopsOptions) -> int:
    from dflash_serve.bench import stops_report
    from dflash_serve.bench.stops import run_stops

    return _finish(run_stops(given), stops_report, given)


@_command("stalls", options.StallsOptions)
def _stalls(given: options.StallsOptions) -> int:
    from dflash_serve.bench import stalls_report
    from dflash_serve.bench.stalls import run_stalls

    return _finish(run_stalls(given), stalls_report, given)


@_command("http", options.HttpOptions)
def _http(given: options.HttpOptions) -> int:
    from dflash_serve.bench import httpcost_report
    from dflash_serve.bench.httpcost import run_http

    return _finish(run_http(given), httpcost_report, given)


@_command("graph", options.GraphOptions)
def _graph(given: options.GraphOptions) -> int:
    from dflash_serve.bench import graph_report
    from dflash_serve.bench.graph import run_graph

    return _finish(run_graph(given), graph_report, given)


@_command("quantised", options.QuantisedOptions)
def _quantised(given: options.QuantisedOptions) -> int:
    from dflash_serve.bench import quantised_report
    from dflash_serve.bench.quantised import run_quantised

    return _finish(run_quantised(given), quantised_report, given)


@_command("sweep", options.SweepOptions)
def _sweep(given: options.SweepOptions) -> int:
    from dflash_serve.bench import sweep_report
    from dflash_serve.bench.sweep import run_sweep

    return _finish(run_sweep(given), sweep_report, given)


@_command("policy", options.PolicyOptions)
def _policy(given: options.PolicyOptions) -> int:
    from dflash_serve.bench import policy_report
    from dflash_serve.bench.policy import run_policy

    return _finish(run_policy(given), policy_report, given)


@_command("training-memory", options.TrainingMemoryOptions)
def _training_memory(given: options.TrainingMemoryOptions) -> int:
    from dflash_serve.bench import training_memory_report
    from dflash_serve.bench.training_memory import run_training_memory

    return _finish(run_training_memory(given), training_memory_report, given)


@_command("training-step", options.TrainingStepOptions)
def _training_step(given: options.TrainingStepOptions) -> int:
    from dflash_serve.bench import training_step_report
    from dflash_serve.bench.training_step import run_training_step

    return _finish(run_training_step(given), training_step_report, given)


@_command("record", options.RecordOptions)
def _record(given: options.RecordOptions) -> int:
    from dflash_serve.bench.policy_record import run_record

    run_record(given)
    print(f"written to {given.path}")
    return 0


if __name__ == "__main__":
    main()
