"""``dflash-bench``: arguments -> options -> one measurement. Heavy imports wait for the command."""

import os
from typing import Annotated

import typer

from dflash_serve import console
from dflash_serve.bench import cli_policy
from dflash_serve.bench.cli_options import (
    Drafter,
    DraftLayers,
    Out,
    PromptFile,
    RandomTarget,
    Save,
    SecondDrafter,
    Seed,
    Target,
    choice,
    finish,
    numbers,
)
from dflash_serve.bench.errors import BenchError
from dflash_serve.measure.errors import DataError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Measure speculative decoding, the HTTP server and the kernels.",
)


for command in (cli_policy.sweep, cli_policy.policy, cli_policy.record):
    app.command()(command)


def main() -> None:
    """Console entry point. Bad input is one line on stderr and exit code 2; a failed check 1."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # "PyTorch was not found"
    console.run(app, "dflash-bench", (BenchError, DataError))


@app.command()
def decode(
    *,
    target: Target = None,
    drafter: Drafter = "auto",
    random_target: RandomTarget = None,
    draft_layers: DraftLayers = 0,
    prompt_file: PromptFile = None,
    prompts: Annotated[int, typer.Option(min=0, help="Requests per run; 0 picks.")] = 0,
    prompt_length: Annotated[int, typer.Option(min=2, help="Of random prompts.")] = 64,
    batch: Annotated[str, typer.Option(help="Rows that decode together, like 1,3,8.")] = "1,3,8",
    block_size: Annotated[
        str, typer.Option(help="Tokens verified per round, like 8,16; auto is as trained.")
    ] = "auto",
    tree: Annotated[
        str, typer.Option(help="Trees of so many nodes beside chains, like 8,16; or off.")
    ] = "off",
    second_drafter: SecondDrafter = "none",
    max_tokens: Annotated[int, typer.Option(min=2, help="Per request.")] = 128,
    repeats: Annotated[int, typer.Option(min=1)] = 3,
    temperature: Annotated[float, typer.Option(min=0.0)] = 0.0,
    seed: Seed = 0,
    baseline: Annotated[
        list[str] | None,
        typer.Option(help="mlx-lm's stream_generate: as-installed, float32, float32-blas."),
    ] = None,
    simulate_acceptance: Annotated[
        float | None, typer.Option(help="Real drafter compute, drafts right with this probability.")
    ] = None,
    tau: Annotated[
        float | None, typer.Option(help="Like --simulate-acceptance, as tokens per round.")
    ] = None,
    out: Out = None,
    save: Save = False,
) -> int:
    """Speculative against plain decoding in one process, in turns; checks that tokens are equal."""
    from dflash_serve.bench import decode_report
    from dflash_serve.bench.decode import run_decode
    from dflash_serve.bench.work import DecodeOptions

    blocks = () if block_size == "auto" else numbers("--block-size", block_size, least=2)
    simulated = simulate_acceptance is not None or tau is not None
    options = DecodeOptions(
        pair=choice(target, drafter, random_target, draft_layers, blocks, seed),
        prompt_file=prompt_file,
        prompts=prompts,
        prompt_length=prompt_length,
        batches=numbers("--batch", batch),
        block_sizes=blocks or ((8,) if simulated else ()),
        max_tokens=max_tokens,
        repeats=repeats,
        temperature=temperature,
        seed=seed,
        baselines=tuple(baseline or ()),
        acceptance=simulate_acceptance,
        tau=tau,
        trees=() if tree == "off" else numbers("--tree", tree, least=2),
        second_drafter=second_drafter,
    )
    result = run_decode(options)
    return finish(result, decode_report, out, save)


@app.command()
def exact(
    *,
    target: Target = None,
    drafter: Drafter = "auto",
    random_target: RandomTarget = None,
    draft_layers: DraftLayers = 0,
    prompt_file: PromptFile = None,
    prompts: Annotated[int, typer.Option(min=1, help="Requests per combination.")] = 200,
    batch: Annotated[str, typer.Option(help="Batch sizes.")] = "1,3,8",
    block_size: Annotated[str, typer.Option(help="Block sizes.")] = "2,8,16",
    prompt_length: Annotated[int, typer.Option(min=2, help="Of random prompts.")] = 48,
    max_tokens: Annotated[int, typer.Option(min=2, help="Per request.")] = 64,
    cancel: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of requests.")] = 0.15,
    tree: Annotated[int, typer.Option(min=0, max=64, help="Nodes of trees; 0: chains.")] = 0,
    second_drafter: SecondDrafter = "none",
    seed: Seed = 0,
    out: Out = None,
    save: Save = False,
) -> int:
    """Compare tokens with plain decoding: greedy and sampled rows, late joins, cancels."""
    from dflash_serve.bench import exact_report
    from dflash_serve.bench.exact import ExactOptions, run_exact

    blocks = numbers("--block-size", block_size, least=2)
    options = ExactOptions(
        pair=choice(target, drafter, random_target, draft_layers, blocks, seed),
        prompt_file=prompt_file,
        prompts=prompts,
        batches=numbers("--batch", batch),
        block_sizes=blocks,
        prompt_length=prompt_length,
        max_tokens=max_tokens,
        cancel=cancel,
        seed=seed,
        tree=tree,
        second_drafter=second_drafter,
    )
    return finish(run_exact(options), exact_report, out, save)


@app.command()
def serve(
    *,
    base_url: Annotated[str | None, typer.Option(help="Any OpenAI server, ending in /v1.")] = None,
    model: Annotated[str | None, typer.Option(help="Without it, the server's first.")] = None,
    api_key: Annotated[str | None, typer.Option(envvar="DFLASH_BENCH_API_KEY")] = None,
    meta_info: Annotated[
        bool, typer.Option("--meta-info", help="Ask --base-url for drafting figures.")
    ] = False,
    spawn: Annotated[
        list[str] | None,
        typer.Option(help="Start and measure: dflash, dflash-plain, mlx-lm, mlx-lm-blas."),
    ] = None,
    target: Target = None,
    drafter: Annotated[str, typer.Option(help="As dflash-serve takes it.")] = "auto",
    server_option: Annotated[
        list[str] | None, typer.Option(help="Added to our server's command; like --max-batch=4.")
    ] = None,
    clients: Annotated[str, typer.Option(help="Numbers of clients, like 1,4,8.")] = "1,4,8",
    requests: Annotated[int, typer.Option(min=1, help="Per run.")] = 32,
    warmup: Annotated[int, typer.Option(min=0, help="Untimed requests per client.")] = 8,
    max_tokens: Annotated[int, typer.Option(min=1, help="Per request.")] = 128,
    repeats: Annotated[int, typer.Option(min=1)] = 3,
    prompt_file: PromptFile = None,
    seed: Seed = 0,
    out: Out = None,
    save: Save = False,
) -> int:
    """Closed-loop HTTP load: tokens per second, time to first token, latency; rivals in turns."""
    from dflash_serve.bench import serve_report
    from dflash_serve.bench.serve import ServeOptions, run_serve

    options = ServeOptions(
        base_url=base_url,
        model=model,
        api_key=api_key,
        meta_info=meta_info,
        spawn=tuple(dict.fromkeys(spawn or ())),
        target=target,
        drafter=drafter,
        server_options=tuple(server_option or ()),
        clients=numbers("--clients", clients),
        requests=requests,
        warmup=warmup,
        max_tokens=max_tokens,
        repeats=repeats,
        prompt_file=prompt_file,
        seed=seed,
    )
    return finish(run_serve(options), serve_report, out, save)


@app.command()
def kernels(
    *,
    repeats: Annotated[
        int, typer.Option(min=3, help="Calls per shape, and library or form.")
    ] = 200,
    out: Out = None,
    save: Save = False,
) -> int:
    """The CPU matmul under MLX by shape, and the small kernels against their plain forms."""
    from dflash_serve.bench import kernels_report
    from dflash_serve.bench.kernels import run_kernels
    from dflash_serve.measure.results import Result

    result = Result("kernels", {"repeats": repeats}, run_kernels(repeats))
    return finish(result, kernels_report, out, save)


@app.command()
def matmul(
    *,
    turns: Annotated[int, typer.Option(min=1, help="Of each library, per product.")] = 5,
    threads: Annotated[str, typer.Option(help="Numbers of threads, like 1,2.")] = "1,2",
    out: Out = None,
    save: Save = False,
) -> int:
    """This package's float32 matmul against the OpenBLAS inside numpy, by shape and threads."""
    from dflash_serve.bench import matmul_report
    from dflash_serve.bench.matmul import MatmulOptions, run_matmul
    from dflash_serve.measure.results import Result

    options = MatmulOptions(turns, numbers("--threads", threads))
    result = Result("matmul", {"turns": turns, "threads": threads}, run_matmul(options))
    return finish(result, matmul_report, out, save)


