"""What a run takes: bytes of memory and disk, and the operations that its time follows from.

Arithmetic on configs and settings, held against real arrays in the tests. Measures nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from dflash_serve.adapters.dflash_config import DFlashConfig, parse_dflash_config
from dflash_serve.adapters.planned import PlannedWeights
from dflash_serve.training.drafter.layout import stored_tensors
from dflash_serve.training.features.store import bytes_per_token
from dflash_serve.training.run.settings import RunSettings
from dflash_serve.training.step.batches import padded_length, steps_per_epoch
from dflash_serve.training.step.train_step import GROUP_BYTES, PORTION_BYTES

_BUCKET = 64
_ANSWER_BYTES = 6  # of JSON per token id
_LOGITS, _SCORES, _ROWS, _INNER = 3, 2, 12, 5
"""Copies of a group's logits, and of each layer's attention scores, rows and inner rows, that are
held on the way back: near the peaks that `dflash-bench training-memory` measures."""
_ADAMW_COPIES, _MUON_COPIES = 4, 5
"""Of a portion of weights while it is updated."""


@dataclass(frozen=True, slots=True)
class Answers:
    """Of a file: sequences, all their tokens, those of answers, and the longest one.

    ``held_back`` of the sequences choose the best drafter and are not trained on.
    """

    sequences: int
    tokens: int
    answer_tokens: int
    longest: int
    held_back: int = 0

    def per_epoch(self, batch: int) -> int:
        """Steps of one epoch with ``batch`` sequences each."""
        return steps_per_epoch(self.sequences - self.held_back, batch)


Bytes = dict[str, int]
"""By what they are for."""


@dataclass(frozen=True, slots=True)
class Operations:
    """Of the whole run. ``steps`` None where minutes set the length, and ``all_steps`` with it.

    ``answers``: weights read, once for each round of a batch of answers. ``features`` and
    ``prompts``: weights times tokens of a forward. ``step``: floating-point operations.
    """

    answers: float
    prompts: float
    features: float
    step: float
    steps: int | None


@dataclass(frozen=True, slots=True)
class Budget:
    """``parameters`` of the drafter that are trained; ``feature_bytes`` is all features', wherever
    they are kept or not.

    ``memory`` is that of the worst moment of a step: of the target, of `step_bytes` and of features
    that are kept there. Of ``disk``, ``checkpoints`` are those kept and one being written,
    ``drafters`` the best and the last. Both have a ``total``.
    """

    parameters: int
    feature_bytes: int
    memory: Bytes
    disk: Bytes
    operations: Operations


def budget_of(
    settings: RunSettings,
    target: PlannedWeights,
    drafter: dict[str, Any],
    answers: Answers,
    answer_batch: int,
) -> Budget:
    """What training ``drafter``, a config.json, takes with ``settings`` on ``answers``."""
    config = parse_dflash_config(drafter)
    shapes = _shapes(drafter)
    soft = settings.objective.soft_label > 0
    each = bytes_per_token(config.hidden_size, len(config.target_layer_ids), final=soft)
    room = int(settings.feature_gb * 1e9)
    kept = 0 if settings.features == "online" else min(room, each * answers.tokens)
    parameters = sum(map(prod, shapes))
    step = step_bytes(drafter, settings, answers.longest)
    size = {"float32": 4}.get(settings.dtype, 2)
    memory = step | {
        "target": target.held,
        "features": kept if settings.features == "memory" else 0,
    }
    disk = {
        "answers": _ANSWER_BYTES * answers.tokens,
        "features": kept if settings.features == "disk" else 0,
        "checkpoints": (settings.keep + 1) * (step["masters"] + step["optimizer"]),
        "drafters": 2 * size * parameters,
    }
    memory, disk = ({**parts, "total": sum(parts.values())} for parts in (memory, disk))
    operations = _operations(settings, target, config, shapes, answers, answer_batch)
    return Budget(parameters, each * answers.tokens, memory, disk, operations)


def step_bytes(drafter: dict[str, Any], settings: RunSettings, longest: int) -> Bytes:
    """A step on ``drafter``, a config.json, and sequences of at most ``longest`` tokens.

    masters: in float32. optimizer: AdamW keeps two float32 numbers for each weight; Muon keeps one
    for each weight of a matrix and leaves the others to AdamW. Counters of steps, 12 bytes, are not
    counted. copies: weights in the dtype that the step computes in, if that is not float32.

    work: an estimate of what a step takes for a moment, the larger of two. While blocks go through
    the network: a group's activations, or the gradients that they make way for on the way back, and
    features, keys and values of the sequences computed at once. While weights are updated: a
    portion of them and of the optimiser's state, old and new.
    """
    config, shapes = parse_dflash_config(drafter), _shapes(drafter)
    every = sum(map(prod, shapes))
    matrices = sum(prod(shape) for shape in shapes if len(shape) == 2)
    through = max(_group_bytes(config, settings, longest), 4 * every)
    portion = min(4 * every, PORTION_BYTES)
    update = portion * (_MUON_COPIES if settings.muon else _ADAMW_COPIES)
    return {
        "masters": 4 * every,
        "optimizer": 4 * matrices + 8 * (every - matrices) if settings.muon else 8 * every,
        "gradients": 4 * every,
        "copies": 0 if settings.compute_dtype == "float32" else 2 * every,
        "work": max(through + _batch_bytes(config, settings, longest), update),
    }


def _shapes(drafter: dict[str, Any]) -> list[tuple[int, ...]]:
    return [tensor.shape for tensor in stored_tensors(drafter).values()]


def _batch_bytes(config: DFlashConfig, settings: RunSettings, longest: int) -> int:
    """Of the sequences that are computed at once: features as kept and as float32, keys, values,
    and the gradients that these gather."""
    tokens = settings.batch // settings.accumulate * padded_length(longest, _BUCKET)
    taps = len(config.target_layer_ids) * config.hidden_size
    keys_values = 2 * config.num_layers * config.num_key_value_heads * config.head_dim
    return tokens * ((2 + 4) * taps + 3 * 4 * keys_values + 4 * config.hidden_size)


def _group_bytes(config: DFlashConfig, settings: RunSettings, longest: int) -> int:
    """Of the blocks that go through the network and back together, an estimate."""
    keys = padded_length(longest, _BUCKET) + config.block_size
    scores = config.num_attention_heads * keys
    fitting = min(settings.group_rows, GROUP_BYTES // (4 * (config.vocab_size + scores)))
    sequences = settings.batch // settings.accumulate
    rows = max(fitting, sequences * config.block_size)
    layer = _SCORES * scores + _ROWS * config.hidden_size
    layer += _INNER * config.intermediate_size
    return 4 * rows * (_LOGITS * config.vocab_size + config.num_layers * layer)


def _operations(
    settings: RunSettings,
    target: PlannedWeights,
    config: DFlashConfig,
    shapes: Sequence[tuple[int, ...]],
    answers: Answers,
    answer_batch: int,
) -> Operations:
    length = round(answers.tokens / answers.sequences)
    per_epoch = answers.per_epoch(settings.batch)
    horizon = settings.horizon(per_epoch).in_steps(per_epoch)
    again = 1 if settings.features != "online" else settings.batch * (horizon.steps or 0)
    forwards = max(answers.tokens, again * length)
    return Operations(
        answers=target.read(answer_batch) * answers.answer_tokens / answer_batch,
        prompts=target.read(1) * max(0, answers.tokens - answers.answer_tokens),
        features=target.read(1) * forwards,
        step=step_operations(config, shapes, settings, length),
        steps=horizon.steps,
    )


def step_operations(
    config: DFlashConfig, shapes: Sequence[tuple[int, ...]], settings: RunSettings, length: int
) -> float:
    """Multiplications and additions of one step on sequences of ``length`` tokens.

    A matrix takes 2 per weight and row forward and 4 back; the frozen head 2 back. The context
    goes forward twice. Muon's five iterations do not depend on how many rows there are.
    """
    hidden, width = config.hidden_size, config.num_attention_heads * config.head_dim
    kv = config.num_key_value_heads * config.head_dim
    block, count = config.block_size, config.num_layers
    rows = settings.batch * settings.anchors * block
    layer = 2 * hidden * (width + kv) + 3 * hidden * config.intermediate_size
    through = 6 * rows * count * layer
    attention = 12 * rows * count * (length + block) * width
    head = 4 * rows * (block - 1) / block * hidden * config.logits
    taps = len(config.target_layer_ids) * hidden * hidden
    context = 8 * settings.batch * length * (taps + count * 2 * hidden * kv)
    return through + attention + head + context + (_muon(shapes) if settings.muon else 0.0)


def _muon(shapes: Sequence[tuple[int, ...]]) -> float:
    """Five iterations of three products for each matrix."""
    sides = [(min(shape), max(shape)) for shape in shapes if len(shape) == 2]
    return float(sum(5 * (4 * low * low * high + 2 * low**3) for low, high in sides))
