"""Layers over this package's quantised products: the same figures, and which layers they are."""

import json
import os
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from dflash_serve.adapters.verify_linear import (
    OwnEmbedding,
    OwnLinear,
    use_own_products,
)
from dflash_serve.kernels.native import native
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


@pytest.mark.skipif(native() is None, reason="the extension was not built here")
def test_exchanged_layers_give_the_same_figures() -> None:
    model = quantised()
    before = model(TOKENS)
    assert use_own_products(model) == 3
    assert type(model.embed) is OwnEmbedding
    assert [type(layer) for layer in model.layers] == [OwnLinear, OwnLinear]
    assert mx.allclose(model(TOKENS), before, rtol=1e-4, atol=1e-5).item()
    assert use_own_products(model) == 0


@pytest.mark.parametrize(
    "options", [{"bits": 6}, {"mode": "mxfp4"}, {"class_predicate": lambda path, module: False}]
)
def test_other_layers_stay_as_they_are(options: dict[str, object]) -> None:
    model = quantised(**options)
    kinds = [type(module) for module in model.modules()]
    assert use_own_products(model) == 0
    assert [type(module) for module in model.modules()] == kinds


PROGRAM = """
import gc, sys
from pathlib import Path
import dflash_serve
import mlx.core as mx
from dflash_serve.adapters.cpu_weights import CpuWeights
from dflash_serve.adapters.loading import load_target
from dflash_serve.adapters.verify_linear import OwnEmbedding, OwnLinear
target = load_target(Path(sys.argv[1]), CpuWeights.STORED)
logits = target.logits(mx.ones((1, target.hidden_size)))
kinds = {type(found).__name__ for found in gc.get_objects()}
print(sorted(kinds & {"OwnEmbedding", "OwnLinear"}), logits.tolist())
"""


def test_layers_are_exchanged_where_there_is_a_product_for_them(tmp_path: Path) -> None:
    """On a CPU with the extension, or where the kernel of few rows is switched on."""
    directory = write_quantised(tmp_path, bits=4)
    shown = {}
    for name, environment in {
        "stock": {"DFLASH_KERNELS": "plain"},
        "switched": {"DFLASH_KERNELS": "plain", "DFLASH_VERIFY_QMM": "1"},
        "default": {},
    }.items():
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(directory)],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=True,
        )
        kinds, logits = done.stdout.split("] ", 1)
        shown[name] = kinds + "]", np.array(json.loads(logits))
    own = "['OwnEmbedding', 'OwnLinear']"
    assert shown["stock"][0] == "[]"
    assert shown["switched"][0] == own
    assert (shown["switched"][1] == shown["stock"][1]).all()
    assert shown["default"][0] == (own if native() else "[]")
    np.testing.assert_allclose(shown["default"][1], shown["stock"][1], rtol=1e-4, atol=1e-5)
