"""The options of every command of `dflash-bench`: one model each, whose docstring is its help.

Imports no MLX, so that ``--help`` needs none.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from dflash_serve.training.settings import Name, Positional, Repeated, Settings

if TYPE_CHECKING:
    from dflash_serve.bench.pair import PairChoice


def _numbers(least: int) -> Callable[[Any], Any]:
    """Reads ``1,3,8`` as integers, each at least ``least``; tuples pass."""

    def read(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        parts = [part.strip() for part in value.split(",")]
        if not all(part.isascii() and part.isdigit() and int(part) >= least for part in parts):
            raise ValueError(f"must be numbers from {least}, like {least},{least + 2},8")
        return tuple(dict.fromkeys(int(part) for part in parts))

    return read


def _names(value: Any) -> Any:
    return tuple(value.split(",")) if isinstance(value, str) else value


def _or_none(word: str, least: int) -> Callable[[Any], Any]:
    """Numbers, or ``word`` for none of them."""
    return lambda value: () if value == word else _numbers(least)(value)


Numbers = Annotated[tuple[int, ...], BeforeValidator(_numbers(1))]
Names = Annotated[tuple[Name, ...], BeforeValidator(_names)]
_DEMO_PAIR = "Directory or hub id; without it, the embedded demo pair."
Target = Annotated[Name | None, Field(description=_DEMO_PAIR)]
Drafter = Annotated[Name, Field(description="auto, none, random (weights), a directory or hub id.")]
PromptFile = Annotated[Path | None, Field(description="JSON lines of chats or prompts, with kind.")]
Seed = Annotated[int, Field(ge=0, description="Of weights, prompts, samples, events.")]
SecondDrafter = Annotated[
    Name, Field(description="A VP-drafter for trees: none, auto, directory or hub id.")
]
Repeats = Annotated[int, Field(ge=1, description="Timed turns of each arm.")]
MaxTokens = Annotated[int, Field(ge=2, description="Per request.")]
Rows = Annotated[Numbers, Field(description="Rows that decode together, like 1,8.")]
Batches = Annotated[
    Numbers, Field(alias="batch", description="Rows that decode together, like 1,3,8.")
]


class Options(Settings):
    """Of one command; by the names of its fields or of its options."""

    model_config = ConfigDict(populate_by_name=True)

    def recorded(self) -> dict[str, Any]:
        """What a results file says of them."""
        made = self.model_dump(mode="json", exclude={"out", "save", "api_key", "path"})
        return {name: "demo" if name == "target" and not v else v for name, v in made.items()}


class Measured(Options):
    """Of a command that leaves a result behind."""

    out: Path | None = Field(
        default=None, description="JSON file to write; the plot goes beside it."
    )
    save: bool = Field(default=False, description="Write to docs/results/.")


class PairOptions(Options):
    """A stored pair, the demo's, or one of random weights, and what it is asked."""

    target: Target = None
    drafter: Drafter = "auto"
    random_target: Name | None = Field(
        default=None,
        description="Random weights: qwen3-100m, qwen3-22m, qwen3-tiny, mistral-tiny (sliding "
        "window), qwen3_5-tiny (recurrent layers) or a config.json.",
    )
    draft_layers: int = Field(
        default=0, ge=0, description="Layers of a random drafter; 0 scales the published shape."
    )

    prompt_file: PromptFile = None
    prompts: int = Field(default=24, ge=1, description="Requests per run.")
    prompt_length: int = Field(default=64, ge=2, description="Of random prompts.")
    max_tokens: MaxTokens = 128
    seed: Seed = 0

    @model_validator(mode="after")
    def _one_pair(self) -> "PairOptions":
        if self.random_target is not None and (self.target is not None or self.drafter != "auto"):
            raise ValueError("--random-target excludes --target and --drafter")
        return self

    @property
    def blocks(self) -> tuple[int, ...]:
        """Blocks that are asked for; none takes the drafter's own."""
        return ()

    @property
    def pair(self) -> "PairChoice":
        """The pair; a random drafter is trained for the longest of the blocks."""
        from dflash_serve.bench.pair import PairChoice  # noqa: PLC0415 - needs MLX

        made = (self.target, self.drafter, self.random_target, self.draft_layers)
        return PairChoice(*made, max(self.blocks, default=16), self.seed)