@app.command()
def processing(
    *,
    vocab: Annotated[int, typer.Option(min=256, help="Of the random target.")] = 151_936,
    rows: Annotated[str, typer.Option(help="Rows that decode together, like 1,8.")] = "1,8",
    prompts: Annotated[int, typer.Option(min=1, help="JSON prompts of the demo pair.")] = 24,
    repeats: Annotated[int, typer.Option(min=1, help="Timed turns of each arm.")] = 9,
    seed: Seed = 0,
    out: Out = None,
    save: Save = False,
) -> int:
    """What bias, penalties, log-probabilities and grammars cost a round."""
    from dflash_serve.bench import processing_report
    from dflash_serve.bench.processing import ProcessingOptions, run_processing

    options = ProcessingOptions(
        vocab=vocab, rows=numbers("--rows", rows), repeats=repeats, prompts=prompts, seed=seed
    )
    return finish(run_processing(options), processing_report, out, save)


@app.command()
def caches(
    *,
    random_target: Annotated[str, typer.Option(help="For the times of rounds.")] = "qwen3-22m",
    long: Annotated[int, typer.Option(min=1, help="Tokens of the long row.")] = 16_384,
    short: Annotated[int, typer.Option(min=1, help="Tokens of those beside it.")] = 256,
    leave: Annotated[int, typer.Option(min=1, help="Tokens of rows of which one leaves.")] = 4096,
    rows: Annotated[int, typer.Option(min=2, help="Of a full round.")] = 8,
    block_size: Annotated[str, typer.Option(help="Block sizes.")] = "1,8",
    repeats: Annotated[int, typer.Option(min=1, help="Timed turns of each arm.")] = 25,
    schedules: Annotated[int, typer.Option(min=0, help="Random ones, over three kinds.")] = 2000,
    seed: Seed = 0,
    out: Out = None,
    save: Save = False,
) -> int:
    """Rows of very different length, leaves, and bytes in random schedules; 1 if one is missed."""
    from dflash_serve.bench import caches_report
    from dflash_serve.bench.caches import CachesOptions, run_caches

    options = CachesOptions(
        target=random_target,
        long=long,
        short=short,
        leave=leave,
        rows=rows,
        blocks=numbers("--block-size", block_size),
        repeats=repeats,
        schedules=schedules,
        seed=seed,
    )
    return finish(run_caches(options), caches_report, out, save)


