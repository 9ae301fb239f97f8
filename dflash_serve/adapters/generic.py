"""Targets of any other model of mlx-lm's whose layers keep nothing but keys and values.

Nothing is known of the family: mlx-lm's code runs from tokens to logits, and one traced forward
over caches that only note what they are given says what its layers keep.
"""

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import KVCache, RotatingKVCache, make_prompt_cache
from mlx_lm.utils import MODEL_REMAPPING

from dflash_serve.adapters.base import AdapterError, Captured, LayerCache
from dflash_serve.adapters.cache_spec import AttentionSpec
from dflash_serve.adapters.layered import LayeredTarget
from dflash_serve.adapters.own_operations import use_own_operations
from dflash_serve.adapters.rotary import Angles, AnyRotary
from dflash_serve.adapters.row_attention import attending_rows, attends
from dflash_serve.adapters.trunk import Seat, Trunk

_LENGTHS = (
    "max_position_embeddings",
    "max_sequence_length",
    "max_seq_len",
    "model_max_length",
    "n_positions",
    "seq_length",
)
"""What families call the longest context."""
_FAULTS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
_ROWS, _WIDTH = 2, 3
"""Shape of the forward that is traced."""


def find_generic(model_type: str) -> type["GenericTarget"] | None:
    """The class for a model type that mlx-lm has a model for, under its own names for it."""
    module = f"mlx_lm.models.{MODEL_REMAPPING.get(model_type, model_type)}"
    if not model_type.replace("-", "_").isidentifier() or find_spec(module) is None:
        return None
    try:
        code = import_module(module)
    except (ImportError, SystemExit) as error:
        raise AdapterError(f"target model_type {model_type!r}: {module} lacks a package") from error
    if not (hasattr(code, "Model") and hasattr(code, "ModelArgs")):
        return None
    arguments = _Arguments(code.ModelArgs)
    members = {"model_classes": (code.Model, arguments), "arguments": arguments}
    return type("GenericTarget", (GenericTarget,), members)


class _Arguments:
    """mlx-lm's class of arguments, for one model: it keeps the config.json that it reads.

    mlx-lm's own arguments leave out what its model does not ask for, such as the longest context.
    """

    def __init__(self, arguments: Any) -> None:
        self._class = arguments
        self.config: dict[str, Any] = {}

    def from_dict(self, config: dict[str, Any]) -> Any:
        """mlx-lm's arguments."""
        self.config = config
        return self._class.from_dict(config)


