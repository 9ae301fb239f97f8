"""Layers over the quantised matmul of few rows: the same figures, and which layers they are."""

import os
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest

from dflash_serve.adapters.verify_linear import (
    VerifyEmbedding,
    VerifyLinear,
    use_verify_kernels,
)
from tests.adapters.quantised import write_quantised


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(64, 64)
        self.layers = [nn.Linear(64, 32), nn.Linear(32, 64, bias=False)]

    def __call__(self, tokens: mx.array) -> mx.array:
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.embed.as_linear(x)


def quantised(**options: object) -> Model:
    mx.random.seed(3)
    model = Model()
    nn.quantize(model, **({"group_size": 32, "bits": 4} | options))
    return model


TOKENS = mx.array([[1, 5, 63]])


def test_exchanged_layers_give_the_same_figures() -> None:
    model = quantised()
    before = model(TOKENS)
    assert use_verify_kernels(model) == 3
    assert type(model.embed) is VerifyEmbedding
    assert [type(layer) for layer in model.layers] == [VerifyLinear, VerifyLinear]
    assert mx.array_equal(model(TOKENS), before).item()
    assert use_verify_kernels(model) == 0


@pytest.mark.parametrize(
    "options", [{"bits": 6}, {"mode": "mxfp4"}, {"class_predicate": lambda path, module: False}]
)
def test_other_layers_stay_as_they_are(options: dict[str, object]) -> None:
    model = quantised(**options)
    kinds = [type(module) for module in model.modules()]
    assert use_verify_kernels(model) == 0
    assert [type(module) for module in model.modules()] == kinds


PROGRAM = """
import gc, sys
from pathlib import Path
import dflash_serve
import mlx.core as mx
from dflash_serve.adapters.cpu_weights import CpuWeights
from dflash_serve.adapters.loading import load_target
from dflash_serve.adapters.verify_linear import VerifyEmbedding, VerifyLinear
target = load_target(Path(sys.argv[1]), CpuWeights.STORED)
logits = target.logits(mx.ones((1, target.hidden_size)))
kinds = {type(found).__name__ for found in gc.get_objects()}
print(sorted(kinds & {"VerifyEmbedding", "VerifyLinear"}), logits.tolist())
"""


def test_the_switch_exchanges_the_layers_of_a_loaded_target(tmp_path: Path) -> None:
    directory = write_quantised(tmp_path, bits=4)
    shown = {
        switch: subprocess.run(
            [sys.executable, "-c", PROGRAM, str(directory)],
            env=os.environ | {"DFLASH_VERIFY_QMM": switch},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for switch in ("0", "1")
    }
    assert shown["0"].startswith("[] ")
    assert shown["1"].startswith("['VerifyEmbedding', 'VerifyLinear'] ")
    assert shown["0"].split("] ", 1)[1] == shown["1"].split("] ", 1)[1]