@app.command()
def start(
    *,
    target: Target = None,
    drafter: Drafter = "auto",
    repeats: Annotated[int, typer.Option(min=1, help="Starts of the server.")] = 5,
    out: Out = None,
    save: Save = False,
) -> int:
    """How long --help and the first token of a fresh server take."""
    from dflash_serve.bench import startup_report
    from dflash_serve.bench.startup import run_startup

    return finish(run_startup(target, drafter, repeats), startup_report, out, save)


@app.command()
def stops(
    *,
    target: Target = None,
    drafter: Drafter = "auto",
    stops: Annotated[int, typer.Option(min=1, help="Servers to start and stop.")] = 60,
    clients: Annotated[int, typer.Option(min=1, help="That send mixed requests.")] = 12,
    drain_timeout: Annotated[float, typer.Option(min=0.0, help="Of the servers.")] = 1.0,
    shortest: Annotated[float, typer.Option(min=0.0, help="Seconds of load before it.")] = 0.0,
    longest: Annotated[float, typer.Option(min=0.0, help="Seconds of load before it.")] = 4.0,
    seed: Seed = 0,
    out: Out = None,
    save: Save = False,
) -> int:
    """SIGTERM at a random moment under load: exit codes, seconds to exit; 1 unless all are 0."""
    from dflash_serve.bench import stops_report
    from dflash_serve.bench.stops import StopsOptions, run_stops

    options = StopsOptions(
        target=target,
        drafter=drafter,
        stops=stops,
        clients=clients,
        drain_timeout=drain_timeout,
        shortest=shortest,
        longest=longest,
        seed=seed,
    )
    return finish(run_stops(options), stops_report, out, save)


@app.command()
def stalls(
    *,
    target: Target = None,
    drafter: Drafter = "auto",
    streams: Annotated[int, typer.Option(min=1, help="That run beside it.")] = 8,
    body_bytes: Annotated[int, typer.Option(min=4096, help="Of each body.")] = 8 * 2**20,
    repeats: Annotated[int, typer.Option(min=0, help="Of each body; 0 sends none.")] = 3,
    swaps: Annotated[int, typer.Option(min=0, help="Of the drafter.")] = 3,
    prompt: Annotated[int, typer.Option(min=0, help="Tokens of the long one; 0: none.")] = 30_000,
    quiet: Annotated[float, typer.Option(min=0.1, help="Least seconds to compare with.")] = 0.5,
    seed: Seed = 0,
    out: Out = None,
    save: Save = False,
) -> int:
    """What holds streams up: the largest bodies, swaps, a short prompt behind a long one."""
    from dflash_serve.bench import stalls_report
    from dflash_serve.bench.stalls import StallsOptions, run_stalls

    options = StallsOptions(
        target=target,
        drafter=drafter,
        streams=streams,
        body_bytes=body_bytes,
        repeats=repeats,
        swaps=swaps,
        prompt=prompt,
        quiet=quiet,
        seed=seed,
    )
    return finish(run_stalls(options), stalls_report, out, save)


