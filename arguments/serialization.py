"""Nested frozen dataclasses as JSON and back; nothing is ever evaluated."""

import dataclasses
import json
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from arguments.messages import ExitCode, UserError

Config = TypeVar("Config")


def to_plain(value: Any) -> Any:
    """Dataclasses, paths and tuples as what JSON can hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    return value


def to_json(value: object) -> str:
    """`value` as readable JSON with a stable order of keys."""
    return json.dumps(to_plain(value), indent=1) + "\n"


def from_plain(kind: type[Config], plain: object, where: str) -> Config:
    """What `to_plain` made, as a `kind` again.

    Raises:
        UserError: a key is unknown or a value has the wrong type; `where` names the file.
    """
    if not isinstance(plain, dict):
        raise UserError(
            f"{where}: expected an object, got {type(plain).__name__}", ExitCode.CHECKPOINT
        )
    hints = typing.get_type_hints(kind)
    unknown = set(plain) - set(hints)
    if unknown:
        raise UserError(
            f"{where}: unknown setting '{sorted(unknown)[0]}'; written by another version?",
            ExitCode.CHECKPOINT,
        )
    return kind(
        **{key: _convert(hints[key], value, f"{where}: {key}") for key, value in plain.items()}
    )


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in options:
            return None
        hint = next(option for option in options if option is not type(None))
        return _convert(hint, value, where)
    if origin is typing.Literal:
        valid = value in options
    elif origin is tuple:
        if isinstance(value, list):
            return tuple(_convert(options[0], item, where) for item in value)
        valid = False
    elif dataclasses.is_dataclass(hint):
        return from_plain(typing.cast(type[Any], hint), value, where)
    elif hint is Path:
        return Path(value)
    elif hint is float:
        valid = isinstance(value, (int, float)) and not isinstance(value, bool)
        value = float(value) if valid else value
    else:
        valid = isinstance(value, hint) and not (hint is int and isinstance(value, bool))
    if not valid:
        raise UserError(f"{where}: {value!r} is not a valid value", ExitCode.CHECKPOINT)
    return value
