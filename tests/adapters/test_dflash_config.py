"""config.json of published drafters: every known place of a key, and what is refused."""

from typing import Any

import pytest

from dflash_serve.adapters.base import AdapterError
from dflash_serve.adapters.dflash_config import (
    DFlashConfig,
    architecture,
    default_layer_ids,
    parse_dflash_config,
)

QWEN3_8B: dict[str, Any] = {
    "architectures": ["DFlashDraftModel"],
    "model_type": "qwen3",
    "auto_map": {"AutoModel": "dflash.DFlashDraftModel"},
    "block_size": 16,
    "dflash_config": {"mask_token_id": 151669, "target_layer_ids": [1, 9, 17, 25, 33]},
    "num_target_layers": 36,
    "num_hidden_layers": 5,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000,
    "rope_scaling": None,
    "max_position_embeddings": 40960,
    "vocab_size": 151936,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "tie_word_embeddings": False,
    "layer_types": ["full_attention"] * 5,
    "sliding_window": None,
    "use_sliding_window": False,
    "max_window_layers": 5,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "dtype": "bfloat16",
}
SLIDING = "sliding_attention"
FULL = "full_attention"


def parse(drop: tuple[str, ...] = (), **changes: Any) -> DFlashConfig:
    config = QWEN3_8B | changes
    return parse_dflash_config({key: value for key, value in config.items() if key not in drop})


def inner(**changes: Any) -> dict[str, Any]:
    return {"dflash_config": QWEN3_8B["dflash_config"] | changes}


def test_the_published_qwen3_8b_drafter() -> None:
    assert parse() == DFlashConfig(
        hidden_size=4096,
        intermediate_size=12288,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        rms_norm_eps=1e-6,
        vocab_size=151936,
        max_position_embeddings=40960,
        rope_theta=1e6,
        rope_scaling=None,
        layer_windows=(None,) * 5,
        layer_causal=(False,) * 5,
        block_size=16,
        runtime_block_size=16,
        mask_token_id=151669,
        target_layer_ids=(1, 9, 17, 25, 33),
        num_target_layers=36,
    )
    assert parse().num_layers == 5