class DecodeOptions(PairOptions, Measured):
    """Speculative against plain decoding in one process, in turns; checks that tokens are equal."""

    prompts: int = Field(default=0, ge=0, description="Requests per run; 0 picks.")
    batches: Batches = (1, 3, 8)
    block_sizes: Annotated[tuple[int, ...], BeforeValidator(_or_none("auto", 2))] = Field(
        default=(),
        alias="block_size",
        description="Tokens verified per round, like 8,16; none: as trained.",
    )
    trees: Annotated[tuple[int, ...], BeforeValidator(_or_none("off", 2))] = Field(
        default=(),
        alias="tree",
        description="Trees of so many nodes beside chains, like 8,16; or off.",
    )
    second_drafter: SecondDrafter = "none"
    repeats: Repeats = 3
    temperature: float = Field(default=0.0, ge=0, description="Of all answers.")
    baselines: Annotated[
        tuple[Literal["as-installed", "float32", "float32-blas"], ...], Repeated()
    ] = Field(
        default=(),
        alias="baseline",
        description="mlx-lm's stream_generate: as-installed, float32, float32-blas.",
    )
    acceptance: float | None = Field(
        default=None,
        ge=0,
        le=1,
        alias="simulate_acceptance",
        description="Real drafter compute, drafts right with this probability.",
    )
    tau: float | None = Field(
        default=None, description="Like --simulate-acceptance, as tokens per round."
    )

    @model_validator(mode="after")
    def _can_be(self) -> "DecodeOptions":
        if self.acceptance is not None and self.tau is not None:
            raise ValueError("--simulate-acceptance and --tau exclude each other")
        if self.simulated and self.temperature > 0:
            raise ValueError("simulated acceptance follows the greedy answer: --temperature is 0")
        if self.simulated and self.trees:
            raise ValueError("simulated acceptance is of chains: it excludes --tree")
        if self.second_drafter != "none" and not self.trees:
            raise ValueError("--second-drafter drafts trees: give --tree too")
        if self.simulated and len(self.block_sizes) > 1:
            raise ValueError("simulated acceptance takes one --block-size")
        return self

    @property
    def simulated(self) -> bool:
        return self.acceptance is not None or self.tau is not None

    @property
    def blocks(self) -> tuple[int, ...]:
        return self.block_sizes or ((8,) if self.simulated else ())


class ExactOptions(PairOptions, Measured):
    """Compare tokens with plain decoding: greedy and sampled rows, late joins, cancels."""

    prompts: int = Field(default=200, ge=1, description="Requests per combination.")
    batches: Batches = (1, 3, 8)
    block_sizes: Annotated[tuple[int, ...], BeforeValidator(_numbers(2))] = Field(
        default=(2, 8, 16), alias="block_size", description="Block sizes."
    )
    prompt_length: int = Field(default=48, ge=2, description="Of random prompts.")
    max_tokens: MaxTokens = 64
    cancel: float = Field(
        default=0.15, ge=0, le=1, description="Share of requests, cancelled at a random token."
    )
    tree: int = Field(default=0, ge=0, le=64, description="Nodes of trees; 0: chains.")
    second_drafter: SecondDrafter = "none"

    @property
    def blocks(self) -> tuple[int, ...]:
        return self.block_sizes


class ServeOptions(Measured):
    """Closed-loop HTTP load: tokens per second, time to first token, latency; rivals in turns."""

    base_url: str | None = Field(default=None, description="Any OpenAI server, ending in /v1.")
    model: str | None = Field(default=None, description="Without it, the server's first.")
    api_key: str | None = Field(
        default=None, repr=False, description="Or DFLASH_BENCH_API_KEY is set."
    )
    meta_info: bool = Field(default=False, description="Ask --base-url for drafting figures.")
    spawn: Annotated[
        tuple[Literal["dflash", "dflash-plain", "mlx-lm", "mlx-lm-blas"], ...], Repeated()
    ] = Field(
        default=(), description="Start and measure: dflash, dflash-plain, mlx-lm, mlx-lm-blas."
    )
    target: Target = None
    drafter: Name = Field(default="auto", description="As dflash-serve takes it.")
    server_options: Annotated[tuple[str, ...], Repeated()] = Field(
        default=(),
        alias="server_option",
        description="Added to our server's command; like --max-batch=4.",
    )
    clients: Numbers = Field(default=(1, 4, 8), description="Numbers of clients, like 1,4,8.")
    requests: int = Field(default=32, ge=1, description="Per run.")
    warmup: int = Field(default=8, ge=0, description="Untimed requests per client and server.")
    max_tokens: int = Field(default=128, ge=1, description="Per request.")
    repeats: Repeats = 3
    prompt_file: PromptFile = None
    seed: Seed = 0

    @model_validator(mode="after")
    def _one_kind(self) -> "ServeOptions":
        if bool(self.base_url) == bool(self.spawn):
            raise ValueError("give --base-url, or --spawn with what to start")
        if self.base_url and not self.base_url.startswith(("http://", "https://")):
            raise ValueError(f"--base-url is {self.base_url!r}, but must start with http://")
        return self


