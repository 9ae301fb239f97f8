"""What all settings of dflash-train are: pydantic models, one field per option.

A model is the source of its command's options and, for `run`, of the rows of a sweep's table.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, field_validator

from dflash_serve.paths import name_fault, shown


@dataclass(frozen=True, slots=True)
class Positional:
    """Marks a field that is given by its place instead of by name."""


@dataclass(frozen=True, slots=True)
class Repeated:
    """Marks a field of several texts whose option is given once for each."""


def _usable(name: str) -> str:
    if found := name_fault(name):
        raise ValueError(found)
    return name


def _expanded(value: Any) -> Any:
    return Path(_usable(str(value))).expanduser() if isinstance(value, Path) else value


Name = Annotated[str, AfterValidator(_usable)]
"""Of a directory, a file, or of something on the hub."""


class Settings(BaseModel):
    """Settings of one command.

    Unknown options are refused, and values that nothing holds: NaN, infinity, integers of 2**63,
    paths that no file can have. A path may begin with ``~``, as the names of checkpoints may.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _storable(cls, value: Any) -> Any:
        """Refuse integers that no counter holds, and paths that no file can have."""
        if isinstance(value, int) and abs(value) >= 2**63:
            raise ValueError(f"should be below 2**63, {2**63}")
        if isinstance(value, tuple):
            return tuple(map(_expanded, value))
        return _expanded(value)


def option_name(field: str) -> str:
    """The option on the command line: ``block_size`` is ``--block-size``."""
    return "--" + field.replace("_", "-")


def fault(error: ValidationError) -> str:
    """The first mistake in one line: the option, its value and what is allowed."""
    first = error.errors(include_url=False)[0]
    cause: Any = first.get("ctx", {}).get("error")
    if not first["loc"]:
        return str(cause or first["msg"])
    name = option_name(str(first["loc"][0]))
    if first["type"] == "missing":
        return f"{name} is missing"
    if first["type"] == "extra_forbidden":
        return f"{name} is no option"
    allowed = str(cause) if cause else first["msg"].replace("Input should", "should", 1)
    return f"{name} is {shown(str(first['input']))}, but {allowed}"