PUBLISHED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (
        "Qwen3-4B",
        {"hidden_size": 2560, "intermediate_size": 9728},
        {"hidden_size": 2560, "head_dim": 128, "target_layer_ids": (1, 9, 17, 25, 33)},
    ),
    (
        "Qwen3-Coder-30B-A3B: layer ids by the formula",
        {
            "hidden_size": 2048,
            "num_hidden_layers": 8,
            "num_target_layers": 48,
            "layer_types": [FULL] * 8,
            "dflash_config": {"mask_token_id": 151669},
        },
        {"target_layer_ids": (1, 7, 14, 20, 26, 32, 39, 45), "num_layers": 8},
    ),
    (
        "Qwen3.5-4B",
        {
            "num_target_layers": 32,
            "rope_theta": 10_000_000,
            "max_position_embeddings": 262144,
            "vocab_size": 248320,
            "dflash_config": {"mask_token_id": 248070, "target_layer_ids": [1, 8, 15, 22, 29]},
        },
        {"rope_theta": 1e7, "mask_token_id": 248070, "max_position_embeddings": 262144},
    ),
    (
        "Qwen3.6-27B: four sliding layers and a full one",
        {
            "num_target_layers": 64,
            "layer_types": [SLIDING] * 4 + [FULL],
            "sliding_window": 2048,
            "use_sliding_window": True,
            "vocab_size": 248320,
            "dflash_config": {"mask_token_id": 248070, "target_layer_ids": [1, 16, 31, 46, 61]},
        },
        {"layer_windows": (2048,) * 4 + (None,), "layer_causal": (True,) * 4 + (False,)},
    ),
    (
        "Gemma 4: scaled embedding, capped logits",
        {
            "layer_types": [SLIDING] * 5,
            "sliding_window": 1024,
            "dflash_config": {
                "mask_token_id": 4,
                "target_layer_ids": [5, 17, 29, 41, 46],
                "input_embedding_scale": 61.9677,
                "final_logit_softcapping": 30.0,
            },
            "num_target_layers": 48,
        },
        {"input_embedding_scale": 61.9677, "final_logit_softcapping": 30.0, "mask_token_id": 4},
    ),
    (
        "gpt-oss: block 10, yarn",
        {
            "hidden_size": 2880,
            "block_size": 10,
            "num_target_layers": 36,
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 32.0,
                "original_max_position_embeddings": 4096,
            },
        },
        {"block_size": 10, "hidden_size": 2880},
    ),
    (
        "Qwen3.5-0.8B, from the community: its own mask token",
        {"vocab_size": 248320, "dflash_config": {"mask_token_id": 248077}},
        {"mask_token_id": 248077, "target_layer_ids": (1, 9, 17, 25, 33)},
    ),
    (
        "Qwen3.6-35B-A3B: mixed sliding",
        {
            "hidden_size": 2048,
            "num_target_layers": 40,
            "layer_types": [SLIDING, SLIDING, FULL, SLIDING, FULL],
            "sliding_window": 2048,
            "vocab_size": 248320,
            "dflash_config": {"mask_token_id": 248070},
        },
        {"target_layer_ids": (1, 10, 19, 28, 37), "layer_causal": (True, True, False, True, False)},
    ),
    (
        "Qwen3.8-27B-DFlash2: sliding and not causal",
        {
            "architectures": ["DFlash2DraftModel"],
            "hidden_size": 5120,
            "intermediate_size": 17408,
            "num_target_layers": 64,
            "block_size": 8,
            "is_causal": False,
            "layer_types": [SLIDING] * 5,
            "sliding_window": 2048,
            "vocab_size": 248320,
            "dflash_config": {
                "mask_token_id": 248070,
                "target_layer_ids": [5, 19, 33, 47, 61],
                "conv_kernel_size": 2,
                "conv_group_size": 16,
                "selector_rank": 256,
                "selector_top_k": 16,
            },
        },
        {"layer_causal": (False,) * 5, "layer_windows": (2048,) * 5, "selector_top_k": 16},
    ),
    (
        "Kimi: trained with 16, served with 8",
        {
            "hidden_size": 7168,
            "vocab_size": 163840,
            "dflash_config": {"mask_token_id": 163838, "runtime_block_size": 8},
        },
        {"mask_token_id": 163838, "block_size": 16, "runtime_block_size": 8},
    ),
    (
        "LFM2.5-1.2B: eight layers, five taps",
        {
            "num_hidden_layers": 8,
            "layer_types": [FULL] * 8,
            "num_target_layers": 16,
            "dflash_config": {"mask_token_id": 16, "target_layer_ids": [1, 4, 7, 10, 13]},
        },
        {"num_layers": 8, "target_layer_ids": (1, 4, 7, 10, 13)},
    ),
    (
        "Llama-3.1-8B: block 10",
        {"block_size": 10, "num_target_layers": 32, "dflash_config": {"mask_token_id": 128255}},
        {"block_size": 10, "target_layer_ids": (1, 8, 15, 22, 29)},
    ),
    (
        "JetSpec: causal in the block",
        {
            "dflash_config": QWEN3_8B["dflash_config"]
            | {"causal_head": True, "target_hidden_size": 4096}
        },
        {"layer_causal": (True,) * 5, "shift": 0},
    ),
    (
        "DSpark: block 7",
        {
            "architectures": ["DSparkDraftModel"],
            "block_size": 7,
            "markov_rank": 256,
            "markov_head_type": "vanilla",
            "enable_confidence_head": True,
            "confidence_head_with_markov": True,
        },
        {"block_size": 8, "shift": 1, "markov_rank": 256, "confidence_with_markov": True},
    ),
]


@pytest.mark.parametrize(("changes", "expected"), [p[1:] for p in PUBLISHED], ids=lambda v: "")
def test_published_drafters(changes: dict[str, Any], expected: dict[str, Any]) -> None:
    config = parse(**changes)
    assert {name: getattr(config, name) for name in expected} == expected


