"""Settings of `dflash-train data`: the source of its options."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from dflash_serve.training.settings import Name, Settings, option_name

_FRESH = frozenset(
    {"drafter", "turns", "temperature", "top_p", "top_k", "seed", "max_new", "batch"}
)
"""Settings of how fresh answers are made."""


class DataSettings(Settings):
    """What is asked, how it is answered, and what is kept of it."""

    target: Name = Field(description="Target: a directory or a hub id.")
    prompts: Name = Field(
        description="JSON lines, JSON, parquet or CSV, a directory of them, or a hub id: rows with "
        "messages, conversations (ShareGPT), or a prompt and its response."
    )
    out: Path = Field(description="Answer file; continued if it exists.")
    split: str | None = Field(None, description="Of a hub id; default: train.")
    config_name: str | None = Field(None, description="Configuration of a hub id.")
    drafter: Name | None = Field(None, description="Drafter: same answers, sooner.")
    thinking: str = Field(
        "default",
        description="off, on, the template's default, or a level (low, high): as the server will "
        "be asked. Training and serving must agree.",
    )
    chat_template_kwargs: str = Field(
        "{}", description="JSON object for the template, as in a request."
    )
    keep_responses: bool = Field(
        False,
        description="Train on the given answers. Much worse than the target's own (the default).",
    )
    turns: Literal["all", "last"] = Field(
        "all", description="Answers asked for: all, or the last after given ones."
    )
    temperature: float = Field(0.0, ge=0, description="0 is greedy.")
    top_p: float = Field(1.0, ge=0, le=1, description="Sample from this share of probability.")
    top_k: int = Field(0, ge=0, le=2**31 - 1, description="Sample from so many tokens; 0 is all.")
    seed: int = Field(0, description="Each row and turn draws from its own.")
    max_new: int = Field(512, ge=1, description="Most tokens of an answer.")
    max_length: int | None = Field(
        None, ge=2, description="Most tokens of a chat; default: the target's context."
    )
    min_loss_tokens: int = Field(
        2,
        ge=1,
        description="Rows with fewer answer tokens are bad; the recipe's: two blocks.",
    )
    batch: int = Field(16, ge=1, description="Chats answered together.")
    limit: int | None = Field(None, ge=1, description="Only the first rows.")
    strict: bool = Field(False, description="Any bad row is an error.")

    @model_validator(mode="after")
    def _no_option_without_effect(self) -> Self:
        given = self.model_fields_set
        if self.keep_responses and (without := given & _FRESH):
            names = ", ".join(map(option_name, sorted(without)))
            raise ValueError(f"--keep-responses asks for no fresh answers, so it excludes {names}")
        if not self.temperature and (without := given & {"top_p", "top_k"}):
            names = ", ".join(map(option_name, sorted(without)))
            raise ValueError(f"--temperature is 0, which is greedy, so it excludes {names}")
        return self
