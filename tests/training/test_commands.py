"""The two commands on a tiny checkpoint, as a user would call them."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models.qwen3 import Model, ModelArgs
from tokenizers import Tokenizer, models, pre_tokenizers
from typer.testing import CliRunner

from dflash_serve.adapters.loading import load_drafter, load_target
from dflash_serve.training.cli import app
from dflash_serve.training.data import AnswerFile, DataError, read_answers, read_prompts

WORDS = ["<|im_start|>", "<|im_end|>", "<|mask|>", "user", "assistant", *"abcdefghij"]
CONFIG: dict[str, Any] = {
    "model_type": "qwen3",
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rms_norm_eps": 1e-6,
    "vocab_size": len(WORDS),
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
    "rope_theta": 10000.0,
}


@pytest.fixture
def target_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "target"
    directory.mkdir()
    mx.random.seed(0)
    weights = dict(tree_flatten(Model(ModelArgs.from_dict(CONFIG)).parameters()))
    mx.save_safetensors(str(directory / "model.safetensors"), weights, {"format": "mlx"})
    (directory / "config.json").write_text(json.dumps(CONFIG))
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(directory / "tokenizer.json"))
    template = (
        "{% for m in messages %}<|im_start|> {{ m.role }} {{ m.content }} <|im_end|> {% endfor %}"
        "{% if add_generation_prompt %}<|im_start|> assistant{% endif %}"
    )
    (directory / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "eos_token": "<|im_end|>",
                "chat_template": template,
            }
        )
    )
    return directory


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    rows = [
        {"kind": "k", "messages": [{"role": "user", "content": " ".join("abcdefghij"[i : i + 3])}]}
        for i in range(8)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def invoke(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_data_then_run_gives_a_drafter_that_answers_alike(
    target_dir: Path, prompts: Path, tmp_path: Path
) -> None:
    plain, out = tmp_path / "answers.jsonl", tmp_path / "drafter"
    common = ("--target", target_dir, "--prompts", prompts, "--max-new", 12, "--batch", 3)
    invoke("data", *common, "--out", plain)
    answers = read_answers(plain)
    assert [answer.row for answer in answers] == list(range(8))
    for answer in answers:
        assert answer.prompt[0] == 0
        assert answer.prompt[-1] == WORDS.index("assistant")
        assert len(answer.answer) == 12 or answer.answer[-1] == 1
        assert answer.example().loss_mask.sum() == len(answer.answer)

    invoke(
        "run", "--target", target_dir, "--data", plain, "--heldout", plain, "--out", out,
        "--layers", 1, "--block-size", 4, "--target-layers", "0,1,2", "--steps", 4,
        "--batch", 2, "--anchors", 4, "--measure-every", 2,
    )  # fmt: skip
    assert {path.name for path in out.iterdir()} == {
        "config.json", "model.safetensors", "log.jsonl", "plot.png",
    }  # fmt: skip
    drafter = load_drafter(out, load_target(target_dir))
    assert drafter.target_layer_ids == (0, 1, 2)
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log if "loss" in row] == [0, 1, 2, 3]

    drafted = tmp_path / "drafted.jsonl"
    invoke("data", *common, "--out", drafted, "--drafter", out)
    assert read_answers(drafted) == answers


def test_an_interrupted_answer_file_is_continued(
    target_dir: Path, prompts: Path, tmp_path: Path
) -> None:
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    common = ("data", "--target", target_dir, "--prompts", prompts, "--max-new", 6)
    invoke(*common, "--out", whole)
    lines = whole.read_text().splitlines(keepends=True)
    cut.write_text("".join(lines[:4]) + lines[4][:7])
    invoke(*common, "--out", cut)
    assert read_answers(cut) == read_answers(whole)
    assert cut.read_text().startswith("".join(lines[:4]))


def test_an_answer_file_of_another_origin_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    AnswerFile(path, {"target": "one"}).close()
    with pytest.raises(DataError, match="another target"):
        AnswerFile(path, {"target": "two"})


class NoTemplate:
    def apply_chat_template(self, conversation: list[dict[str, Any]], **options: Any) -> list[int]:
        return [len(message["content"]) for message in conversation]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no prompts"),
        ('{"messages": [{"content": "a"}]}\nnonsense\n', "line 2"),
        ('{"prompt": "a"}\n', "line 1"),
    ],
)
def test_bad_prompts_are_named_by_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_prompts(path, NoTemplate())


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    arguments = ["data", "--target", str(tmp_path / "none"), "--prompts", "p", "--out", "o"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert result.output.startswith("dflash-train: error: no directory")