PLACES: list[tuple[dict[str, Any], str, Any]] = [
    (inner(block_size=8) | {"block_size": 16}, "block_size", 8),
    ({"block_size": 10}, "block_size", 10),
    ({"block_size": None}, "block_size", 16),
    (inner(block_size=None) | {"block_size": 4}, "block_size", 4),
    ({"dflash_config": {}, "target_layer_ids": [2, 0], "mask_token_id": 7}, "mask_token_id", 7),
    (
        {"dflash_config": None, "target_layer_ids": [2, 0], "mask_token_id": 7},
        "target_layer_ids",
        (2, 0),
    ),
    (inner(mask_token_id=0), "mask_token_id", 0),
    (inner(num_target_layers=40) | {"num_target_layers": None}, "num_target_layers", 40),
    (
        {"rope_theta": None, "rope_parameters": {"rope_theta": 5e6, "rope_type": "default"}},
        "rope_theta",
        5e6,
    ),
    ({"rope_parameters": {"rope_theta": 5e6, "rope_type": "default"}}, "rope_theta", 1e6),
    (
        {"partial_rotary_factor": 0.25, "rope_parameters": {"partial_rotary_factor": 0.25}},
        "rope_scaling",
        None,
    ),
    ({"rope_scaling": {"type": "default"}}, "rope_scaling", None),
    ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_theta", 1e6),
    ({"head_dim": None}, "head_dim", 128),
    ({"final_logit_softcapping": 30}, "final_logit_softcapping", 30.0),
    (inner(final_logit_softcapping=None), "final_logit_softcapping", 0.0),
    ({"output_multiplier": 0.5}, "output_multiplier", 0.5),
    (inner(projector_type="dflash", use_swa=False, mask_token="<|MASK|>"), "block_size", 16),
    (inner(attention_sink_bias=False, sample_from_anchor=False), "block_size", 16),
    (inner(causal_head=True, target_hidden_size=4096), "layer_causal", (True,) * 5),
    (inner(causal_head=True, draft_shift=False), "block_size", 16),
    ({"torch_dtype": "float16", "dtype": None}, "block_size", 16),
    ({"layer_types": None}, "layer_windows", (None,) * 5),
    (
        inner(swa_window_size=512, use_swa=True) | {"layer_types": [SLIDING] * 5},
        "layer_windows",
        (512,) * 5,
    ),
    (inner(training_mode="vp_drafter", prefix_weight_base=0.8), "prefix_weight_base", 0.8),
    ({"training_mode": "vp_drafter"}, "prefix_weight_base", 0.9),
    (inner(loss_type="vp_drafter", prefix_weight_base=None), "prefix_weight_base", 0.9),
    (inner(loss_type="dpace", training_mode="dflash"), "prefix_weight_base", 0.0),
]


@pytest.mark.parametrize(("changes", "name", "expected"), PLACES)
def test_a_key_is_read_where_it_lives(changes: dict[str, Any], name: str, expected: Any) -> None:
    assert getattr(parse(**changes), name) == expected


@pytest.mark.parametrize(
    "place", [{"rope_scaling": "yarn"}, {"rope_scaling": None, "rope_parameters": "yarn"}]
)
def test_yarn_is_read_from_both_places(place: dict[str, Any]) -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    extra = {"rope_theta": 2e6, "partial_rotary_factor": 0.25}
    changes = {key: value and yarn | extra for key, value in place.items()}
    assert parse(**changes).rope_scaling == yarn
    assert parse(**changes).rope_theta == 1e6
    if "rope_parameters" in changes:
        assert parse(("rope_theta",), **changes).rope_theta == 2e6


@pytest.mark.parametrize(
    ("is_causal", "causal", "kinds", "expected"),
    [
        (None, None, [FULL, FULL], (False, False)),
        (None, None, [SLIDING, FULL], (True, False)),
        (None, False, [SLIDING, FULL], (False, False)),
        (None, True, [SLIDING, FULL], (True, True)),
        (False, True, [SLIDING, FULL], (False, False)),
        (True, False, [SLIDING, FULL], (True, True)),
        (False, None, [SLIDING, SLIDING], (False, False)),
    ],
)
def test_causality_is_a_tri_state_with_precedence(
    is_causal: bool | None, causal: bool | None, kinds: list[str], expected: tuple[bool, ...]
) -> None:
    shape = {"num_hidden_layers": 2, "layer_types": kinds, "sliding_window": 8}
    assert parse(**shape, is_causal=is_causal, **inner(causal=causal)).layer_causal == expected
    if is_causal is None:
        assert parse(("is_causal",), **shape, **inner(causal=causal)).layer_causal == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (inner(causal_head=True), (True, True)),
        (inner(causal_head=True, causal=False) | {"is_causal": False}, (True, True)),
        (inner(causal_head=False), (True, False)),
        ({"dflash_query_causal": False}, (False, False)),
        ({"sliding_window_non_causal": True}, (False, False)),
        ({"sliding_window_non_causal": False}, (True, False)),
    ],
)
def test_other_names_of_causality(changes: dict[str, Any], expected: tuple[bool, ...]) -> None:
    shape = {"num_hidden_layers": 2, "layer_types": [SLIDING, FULL], "sliding_window": 8}
    assert parse(**shape, **changes).layer_causal == expected