class KernelsOptions(Measured):
    """The CPU matmul under MLX by shape, and the small kernels against their plain forms."""

    repeats: int = Field(default=200, ge=3, description="Calls per shape, and library or form.")


class MatmulOptions(Measured):
    """This package's float32 matmul against the OpenBLAS inside numpy, by shape and threads."""

    turns: int = Field(default=5, ge=1, description="Of each library, per product.")
    threads: Numbers = Field(default=(1, 2), description="Numbers of threads, like 1,2.")


class ProcessingOptions(Measured):
    """What bias, penalties, log-probabilities and grammars cost a round."""

    random_target: Name = Field(default="qwen3-100m", description="For the times of rounds.")
    vocab: int = Field(default=151_936, ge=256, description="Of the random target.")
    rows: Rows = (1, 8)
    prompts: int = Field(default=24, ge=1, description="JSON prompts of the demo pair.")
    max_tokens: MaxTokens = 128
    repeats: Repeats = 9
    seed: Seed = 0


class CachesOptions(Measured):
    """Rows of very different length, leaves, and bytes in random schedules; 1 if one is missed."""

    random_target: Name = Field(default="qwen3-22m", description="For the times of rounds.")
    long: int = Field(default=16_384, ge=1, description="Tokens of the long row.")
    short: int = Field(default=256, ge=1, description="Tokens of those beside it.")
    leave: int = Field(default=4096, ge=1, description="Tokens of rows of which one leaves.")
    rows: int = Field(default=8, ge=2, description="Of a full round.")
    blocks: Numbers = Field(default=(1, 8), alias="block_size", description="Block sizes.")
    repeats: Repeats = 25
    schedules: int = Field(
        default=2000, ge=0, description="Random ones, shared out among --worlds."
    )
    worlds: Names = Field(
        default=("qwen3-wide", "mistral-wide", "qwen3_5-wide"),
        description="Random targets of schedules.",
    )
    seed: Seed = 0


class ServedOptions(Measured):
    """A pair that a server of the benchmark's own serves."""

    target: Target = None
    drafter: Drafter = "auto"


class StartOptions(ServedOptions):
    """How long --help and the first token of a fresh server take."""

    repeats: int = Field(default=5, ge=1, description="Starts of the server.")


class StopsOptions(ServedOptions):
    """SIGTERM at a random moment under load: exit codes, seconds to exit; 1 unless all are 0."""

    stops: int = Field(default=60, ge=1, description="Servers to start and stop.")
    clients: int = Field(default=12, ge=1, description="That send mixed requests.")
    drain_timeout: float = Field(default=1.0, ge=0, description="Of the servers.")
    shortest: float = Field(default=0.0, ge=0, description="Seconds of load before it, at least.")
    longest: float = Field(default=4.0, ge=0, description="Seconds of load before it, at most.")
    seed: Seed = 0

    @model_validator(mode="after")
    def _ordered(self) -> "StopsOptions":
        if self.longest < self.shortest:
            raise ValueError(f"--longest is {self.longest}, but --shortest is {self.shortest}")
        return self


class StallsOptions(ServedOptions):
    """What holds streams up: the largest bodies, swaps, a short prompt behind a long one."""

    streams: int = Field(default=8, ge=1, description="That run beside it.")
    body_bytes: int = Field(default=8 * 2**20, ge=4096, description="Of each body.")
    repeats: int = Field(default=3, ge=0, description="Of each body; 0 sends none.")
    swaps: int = Field(default=3, ge=0, description="Of the drafter.")
    prompt: int = Field(default=30_000, ge=0, description="Tokens of the long one; 0: none.")
    quiet: float = Field(default=0.5, ge=0.1, description="Least seconds to compare with.")
    seed: Seed = 0


class HttpOptions(ServedOptions):
    """What HTTP adds: to the first text of a stream, and in CPU time per streamed chunk."""

    prompts: int = Field(default=60, ge=2, description="Timed both ways.")
    streams: int = Field(default=8, ge=1, description="Read at once.")
    chunks: int = Field(default=200, ge=1, description="Of each stream.")
    tokens: int = Field(default=4, ge=1, description="Of each chunk.")
    pace: float = Field(default=0.02, ge=0, description="Seconds between chunks.")
    repeats: Repeats = 3
    seed: Seed = 0