@app.command()
def http(
    *,
    target: Target = None,
    drafter: Drafter = "auto",
    prompts: Annotated[int, typer.Option(min=2, help="Timed both ways.")] = 60,
    streams: Annotated[int, typer.Option(min=1, help="Read at once.")] = 8,
    chunks: Annotated[int, typer.Option(min=1, help="Of each stream.")] = 200,
    tokens: Annotated[int, typer.Option(min=1, help="Of each chunk.")] = 4,
    pace: Annotated[float, typer.Option(min=0.0, help="Seconds between chunks.")] = 0.02,
    repeats: Annotated[int, typer.Option(min=1)] = 3,
    seed: Seed = 0,
    out: Out = None,
    save: Save = False,
) -> int:
    """What HTTP adds: to the first text of a stream, and in CPU time per streamed chunk."""
    from dflash_serve.bench import httpcost_report
    from dflash_serve.bench.httpcost import HttpOptions, run_http

    options = HttpOptions(
        target=target,
        drafter=drafter,
        prompts=prompts,
        streams=streams,
        chunks=chunks,
        tokens=tokens,
        pace=pace,
        repeats=repeats,
        seed=seed,
    )
    return finish(run_http(options), httpcost_report, out, save)


@app.command()
def graph(
    *,
    shape: Annotated[
        str, typer.Option(help="A published pair: qwen3-8b, llama-3.1-8b or gemma-3-12b.")
    ] = "qwen3-8b",
    rows: Annotated[str, typer.Option(help="Rows that decode together, like 1,8.")] = "1,8",
    block_size: Annotated[str, typer.Option(help="Blocks beside plain decoding.")] = "4,8,16",
    context: Annotated[int, typer.Option(min=1, help="Tokens that each row holds.")] = 1024,
    bits: Annotated[int, typer.Option(help="Of the target's weights; 16: bfloat16.")] = 4,
    drafter_bits: Annotated[int, typer.Option(help="Of the drafter's weights.")] = 16,
    tau: Annotated[
        float | None, typer.Option(help="Tokens per round of the drafter's own block.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Timed turns of the host's part.")] = 15,
    out: Out = None,
    save: Save = False,
) -> int:
    """What a round launches, reads and computes on a GPU, and what to expect of machines."""
    from dflash_serve.bench import graph_report
    from dflash_serve.bench.graph import GraphOptions, run_graph
    from dflash_serve.bench.graph_rounds import Bits

    options = GraphOptions(
        shape=shape,
        rows=numbers("--rows", rows),
        blocks=numbers("--block-size", block_size, least=2),
        context=context,
        bits=Bits(bits, drafter_bits),
        tau=tau,
        repeats=repeats,
    )
    return finish(run_graph(options), graph_report, out, save)


@app.command()
def quantised(
    *,
    random_target: Annotated[str, typer.Option(help="A name or config.json.")] = "qwen3-100m",
    bits: Annotated[int, typer.Option(help="Of its matrices.")] = 4,
    group: Annotated[int, typer.Option(help="Weights that share a scale.")] = 64,
    tau: Annotated[float, typer.Option(help="Simulated tokens per round.")] = 5.0,
    block_size: Annotated[int, typer.Option(min=2, help="Tokens verified per round.")] = 8,
    batch: Annotated[int, typer.Option(min=1, help="Rows that decode together.")] = 1,
    max_tokens: Annotated[int, typer.Option(min=2, help="Per request.")] = 64,
    repeats: Annotated[int, typer.Option(min=1)] = 3,
    seed: Seed = 0,
    out: Out = None,
    save: Save = False,
) -> int:
    """Quantised weights on a CPU: as stored, by own products, expanded; checks equal tokens."""
    from dflash_serve.bench import quantised_report
    from dflash_serve.bench.quantised import QuantisedOptions, run_quantised

    options = QuantisedOptions(
        random_target, bits, group, tau, block_size, batch, max_tokens, repeats, seed
    )
    return finish(run_quantised(options), quantised_report, out, save)


if __name__ == "__main__":
    main()
