"""``dflash-serve``: arguments -> Settings -> the server. Heavy imports wait for the command."""

import os
import signal
from typing import Annotated, Any

import typer

from dflash_serve import console
from dflash_serve.compose.options import OptionsError, parse_block_size, parse_bytes
from dflash_serve.server import settings
from dflash_serve.server.settings import Settings
from dflash_serve.version import __version__

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)


def main() -> None:
    """Console entry point. A bad option is one line on stderr and exit code 2."""
    console.run(app, "dflash-serve", (OptionsError,))


def _version(wanted: bool) -> None:
    if wanted:
        print(f"dflash-serve {__version__}")
        raise typer.Exit


def _list_pairs(wanted: bool) -> None:
    if wanted:
        from dflash_serve.compose.listing import print_pairs

        print_pairs()
        raise typer.Exit


_D = Settings()


@app.command()
def serve(
    *,
    target: Annotated[
        str | None,
        typer.Option(help="Model: a directory or hub id. Without it, the embedded demo pair."),
    ] = None,
    drafter: Annotated[
        str, typer.Option(help="auto (look up the target's published one), none, directory or id.")
    ] = _D.drafter,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = _D.host,
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = _D.port,
    served_model_name: Annotated[
        str | None, typer.Option(help="Name that requests give as model.")
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(help=f"Key that requests must carry; also {settings.API_KEY_VARIABLE}."),
    ] = None,
    admin_key: Annotated[
        str | None,
        typer.Option(
            help="Switches /admin on, for requests with this key; "
            f"also {settings.ADMIN_KEY_VARIABLE}."
        ),
    ] = None,
    max_batch: Annotated[int, typer.Option(help="Requests decoded together.")] = _D.max_batch,
    max_queue: Annotated[int, typer.Option(help="Requests that may wait.")] = _D.max_queue,
    max_context: Annotated[
        int, typer.Option(help="Tokens of prompt and completion; 0 is the model's own limit.")
    ] = _D.max_context,
    block_size: Annotated[
        str,
        typer.Option(help="Tokens verified per round: auto (as the drafter advises) or a number."),
    ] = "auto",
    speculation: Annotated[
        str, typer.Option(help="auto (as much as pays), always (whole blocks) or off.")
    ] = _D.speculation,
    cpu_weights: Annotated[
        str,
        typer.Option(
            help="Of 16 and fewer bits, on a CPU: auto (float32 where faster and memory has room), "
            "float32 (or do not start), or stored."
        ),
    ] = _D.cpu_weights,
    drafter_bits: Annotated[
        int,
        typer.Option(help="4 or 8 quantises the drafter's weights at load; 0 is as stored."),
    ] = _D.drafter_bits,
    second_drafter: Annotated[
        str,
        typer.Option(
            help="VP-drafter that goes on behind the first one's likely breaks: none, auto (the "
            "demo's), directory or id."
        ),
    ] = _D.second_drafter,
    tree: Annotated[
        str,
        typer.Option(
            help="Verify trees of drafts: off, a number of nodes, or auto, which takes what is "
            "fastest. The default is auto with a second drafter and off without."
        ),
    ] = _D.tree,
    prefill_chunk: Annotated[
        int, typer.Option(help="Prompt tokens processed between two rounds.")
    ] = _D.prefill_chunk,
    max_stall_ms: Annotated[
        int, typer.Option(help="Milliseconds that prompts may hold up running answers at a time.")
    ] = _D.max_stall_ms,
    memory_limit: Annotated[
        str, typer.Option(help="Bytes of cache, like 8GB or 512MB; 0 is no limit.")
    ] = "0",
    seed: Annotated[
        int | None, typer.Option(help="Seed of requests without one; without it, a random one.")
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            help="Web origin whose pages may use the server, like http://localhost:3000, or *; "
            "repeatable. Without it, only its own."
        ),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            help="Name that requests may give as Host, beside those of this machine; repeatable. "
            "Without it, any name if --host is not a loopback address."
        ),
    ] = None,
    log_level: Annotated[str, typer.Option(help=", ".join(settings.LOG_LEVELS))] = _D.log_level,
    keep_alive: Annotated[
        float, typer.Option(help="Seconds between comments on a silent stream; 0 is never.")
    ] = _D.keep_alive,
    drain_timeout: Annotated[
        float, typer.Option(help="Seconds that running requests get at shutdown.")
    ] = _D.drain_timeout,
    max_body_bytes: Annotated[str, typer.Option(help="Largest request body, like 8MiB.")] = str(
        _D.max_body_bytes
    ),
    max_connections: Annotated[
        int, typer.Option(help="Connections at once; one more is answered 503 and closed.")
    ] = _D.max_connections,
    send_timeout: Annotated[
        float,
        typer.Option(help="Seconds after which a client that reads nothing is disconnected."),
    ] = _D.send_timeout,
    tool_parser: Annotated[
        str, typer.Option(help="How the model writes tool calls; auto reads its chat template.")
    ] = _D.tool_parser,
    reasoning_parser: Annotated[
        str, typer.Option(help="How the model writes reasoning, or none; auto as above.")
    ] = _D.reasoning_parser,
    record: Annotated[
        str | None,
        typer.Option(help="Directory to keep finished requests in, for dflash-train adapt."),
    ] = None,
    record_limit: Annotated[
        str, typer.Option(help="Bytes of records; the oldest make room for the newest.")
    ] = "1GB",
    record_prompts: Annotated[
        bool, typer.Option(help="Keep token ids; without them only counts, of no use to adapt.")
    ] = _D.record_prompts,
    list_pairs: Annotated[
        bool,
        typer.Option(
            "--list-pairs", callback=_list_pairs, is_eager=True, help="Show published drafters."
        ),
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> int:
    """Serve a model over OpenAI's HTTP interface, with DFlash speculative decoding."""
    options: dict[str, Any] = dict(locals())
    del options["version"], options["list_pairs"]
    chosen = Settings(
        **options
        | {
            "api_key": settings.key(api_key, settings.API_KEY_VARIABLE),
            "admin_key": settings.key(admin_key, settings.ADMIN_KEY_VARIABLE),
            "block_size": parse_block_size(block_size),
            "memory_limit": parse_bytes("memory_limit", memory_limit),
            "max_body_bytes": parse_bytes("max_body_bytes", max_body_bytes),
            "record_limit": parse_bytes("record_limit", record_limit),
            "cors_origin": tuple(cors_origin or ()),
            "allowed_host": tuple(allowed_host or ()),
        }
    )
    # until it serves, there is nothing to lose
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0))
    # only its tokenizers are used: do not let it complain about missing PyTorch
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from dflash_serve.server.build import serve as run

    return run(chosen)


if __name__ == "__main__":
    main()