@pytest.mark.parametrize(
    ("target", "layers", "expected"),
    [
        (36, 5, (1, 9, 17, 25, 33)),
        (32, 5, (1, 8, 15, 22, 29)),
        (64, 5, (1, 16, 31, 46, 61)),
        (40, 5, (1, 10, 19, 28, 37)),
        (16, 5, (1, 4, 7, 10, 13)),
        (36, 1, (18,)),
        (7, 1, (3,)),
    ],
)
def test_the_default_spread_of_tapped_layers(
    target: int, layers: int, expected: tuple[int, ...]
) -> None:
    assert default_layer_ids(target, layers) == expected
    changes = {"num_target_layers": target, "num_hidden_layers": layers, "layer_types": None}
    assert parse(**changes, dflash_config={"mask_token_id": 1}).target_layer_ids == expected


REFUSED: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    (inner(attention_sink_bias=True), ("attention_sink_bias", "True")),
    ({"attention_sink_bias": True}, ("attention_sink_bias", "True")),
    (inner(attention_value_scale=0.5), ("attention_value_scale", "0.5")),
    (inner(draft_shift=1), ("draft_shift", "1", "true or false")),
    (
        inner(draft_shift=True) | {"sample_from_anchor": False},
        ("draft_shift True", "sample_from_anchor False"),
    ),
    (inner(target_hidden_size=2048), ("target_hidden_size", "2048", "4096")),
    (inner(markov_rank=-1), ("markov_rank", "-1")),
    (inner(markov_rank=8, markov_head_type="gated"), ("markov_head_type", "'gated'", "vanilla")),
    (
        inner(enable_confidence_head=True, confidence_head_with_markov=True),
        ("confidence_head_with_markov", "markov_rank is 0"),
    ),
    (inner(enable_confidence_head="yes"), ("enable_confidence_head", "'yes'")),
    ({"draft_vocab_size": 151937}, ("draft_vocab_size", "151937", "151936")),
    (
        inner(conv_kernel_size=2, conv_group_size=16, selector_rank=8, selector_top_k=4)
        | {"architectures": ["DFlash2DraftModel"], "draft_vocab_size": 32000},
        ("draft_vocab_size", "32000", "selector"),
    ),
    (inner(selector_rank=256), ("selector_rank", "256")),
    ({"aux_hidden_state_layer_ids": [2, 4]}, ("aux_hidden_state_layer_ids", "[2, 4]")),
    (inner(projector_type="domino"), ("projector_type", "'domino'", "dflash, dspark")),
    (inner(use_swa=True), ("use_swa", "layer_types")),
    ({"attention_bias": True}, ("attention_bias", "True")),
    ({"hidden_act": "gelu"}, ("hidden_act", "gelu")),
    ({"rope_is_neox_style": False}, ("rope_is_neox_style", "False")),
    ({"dflash_config": [1]}, ("dflash_config", "[1]")),
    ({"hidden_size": "4096"}, ("hidden_size", "'4096'")),
    ({"hidden_size": True}, ("hidden_size", "True")),
    ({"vocab_size": None}, ("vocab_size", "missing")),
    ({"num_hidden_layers": 0}, ("num_hidden_layers", "0")),
    ({"num_hidden_layers": 10**9, "layer_types": None}, ("num_hidden_layers", "at most 256")),
    ({"intermediate_size": 2**31}, ("intermediate_size is 2147483648", "at most 2147483647")),
    (inner(block_size=1025), ("block_size is 1025", "at most 1024")),
    ({"num_target_layers": None}, ("num_target_layers", "missing")),
    ({"num_key_value_heads": 5}, ("num_key_value_heads", "5", "32")),
    ({"head_dim": "wide"}, ("head_dim", "'wide'")),
    ({"max_position_embeddings": []}, ("max_position_embeddings", "[]")),
    ({"rms_norm_eps": "small"}, ("rms_norm_eps", "'small'")),
    ({"rms_norm_eps": float("nan")}, ("rms_norm_eps", "nan")),
    (inner(input_embedding_scale="x"), ("input_embedding_scale", "'x'")),
    ({"block_size": 1}, ("block_size", "1")),
    ({"block_size": 0}, ("block_size", "0")),
    (inner(block_size=8.0), ("block_size", "8.0")),
    (inner(mask_token_id=None), ("mask_token_id", "missing")),
    (inner(mask_token_id=-1), ("mask_token_id", "-1")),
    (inner(target_layer_ids=[]), ("target_layer_ids", "[]")),
    (inner(target_layer_ids=5), ("target_layer_ids", "5")),
    (inner(target_layer_ids="all"), ("target_layer_ids", "'all'")),
    (inner(target_layer_ids=[1, 36]), ("target_layer_ids", "36")),
    (inner(target_layer_ids=[-1]), ("target_layer_ids", "-1", "36")),
    (inner(target_layer_ids=[1, True]), ("target_layer_ids", "True")),
    ({"rope_theta": None}, ("rope_theta", "missing")),
    ({"rope_theta": "big"}, ("rope_theta", "'big'")),
    ({"rope_parameters": 3}, ("rope_parameters", "3")),
    ({"rope_scaling": {"rope_type": "dynamic", "factor": 2}}, ("rope_type", "'dynamic'")),
    ({"rope_scaling": {"rope_type": ["yarn"]}}, ("rope_type", "yarn")),
    ({"rope_scaling": {"rope_type": "yarn"}}, ("factor", "missing")),
    ({"rope_scaling": {"type": "linear", "factor": "x"}}, ("factor", "'x'")),
    ({"layer_types": [FULL] * 4}, ("layer_types", "4", "5")),
    ({"layer_types": ["linear_attention"] * 5}, ("layer_types", "linear_attention")),
    ({"layer_types": "full_attention"}, ("layer_types", "full_attention")),
    ({"layer_types": [SLIDING] * 5}, ("sliding_window", "missing")),
    ({"layer_types": [SLIDING] * 5, "sliding_window": 2.5}, ("sliding_window", "2.5")),
    ({"is_causal": "no"}, ("is_causal", "'no'")),
    (inner(causal=0), ("causal", "0")),
    ({"training_mode": "eagle"}, ("training_mode", "'eagle'", "dflash, vp_drafter")),
    (inner(loss_type="vp_drafter", training_mode="dflash"), ("'dflash'", "'vp_drafter'")),
    (inner(training_mode="vp_drafter", prefix_weight_base=0), ("prefix_weight_base", "0")),
]


