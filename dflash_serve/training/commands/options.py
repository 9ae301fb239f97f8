"""Commands made of settings: the fields of a pydantic model become the options of a command.

Knows no command and imports no MLX before one runs, so that ``--help`` needs none.
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import typer
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from dflash_serve.training.settings import Positional, Repeated, Settings, fault, option_name

S = TypeVar("S", bound=Settings)

Guard = Callable[[Callable[[], int | None]], int | None]
"""Runs a command's work and ends it as its program does."""

_LIMITS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
"""Attributes of a field's limits, in words."""
_METAVARS = {int: "INTEGER", float: "NUMBER", Path: "PATH"}


def command(
    settings: type[S], guard: Guard | None = None
) -> Callable[[Callable[[S], int | None]], Callable[..., int | None]]:
    """Turn work on ``settings`` into a command for typer; its docstring is the command's help.

    Only options that were given reach the model, so ``model_fields_set`` tells them from defaults.
    All but flags reach it as text: types, choices and limits are checked by the model alone.
    ``guard`` runs the work and shows its mistakes; without one, as dflash-train does.
    """

    def decorate(work: Callable[[S], int | None]) -> Callable[..., int | None]:
        fields = settings.model_fields.items()
        aliases = {name: field.alias or name for name, field in fields}

        def run(**given: Any) -> int | None:
            told = {name: value for name, value in given.items() if value not in (None, [])}
            named = {aliases[name]: value for name, value in told.items()}
            return (guard or guarded)(lambda: work(settings(**named)))

        parameters = [_parameter(name, field) for name, field in fields]
        run.__name__, run.__doc__ = work.__name__, work.__doc__
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return run

    return decorate


def guarded(job: Callable[[], int | None]) -> int | None:
    """A mistake of the caller is one line and exit code 2; else ``job``'s own code, if any.

    Any other exception passes with its traceback.
    """
    from dflash_serve.adapters.base import AdapterError
    from dflash_serve.atomic_files import WriteError
    from dflash_serve.compose.options import OptionsError
    from dflash_serve.measure.errors import DataError
    from dflash_serve.training.run.guard import Diverged

    try:
        code = job()
    except (AdapterError, DataError, Diverged, OptionsError, ValidationError, WriteError) as error:
        text = fault(error) if isinstance(error, ValidationError) else str(error)
        typer.echo(f"dflash-train: error: {' '.join(text.split())}", err=True)
        raise typer.Exit(2) from error
    if code:
        raise typer.Exit(code)
    return None


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    kind = _kind(field.annotation)
    required = field.is_required()
    about: dict[str, Any] = {"help": _help(field), "show_default": False}
    if any(isinstance(mark, Positional) for mark in field.metadata):
        option = typer.Argument(**about)
    else:
        about["metavar"] = None if kind is bool else _METAVARS.get(kind, "TEXT")
        option = typer.Option(*([option_name(field.alias)] if field.alias else []), **about)
    repeated = any(isinstance(mark, Repeated) for mark in field.metadata)
    read: Any = list[str] if repeated else bool if kind is bool else str
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if required else None,
        annotation=Annotated[read if required else read | None, option],
    )


def _kind(annotation: Any) -> Any:
    """The type of a field's values, without the None of an optional one."""
    if get_origin(annotation) in (Union, UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
        return kinds[0] if len(kinds) == 1 else str
    return annotation


def _text(default: Any) -> str:
    if isinstance(default, tuple):
        return ",".join(map(str, default))
    return "on" if default is True else str(default)


def _help(field: FieldInfo) -> str:
    """The description, then choices, default and limits in brackets."""
    kind = _kind(field.annotation)
    facts = [" or ".join(get_args(kind))] if get_origin(kind) is Literal else []
    if not (field.is_required() or field.default in (None, ()) or field.default is False):
        facts.append(f"default {_text(field.default)}")
    for mark in field.metadata:
        facts += [
            f"{word} {getattr(mark, at)}" for at, word in _LIMITS.items() if hasattr(mark, at)
        ]
    return " ".join([field.description or "", f"({', '.join(facts)})" if facts else ""]).strip()