class GenericTarget(LayeredTarget):
    """A `TargetAdapter` over mlx-lm's own trunk and head.

    Raises:
        AdapterError: the model keeps or does what no cache of the engine is for.
    """

    arguments: _Arguments

    def __init__(self, model: nn.Module) -> None:
        config = self.arguments.config
        self._kind = config["model_type"]
        use_own_operations(model)  # before the trunk, which keeps layers of its own
        self._trunk = self._made_trunk(model)
        windows = self._windows(model)
        probes = [_Probe() for _ in windows]
        self._hidden_size, self._vocab_size = self._traced(probes)
        layers = enumerate(zip(probes, windows, strict=True))
        specs = [self._spec(index, *layer) for index, layer in layers]
        self._dtype = specs[0].dtype
        self._max_context = _longest(config, any(windows))
        super().__init__(model, specs)

    @property
    def dtype(self) -> mx.Dtype:
        return self._dtype

    @property
    def hidden_size(self) -> int:
        return self._hidden_size

    @property
    def vocab_size(self) -> int:
        return self._vocab_size

    @property
    def max_context(self) -> int:
        return self._max_context

    def embed(self, tokens: mx.array) -> mx.array:
        seats = [Seat(None) for _ in self._trunk.layers]
        self._trunk(tokens.reshape(1, -1), seats)
        return seats[0].entered.reshape(*tokens.shape, -1)

    def forward(
        self,
        tokens: mx.array,
        caches: Sequence[LayerCache],
        tap_layers: tuple[int, ...] = (),
    ) -> Captured:
        seats = [Seat(cache) for cache in caches]
        hidden = self._trunk(tokens, seats)
        taps = mx.concatenate([seats[i].left for i in tap_layers], axis=-1) if tap_layers else None
        return Captured(hidden, taps)

    def head(self, hidden: mx.array) -> mx.array:
        """With what the model does to its logits (a scale, a cap), which keeps their order."""
        return self._trunk.head(hidden)

    def logits(self, hidden: mx.array) -> mx.array:
        return self._trunk.head(hidden)

    def _made_trunk(self, model: nn.Module) -> Trunk:
        """The model's trunk, its attention over our caches."""
        shared: dict[Angles, AnyRotary] = {}
        for layer in model.layers:
            for path, module in layer.named_modules():
                if path and attends(type(module)):
                    attention = attending_rows(module)
                    for name, part in attention.items():
                        if isinstance(part, nn.Module) and "RoPE" in type(part).__name__:
                            attention[name] = _rotary(part, shared)
                    parent, _, name = path.rpartition(".")
                    _inside(layer, parent)[name] = attention
        try:
            return Trunk(model)
        except LookupError as error:
            raise self._refusal(str(error)) from error

    def _windows(self, model: nn.Module) -> list[int | None]:
        """The window of each layer's cache, None where it has none."""
        caches = make_prompt_cache(model)
        if len(caches) != len(self._trunk.layers):
            raise self._refusal(f"{len(self._trunk.layers)} layers share {len(caches)} caches")
        windows: list[int | None] = []
        for index, cache in enumerate(caches):
            rotates = isinstance(cache, RotatingKVCache)
            if type(cache) not in (KVCache, RotatingKVCache) or (rotates and cache.keep):
                kept = f" that keeps its first {cache.keep}" if rotates else ""
                raise self._refusal(
                    f"layer {index} has a {type(cache).__name__}{kept}; the generic adapter knows "
                    "KVCache and RotatingKVCache"
                )
            windows.append(cache.max_size if rotates else None)
        return windows

    def _traced(self, probes: Sequence["_Probe"]) -> tuple[int, int]:
        """Hidden size and vocabulary, by a forward in which nothing is computed."""
        placed = [_Probe((_ROWS, _WIDTH)) for _ in probes]  # a position per token, as in trees

        def run(tokens: mx.array) -> list[mx.array]:
            captured = self.forward(tokens, list(probes), tuple(range(len(probes))))
            assert captured.taps is not None
            self.forward(tokens, list(placed))
            return [captured.hidden, captured.taps, self.head(captured.hidden), self.embed(tokens)]

        try:  # traced, so that code that reads a value back fails
            traced = mx.compile(run)(mx.zeros((_ROWS, _WIDTH), dtype=mx.int32))
        except _FAULTS as error:
            reason = " ".join(str(error).split())[:200]
            last = placed if placed[0].reached else probes
            reached = [index for index, probe in enumerate(last) if probe.reached]
            kind = type(self._trunk.layers[reached[-1]]).__name__ if reached else "the model"
            place = f"layer {reached[-1]} ({kind})" if reached else kind
            raise self._refusal(
                f"{place} does not run over the engine's caches: {reason}"
            ) from error
        hidden, taps, logits, embedding = (array.shape for array in traced)
        size = embedding[-1]
        wanted = [(_ROWS, _WIDTH, width) for width in (size, len(probes) * size, logits[-1], size)]
        if [hidden, taps, logits, embedding] != wanted:
            raise self._refusal(
                f"{_ROWS} rows of {_WIDTH} tokens became hidden states of shape {list(hidden)}, "
                f"layer outputs of {list(taps)}, logits of {list(logits)}, embeddings of "
                f"{list(embedding)}"
            )
        return size, logits[-1]

    def _spec(self, index: int, probe: "_Probe", window: int | None) -> AttentionSpec:
        """What layer ``index`` keeps, by what it gave and asked in a forward."""
        name = type(self._trunk.layers[index]).__name__
        if len(probe.given) != 1 or probe.asked != 1:
            raise self._refusal(
                f"layer {index} ({name}) gave keys to its cache {len(probe.given)} times and "
                f"attended over it {probe.asked} times in a forward, where each must be once"
            )
        keys, values = probe.given[0]
        rows, heads, width, dim = keys.shape
        if keys.shape != values.shape or (rows, width) != (_ROWS, _WIDTH):
            raise self._refusal(
                f"layer {index} ({name}) keeps keys {list(keys.shape)} and values "
                f"{list(values.shape)}, where both must be of one size"
            )
        return AttentionSpec(heads, dim, keys.dtype, window)

    def _refusal(self, reason: str) -> AdapterError:
        return AdapterError(f"target model_type {self._kind!r} is not supported: {reason}")


class _Held:
    """All keys or values that a cache holds: attention may pass it on, but not compute with it."""


class _Probe:
    """An `AttentionCache` that notes what it is given and asked, and holds nothing."""

    def __init__(self, offsets: tuple[int, ...] = (_ROWS,)) -> None:
        self._offsets = offsets
        self.reached = False
        self.given: list[tuple[mx.array, mx.array]] = []
        self.asked = 0

    @property
    def offset(self) -> mx.array:
        self.reached = True
        return mx.zeros(self._offsets, dtype=mx.int32)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[_Held, _Held]:
        self.reached = True
        self.given.append((keys, values))
        return _Held(), _Held()

    def attend(
        self,
        queries: mx.array,
        scale: float,
        *,
        causal: bool = True,
        sinks: mx.array | None = None,
    ) -> mx.array:
        self.asked += 1
        return queries


def _longest(config: dict[str, Any], slides: bool) -> int:
    """The context as configured, or a window that mlx-lm leaves out: up to there, it has no effect.

    ``slides``: some of the model's caches have a window.
    """
    text = config.get("text_config") or config
    lengths = [text[key] for key in _LENGTHS if isinstance(text.get(key), int)]
    if not lengths:
        raise AdapterError(f"target config: it has none of {', '.join(_LENGTHS)}")
    window = text.get("sliding_window")
    if isinstance(window, int) and text.get("use_sliding_window", True) and not slides:
        return min(lengths[0], window)
    return int(lengths[0])


def _inside(module: nn.Module, path: str) -> Any:
    """The module, or list of modules, at a path of names with dots."""
    found: Any = module
    for name in path.split(".") if path else ():
        found = found[int(name)] if isinstance(found, list) else found[name]
    return found


def _rotary(rope: nn.Module, shared: dict[Angles, AnyRotary]) -> AnyRotary:
    """The same rotation for any `AttentionCache`; those by the same angles share their tables."""
    made = AnyRotary(rope)
    return made if made.angles is None else shared.setdefault(made.angles, made)