class GraphOptions(Measured):
    """What a round launches, reads and computes on a GPU, and what to expect of machines."""

    shape: str = Field(
        default="qwen3-8b", description="A published pair: qwen3-8b, llama-3.1-8b or gemma-3-12b."
    )
    rows: Rows = (1, 8)
    blocks: Annotated[tuple[int, ...], BeforeValidator(_numbers(2))] = Field(
        default=(4, 8, 16), alias="block_size", description="Blocks beside plain decoding."
    )
    context: int = Field(default=1024, ge=1, description="Tokens that each row holds.")
    target_bits: int = Field(
        default=4, alias="bits", description="Of the target's weights; 16: bfloat16."
    )
    drafter_bits: int = Field(default=16, description="Of the drafter's weights.")
    tau: float | None = Field(
        default=None, description="Tokens per round of the drafter's own block."
    )
    repeats: int = Field(default=15, ge=1, description="Timed turns of the host's part.")


class QuantisedOptions(Measured):
    """Quantised weights on a CPU: as stored, by own products, expanded; checks equal tokens."""

    random_target: Name = Field(default="qwen3-100m", description="A name or config.json.")
    bits: int = Field(default=4, description="Of its matrices.")
    group: int = Field(default=64, description="Weights that share a scale.")
    tau: float = Field(default=5.0, description="Simulated tokens per round.")
    block_size: int = Field(default=8, ge=2, description="Tokens verified per round.")
    batch: int = Field(default=1, ge=1, description="Rows that decode together.")
    max_tokens: MaxTokens = 64
    repeats: Repeats = 3
    seed: Seed = 0


class SweepOptions(PairOptions, Measured):
    """The engine's choice of blocks against every fixed one and plain, in turns; 1 if it loses."""

    batches: Batches = (1, 4, 8)
    sets: Annotated[tuple[Literal["easy", "mixed", "useless"], ...], BeforeValidator(_names)] = (
        Field(default=("easy", "mixed", "useless"), description="Of easy, mixed, useless.")
    )
    repeats: Repeats = 5


class PolicyOptions(Measured):
    """Replay acceptance traces on machines' cost tables: the policy against fixed blocks."""

    rows: Rows = (1, 8, 16, 32)
    recordings: Annotated[tuple[Path, ...], Repeated()] = Field(
        default=(), alias="recording", description="File of `record`; without it, the demo pair's."
    )
    tokens: int = Field(default=256, ge=8, description="Of a made-up request.")
    turns: int = Field(default=4, ge=1, description="Requests of each row, one after another.")
    jitter: float = Field(default=0.05, ge=0, description="Of observed times, as log sigma.")
    slow: float = Field(default=1.5, ge=1, description="Factor of slow phases.")
    seed: Seed = 0


class RecordOptions(PairOptions):
    """Record a pair's acceptance at every token, and what its rounds cost on this machine."""

    path: Annotated[Path, Positional()] = Field(
        description="JSON file to write, for `policy --recording`."
    )
    prompts: int = Field(default=66, ge=1, description="Recorded, of all kinds.")
    max_tokens: MaxTokens = 256
    rows: Rows = (1, 2, 4, 8, 16, 32)


class TrainingMemoryOptions(Measured):
    """A training step at the true shapes of published pairs, on random weights: memory and time."""

    pairs: Names = Field(
        default=("qwen3-4b", "qwen3-8b", "qwen3-coder-30b-a3b", "qwen3.5-4b", "gpt-oss-20b"),
        alias="only",
        description="Also qwen3.5-9b, llama-3.1-8b.",
    )
    length: int = Field(default=3072, ge=2, description="Tokens of the sequence.")
    anchors: int = Field(default=64, ge=1, description="Blocks of it; they take time, not memory.")
    muon: bool = Field(default=False, description="Muon for matrices, as in `dflash-train run`.")
    compute_dtype: Literal["float32", "bfloat16"] = Field(
        default="float32", description="Of the step, as in `dflash-train run`."
    )
    memory_gb: float | None = Field(
        default=None, gt=0, description="Most that a step may take; default: what is free."
    )


class TrainingStepOptions(Measured):
    """The compiled training step against the same step written plainly: memory and time."""

    shapes: Names = Field(
        default=("demo", "sparse", "recipe", "medium", "large"),
        alias="only",
        description="Of demo, sparse, recipe, medium, half, large.",
    )
    rounds: int = Field(
        default=5, ge=1, description="Turns of each step; a figure is their median."
    )
