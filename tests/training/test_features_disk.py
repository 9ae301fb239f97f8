"""Features on disk: the same values as from the target, bounded, resumable, never of another."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from dflash_serve.adapters.base import Captured
from dflash_serve.adapters.qwen3 import Qwen3Target
from dflash_serve.measure.errors import DataError
from dflash_serve.training.data.example import Example
from dflash_serve.training.features.files import FeatureFiles, Features, examples_digest
from dflash_serve.training.features.store import (
    FeatureStore,
    bytes_per_token,
    target_features,
)
from dflash_serve.training.run.distributed import Processes
from dflash_serve.training.run.job import open_features
from dflash_serve.training.run.settings import RunSettings
from tests.training.disk import no_file_above

LAYERS = (0, 2)
WIDTH = 32


class Counting:
    """A target that counts the sequences it is shown."""

    def __init__(self, target: Qwen3Target) -> None:
        self._target = target
        self.sequences = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)

    def forward(self, tokens: mx.array, *rest: Any) -> Captured:
        self.sequences += tokens.shape[0]
        return self._target.forward(tokens, *rest)


@pytest.fixture
def counting(target: Qwen3Target) -> Counting:
    return Counting(target)


Open = Callable[..., FeatureStore]


@pytest.fixture
def open_store(counting: Counting, examples: list[Example], tmp_path: Path) -> Open:
    def make(
        layers: tuple[int, ...] = LAYERS,
        given: list[Example] = examples,
        config: str = "{}",
        **changes: Any,
    ) -> FeatureStore:
        fields = {"target": "t", "data": "d", "out": tmp_path, "features": "disk", "soft_label": 1}
        kept = {} if changes.get("features") == "online" else {"feature_gb": 1e-3}
        settings = RunSettings.model_validate(fields | kept | changes)
        (tmp_path / "config.json").write_text(config)
        target: Any = counting
        return open_features(settings, tmp_path, target, layers, given, Processes())

    return make


def shards(directory: Path) -> list[Path]:
    return sorted((directory / "features").glob("shard-*"))


def as_arrays(store: FeatureStore) -> tuple[np.ndarray, np.ndarray]:
    made = store.batch([2, 0, 1, 0], 32)
    assert made.final is not None
    return np.array(made.taps.astype(mx.float32)), np.array(made.final.astype(mx.float32))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_disk_memory_and_target_give_the_same_bits(
    dtype: str,
    open_store: Open,
    counting: Counting,
    target: Qwen3Target,
    examples: list[Example],
    tmp_path: Path,
) -> None:
    first = open_store(feature_dtype=dtype)
    fresh = as_arrays(first)
    first.close()
    assert counting.sequences == 3
    read = as_arrays(open_store(feature_dtype=dtype))
    assert counting.sequences == 3
    online = as_arrays(open_store(features="online", feature_dtype=dtype))
    memory = open_store(features="memory", feature_dtype=dtype)
    as_arrays(memory)
    again = counting.sequences
    kept = as_arrays(memory)
    assert counting.sequences == again
    for other in (read, online, kept):
        np.testing.assert_array_equal(other[0], fresh[0])
        np.testing.assert_array_equal(other[1], fresh[1])
    exact = target_features(target, mx.array(examples[0].tokens)[None], LAYERS, final=True)
    assert exact.final is not None
    stored = mx.float16 if dtype == "float16" else mx.bfloat16
    for got, want in ((fresh[0], exact.taps), (fresh[1], exact.final)):
        assert got.shape == (4, 32, want.shape[-1])
        assert not got[0, examples[2].length :].any()
        np.testing.assert_allclose(
            got[1, : examples[0].length],
            np.array(want[0].astype(stored).astype(mx.float32)),
            rtol=1e-2,
            atol=1e-3,
        )
    logits = target.logits(mx.array(fresh[1][1, : examples[0].length]))
    np.testing.assert_allclose(
        np.array(logits), np.array(target.logits(exact.final[0])), rtol=2e-2, atol=2e-2
    )


def test_final_states_come_only_where_asked(open_store: Open) -> None:
    for mode in ("online", "memory", "disk"):
        assert open_store(features=mode, soft_label=0).batch([0], 32).final is None


def test_files_stay_under_their_bound(
    open_store: Open, counting: Counting, examples: list[Example], tmp_path: Path
) -> None:
    bound = 22 * bytes_per_token(WIDTH, 2, final=True) + 5000
    store = open_store(feature_gb=bound / 1e9)
    fresh = as_arrays(store)
    store.close()
    used = sum(path.stat().st_size for path in shards(tmp_path))
    assert 0 < used <= bound
    read = as_arrays(open_store(feature_gb=bound / 1e9))
    assert 3 < counting.sequences < 6
    np.testing.assert_array_equal(read[0], fresh[0])
    assert sum(path.stat().st_size for path in shards(tmp_path)) == used


def test_memory_stays_under_its_bound(counting: Counting, examples: list[Example]) -> None:
    bound = examples[1].length * bytes_per_token(WIDTH, len(LAYERS))
    store = FeatureStore(counting, LAYERS, examples, bound)
    for index in (1, 0, 2, 1, 0, 2):
        store.batch([index], 32)
    assert counting.sequences == 5


def files(directory: Path, shard_bytes: int = 3000) -> FeatureFiles:
    return FeatureFiles.open(directory, {"target": "t"}, 1 << 20, shard_bytes=shard_bytes)


def rows(count: int) -> list[Features]:
    rng = np.random.default_rng(0)
    arrays = [mx.array(rng.normal(size=(5 + i, 64)).astype(np.float16)) for i in range(count)]
    return [Features(array, None) for array in arrays]


def test_a_killed_run_leaves_whole_shards_and_torn_ones_come_again(tmp_path: Path) -> None:
    made, first = rows(7), files(tmp_path)
    for index, row in enumerate(made):
        first.put(index, row)
    del first  # no close: what is in memory is lost, as it is when a run is killed
    paths = sorted(tmp_path.glob("shard-*"))
    assert len(paths) == 2
    found = [index for index in range(7) if files(tmp_path).get(index) is not None]
    assert found == [0, 1, 2, 3, 4, 5][: len(found)]
    assert len(found) in (5, 6)
    paths[0].write_bytes(paths[0].read_bytes()[:-1])
    (tmp_path / ".shard-00009.safetensors.x").write_bytes(b"half")
    again = files(tmp_path)
    assert not paths[0].exists()
    assert not list(tmp_path.glob(".shard-*"))
    lost = [index for index in found if again.get(index) is None]
    assert lost
    assert lost != found
    for index in lost:
        again.put(index, made[index])
    again.close()
    last = files(tmp_path)
    for index in found:
        row = last.get(index)
        assert row is not None
        np.testing.assert_array_equal(np.array(row.taps), np.array(made[index].taps))


def test_a_full_disk_is_told_and_leaves_the_rows_before(tmp_path: Path) -> None:
    made, store = rows(4), files(tmp_path, shard_bytes=1)
    store.put(0, made[0])
    with no_file_above(100), pytest.raises(DataError, match=r"shard-00001\.\w+ cannot be written"):
        store.put(1, made[1])
    assert len(list(tmp_path.glob("*shard-*"))) == 1
    del store
    again = files(tmp_path)
    assert [again.get(index) is not None for index in range(2)] == [True, False]


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, b"\x02\0\0\0\0\0\0\0{}", b"\0" * 500])
def test_what_is_no_shard_is_deleted(content: bytes, tmp_path: Path) -> None:
    files(tmp_path)
    (tmp_path / "shard-00000.safetensors").write_bytes(content)
    assert files(tmp_path).get(0) is None
    assert not list(tmp_path.glob("shard-*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": "[]"}, "features of another target "),
        ({"feature_dtype": "bfloat16"}, "dtype float16 (now bfloat16)"),
        ({"soft_label": 0}, "final true (now false)"),
    ],
)
def test_features_of_something_else_are_refused(
    change: dict[str, Any], message: str, open_store: Open, counting: Counting
) -> None:
    first = open_store()
    as_arrays(first)
    first.close()
    with pytest.raises(DataError) as caught:
        open_store(**change)
    assert message in str(caught.value)
    open_store().batch([0], 32)
    assert counting.sequences == 3


def test_a_folder_of_somebody_elses_shards_is_left_alone(tmp_path: Path) -> None:
    theirs = [tmp_path / "shard-00000.parquet", tmp_path / "shard-00000.safetensors"]
    for path in theirs:
        path.write_bytes(b"their data")
    with pytest.raises(DataError, match="not ours"):
        files(tmp_path)
    assert [path.read_bytes() for path in theirs] == [b"their data"] * 2


def test_a_folder_is_one_runs_and_can_be_made(tmp_path: Path) -> None:
    first = files(tmp_path)
    with pytest.raises(DataError, match="in use by another run"):
        files(tmp_path)
    first.close()
    files(tmp_path).close()
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file/features cannot be made"):
        files(tmp_path / "file" / "features")


def test_other_layers_or_other_tokens_are_another_origin(
    examples: list[Example], open_store: Open, tmp_path: Path
) -> None:
    open_store()
    with pytest.raises(DataError, match=r"layers \[0, 2\] \(now \[0, 1\]\)"):
        open_store((0, 1))
    with pytest.raises(DataError, match="tokens"):
        open_store(given=examples[::-1])
    masked = [Example(e.tokens, np.ones_like(e.loss_mask)) for e in examples]
    assert examples_digest(masked) == examples_digest(examples)
    origin = json.loads((tmp_path / "features" / "features.json").read_text())
    assert origin["layers"] == [0, 2]


def test_activations_beyond_float16_are_an_error_that_says_what_to_do(
    target: Qwen3Target, examples: list[Example]
) -> None:
    class Loud(Counting):
        def forward(self, tokens: mx.array, *rest: Any) -> Captured:
            made = super().forward(tokens, *rest)
            assert made.taps is not None
            return Captured(made.hidden, made.taps * 1e6)

    with pytest.raises(DataError, match="more than float16 holds: keep them as bfloat16"):
        FeatureStore(Loud(target), LAYERS, examples, 0).batch([0], 32)
    wide = FeatureStore(Loud(target), LAYERS, examples, 0, dtype=mx.bfloat16)
    assert np.isfinite(np.array(wide.batch([0], 32).taps.astype(mx.float32))).all()
