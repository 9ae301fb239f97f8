"""Prompts of a stored target are asked as its server asks them."""

import json
import shutil
from pathlib import Path

from dflash_serve.bench.workloads import encode
from dflash_serve.compose.cards import model_card
from dflash_serve.compose.options import EngineOptions
from dflash_serve.measure.shapes import Chat
from tests.bench.conftest import VOCAB, Stored


def test_answers_end_where_a_servers_do(stored: Stored, tmp_path: Path) -> None:
    target = Path(shutil.copytree(stored.target, tmp_path / "target"))
    config = json.loads((target / "config.json").read_text(encoding="utf-8"))
    (target / "config.json").write_text(json.dumps(config | {"eos_token_id": [7, VOCAB + 5]}))
    (target / "generation_config.json").write_text(json.dumps({"eos_token_id": 9}))
    (prompt,) = encode([Chat("a", ({"role": "user", "content": "hello"},))], target)
    card = model_card(EngineOptions(target=str(target)), target)
    assert prompt.stop_tokens == card.stop_tokens == {7, 9}