@pytest.mark.parametrize(("changes", "named"), REFUSED, ids=[str(r[1]) for r in REFUSED])
def test_what_cannot_be_honoured_is_one_line_with_key_and_value(
    changes: dict[str, Any], named: tuple[str, ...]
) -> None:
    with pytest.raises(AdapterError) as refused:
        parse(**changes)
    message = str(refused.value)
    assert "\n" not in message
    assert all(part in message for part in named), message


SHIFTED: list[tuple[dict[str, Any], int]] = [
    (inner(draft_shift=True, block_size=7), 1),
    (inner(block_size=7) | {"sample_from_anchor": True}, 1),
    (inner(dspark_bonus_anchor=True, block_size=7), 1),
    (inner(projector_type="dspark", block_size=7), 1),
    ({"architectures": ["DSparkDraftModel"], "block_size": 7}, 1),
    (inner(projector_type="dspark", sample_from_anchor=False, block_size=8), 0),
]


@pytest.mark.parametrize(("changes", "shift"), SHIFTED)
def test_a_shifted_block_of_7_is_one_of_8_tokens(changes: dict[str, Any], shift: int) -> None:
    config = parse(**changes)
    assert (config.shift, config.block_size, config.runtime_block_size) == (shift, 8, 8)


def test_the_heads_of_dspark_and_a_reduced_vocabulary() -> None:
    heads = {
        "markov_rank": 256,
        "markov_head_type": "vanilla",
        "enable_confidence_head": True,
        "confidence_head_with_markov": True,
    }
    for changes in (inner(**heads), heads):  # as SpecForge writes them, and as DeepSpec does
        config = parse(**changes, draft_vocab_size=32000)
        assert (config.markov_rank, config.draft_vocab_size, config.logits) == (256, 32000, 32000)
        assert config.confidence_head
        assert config.confidence_with_markov
        assert architecture(QWEN3_8B | changes) == "DSparkDraftModel"
    assert parse(draft_vocab_size=151936).draft_vocab_size == 0
    assert architecture(QWEN3_8B) == "DFlashDraftModel"


def test_default_layer_ids_of_a_target_too_shallow_for_them_are_refused() -> None:
    changes = {"num_target_layers": 2, "num_hidden_layers": 2, "layer_types": None}
    with pytest.raises(AdapterError, match="outside the target's 2 layers"):
        parse(**changes, dflash_config={"mask_token_id": 1})


def test_the_advised_block_is_read_and_at_most_the_trained_one() -> None:
    assert parse_dflash_config(QWEN3_8B).runtime_block_size == 16
    inner = QWEN3_8B["dflash_config"]
    advised = QWEN3_8B | {"dflash_config": inner | {"runtime_block_size": 8}}
    assert parse_dflash_config(advised).runtime_block_size == 8
    wrong = QWEN3_8B | {"dflash_config": inner | {"runtime_block_size": 17}}
    with pytest.raises(AdapterError, match="runtime_block_size is 17, but block_size is 16"):
        parse_dflash_config(wrong)
