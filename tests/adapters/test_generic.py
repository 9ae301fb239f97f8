"""Models of mlx-lm without an adapter of their own: equal to mlx-lm's own, or refused by name."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from dflash_serve.adapters.base import AdapterError, TargetAdapter
from dflash_serve.adapters.cache_spec import AttentionSpec
from dflash_serve.adapters.loading import load_target, make_target
from tests.adapters.caches import EngineRows
from tests.adapters.dense import DenseRows
from tests.adapters.feeding import PROMPT, feed
from tests.adapters.upstream import Upstream
from tests.tiny import TARGET, WINDOW, reconfigure, write_target
from tests.tiny_models import GENERIC

LATENT: dict[str, Any] = {
    "kv_lora_rank": 16,
    "n_routed_experts": None,
    "q_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "rope_scaling": None,
    "v_head_dim": 16,
}
STATES: dict[str, Any] = {
    "conv_kernel": 4,
    "state_size": 8,
    "time_step_rank": 4,
    "use_bias": False,
    "use_conv_bias": True,
}
GPT2: dict[str, Any] = {
    "layer_norm_epsilon": 1e-5,
    "n_ctx": 512,
    "n_embd": 64,
    "n_head": 4,
    "n_layer": 4,
    "n_positions": 512,
}
CHUNKED: dict[str, Any] = {
    "attention_bias": False,
    "attention_chunk_size": 24,
    "attn_scale": 0.1,
    "attn_temperature_tuning": 4,
    "floor_scale": 8192,
    "interleave_moe_layer_step": 2,
    "intermediate_size_mlp": 96,
    "no_rope_layers": [1, 1, 1, 0],
    "num_experts_per_tok": 1,
    "num_local_experts": 4,
    "rope_scaling": None,
    "use_qk_norm": True,
}
CAPPED: dict[str, Any] = {
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "query_pre_attn_scalar": 16.0,
}
DYNAMIC: dict[str, Any] = {"rope_scaling": {"type": "dynamic", "factor": 2.0}}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "mamba": (STATES, "layer 0 has a ArraysCache; the generic adapter knows KVCache"),
    "llama4": ({"text_config": TARGET | CHUNKED}, "layer 0 has a ChunkedKVCache"),
    "deepseek_v3": (LATENT, r"layer 0 \(DeepseekV3DecoderLayer\) does not run over"),
    "gemma2": (CAPPED, r"layer 0 \(TransformerBlock\) does not run over"),
    "gpt2": (GPT2, "the model does not run .* positions are used outside of the layers"),
    "internlm2": (DYNAMIC | {"bias": False}, r"layer 0 \(TransformerBlock\) does not run"),
    "qwen9": ({}, "is not supported .supported: gemma3"),
    "rope_utils": ({}, "is not supported .supported: gemma3"),
    "../qwen2": ({}, "is not supported .supported: gemma3"),
    "qwen2\0": ({}, "is not supported .supported: gemma3"),
}


@pytest.fixture(scope="module", params=GENERIC)
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_target(tmp_path_factory.mktemp("generic"), base=GENERIC[request.param])


@pytest.fixture(scope="module")
def target(directory: Path) -> TargetAdapter:
    return load_target(directory)


def test_it_computes_what_mlx_lm_does(directory: Path, target: TargetAdapter) -> None:
    """Residual stream, final norm and logits, bit for bit, of a prompt, a token and a block."""
    theirs, again = Upstream(directory), Upstream(directory)
    rows = DenseRows(target.cache_specs, 1)
    layers = tuple(range(target.num_layers))
    for tokens in (PROMPT, [3], [7, 8, 9]):
        *after, normed = theirs.residuals(tokens)
        captured = feed(target, rows, [tokens], layers)
        assert captured.taps is not None
        assert mx.array_equal(captured.taps, mx.concatenate(after, axis=-1)).item()
        assert mx.array_equal(captured.hidden, normed).item()
        assert mx.array_equal(target.logits(captured.hidden), again.logits(tokens)).item()


def test_rows_of_a_batch_compute_what_they_do_alone(target: TargetAdapter) -> None:
    """Across the wrap of a ring, and with tokens that are taken back."""
    prompts = [PROMPT * 3, PROMPT[:2], PROMPT[9:30]]
    rows = EngineRows(target.cache_specs, len(prompts))
    feed(target, rows, prompts)
    feed(target, rows, [[5, 6, 7, 8]] * len(prompts), keep=[2, 0, 4])
    together = feed(target, rows, [[9, 10]] * len(prompts)).hidden
    for row, (prompt, kept) in enumerate(zip(prompts, (2, 0, 4), strict=True)):
        alone = EngineRows(target.cache_specs, 1)
        feed(target, alone, [prompt + [5, 6, 7, 8][:kept]])
        assert mx.array_equal(together[row], feed(target, alone, [[9, 10]]).hidden[0]).item()


def test_an_embedding_is_what_enters_the_first_layer(target: TargetAdapter) -> None:
    """Scaled as the model scales it, in any shape."""
    one = target.embed(mx.array(7))
    assert one.shape == (64,)
    assert mx.array_equal(target.embed(mx.array([[7, 3], [1, 7]]))[1, 1], one).item()


@pytest.mark.parametrize("kind", ["granite", "minicpm"])
def test_the_embedding_scale_is_the_models(tmp_path: Path, kind: str) -> None:
    directory = write_target(tmp_path, base=GENERIC[kind])
    stored = mx.load(str(directory / "model.safetensors"))
    assert isinstance(stored, dict)
    want = 12.0 * stored["model.embed_tokens.weight"][7]
    assert mx.array_equal(load_target(directory).embed(mx.array(7)), want).item()


def test_what_layers_keep_is_found(tmp_path: Path) -> None:
    target = load_target(write_target(tmp_path, base=GENERIC["olmo3"]))
    assert target.cache_specs == tuple(
        AttentionSpec(2, 16, mx.float32, window) for window in (WINDOW, WINDOW, None, WINDOW)
    )
    sizes = target.num_layers, target.hidden_size, target.vocab_size, target.max_context
    assert sizes == (4, 64, 96, 512)


@pytest.mark.parametrize(
    ("kind", "changes", "context"),
    [
        ("phi3", {"sliding_window": 40}, 40),
        ("phi3", {"sliding_window": 4000}, 512),
        ("qwen2", {"use_sliding_window": False, "sliding_window": 40}, 512),
        ("cohere2", {}, 512),
    ],
)
def test_a_window_that_mlx_lm_leaves_out_ends_the_context(
    kind: str, changes: dict[str, Any], context: int
) -> None:
    """Up to there, attention with and without it is the same."""
    assert make_target(GENERIC[kind] | changes).max_context == context


def test_a_config_without_a_length_is_refused(tmp_path: Path) -> None:
    directory = write_target(tmp_path, base=GENERIC["qwen2"])
    reconfigure(directory, max_position_embeddings=None)
    with pytest.raises(AdapterError, match="none of max_position_embeddings"):
        load_target(directory)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_the_engine_has_no_cache_for_is_refused_by_name(kind: str) -> None:
    changes, message = REFUSED[kind]
    config = TARGET | changes | {"model_type": kind}
    with pytest.raises(AdapterError, match=message) as caught:
        make_target(config)
    assert "\n" not in str(caught.value)
    assert repr(kind) in str(caught.value)
