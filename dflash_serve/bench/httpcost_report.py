"""Table and plot of `dflash-bench http`."""

from matplotlib.figure import Figure
from rich.table import Table

from dflash_serve.bench.report import table
from dflash_serve.measure.results import Result

_FIRST = {
    "in_process": "first text, in process",
    "over_http": "first text, over HTTP",
    "later_over_http": "later over HTTP",
    "first_byte": "first byte, over HTTP",
}
_CHUNK = {
    "http_json_text_ms": "HTTP, JSON and text",
    "engine_alone_ms": "the scripted engine alone",
    "thread_ms": "the event loop's thread",
    "process_ms": "the whole process",
}


def tables(result: Result) -> list[Table]:
    first, chunk = result.measured["first_text"], result.measured["per_chunk"]
    rows = [
        (name, 1e3 * first[key]["median"], 1e3 * first[key]["p95"]) for key, name in _FIRST.items()
    ]
    costs = [(name, chunk[key]) for key, name in _CHUNK.items()]
    return [
        table("Milliseconds on a kept-alive connection", ("until", "median", "p95"), rows),
        table("CPU milliseconds per streamed chunk", ("of", "median"), costs),
    ]


def plot(result: Result) -> Figure:
    """The cost of a chunk, part by part."""
    chunk = result.measured["per_chunk"]
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    axes.barh(list(_CHUNK.values()), [chunk[key] for key in _CHUNK])
    axes.set(title="What a streamed chunk costs", xlabel="CPU milliseconds")
    axes.invert_yaxis()
    return figure
