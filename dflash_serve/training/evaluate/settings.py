"""The settings of an evaluation; imports no MLX, so that ``--help`` needs none."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from dflash_serve.training.settings import Name, Settings, option_name

_OF_PAIRS, _OF_SERVERS = ("block_size", "batch"), ("model", "api_key", "concurrency", "timeout")
_OF_SAMPLES = ("top_p", "top_k")


class EvaluateSettings(Settings):
    """A pair of this machine (``target``, ``drafter``) or a server (``url``), and what it is asked.

    Without ``datasets`` all that ``data_dir`` holds, or all ten if no ``prompts`` are given either.
    """

    target: Name | None = Field(None, description="Target: a directory or a hub id.")
    drafter: Name | None = Field(None, description="Drafter: a directory or a hub id.")
    url: str | None = Field(None, description="Instead: an OpenAI-compatible server.")
    model: str | None = Field(None, description="Model on --url; default: its first.")
    plain_url: str | None = Field(
        None, description="The same model without speculation, for speedups."
    )
    api_key: str | None = Field(None, description="For --url and --plain-url.", repr=False)
    datasets: str | None = Field(None, description="As in gsm8k,mt-bench.")
    data_dir: Path | None = Field(
        None, description="Data sets in their published files; default: the hub."
    )
    prompts: Path | None = Field(None, description="JSON lines of chats or prompts, with kind.")
    samples: int | None = Field(None, ge=1, description="Per data set; default: the protocol's.")
    shuffle: Literal["random-42", "datasets-0", "none"] = Field(
        "random-42", description="Which rows; datasets-0: the older protocol."
    )
    block_size: int | None = Field(None, ge=2, description="Default: as trained.")
    max_new: int = Field(2048, ge=1, description="Most tokens of an answer.")
    temperature: float = Field(0.0, ge=0, le=2, description="Of the answers.")
    top_p: float = Field(1.0, gt=0, le=1, description="Of the answers.")
    top_k: int = Field(0, ge=0, le=2**31 - 1, description="0: all tokens.")
    seed: int = Field(0, description="Of sampled answers.")
    thinking: str = Field(
        "off", description="off, on, the template's default, or a level, as in `data`."
    )
    batch: int = Field(1, ge=1, description="Conversations at once; protocol: 1.")
    concurrency: int = Field(1, ge=1, description="Requests at once on --url.")
    timeout: float = Field(600.0, ge=0.1, description="Seconds, on --url.")
    out: Path = Field(description="Folder of results; continued if it exists.")

    @model_validator(mode="after")
    def _one_subject(self) -> "EvaluateSettings":
        pair = self.target is not None and self.drafter is not None
        if (self.url is None) != pair or (self.url and (self.target or self.drafter)):
            raise ValueError("give --target and --drafter, or --url alone")
        if self.plain_url is not None and self.url is None:
            raise ValueError("--plain-url goes with --url; plain decoding is always measured")
        here, wanted = (_OF_PAIRS, "--target") if self.url else (_OF_SERVERS, "--url")
        self._refuse(here, f"has no effect without {wanted}")
        if not self.temperature:
            self._refuse(_OF_SAMPLES, "has no effect with --temperature 0, which is greedy")
        return self

    def _refuse(self, names: tuple[str, ...], why: str) -> None:
        if given := [name for name in names if name in self.model_fields_set]:
            value = "" if given[0] == "api_key" else f" {getattr(self, given[0])}"
            raise ValueError(f"{option_name(given[0])}{value} {why}")

    def decoding(self) -> dict[str, float | int | str]:
        """How answers are made: what must be the same for all answers of one folder."""
        names = ("max_new", "temperature", "top_p", "top_k", "seed", "thinking")
        return {name: getattr(self, name) for name in names}
