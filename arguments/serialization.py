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
    unknown = sorted(set(plain) - set(hints))
    if unknown:
        raise UserError(
            f"{where}: unknown setting '{unknown[0][:60]}'; written by another version?",
            ExitCode.CHECKPOINT,
        )
    absent = sorted(_required(kind) - set(plain))
    if absent:
        raise UserError(f"{where}: '{absent[0]}' is missing", ExitCode.CHECKPOINT)
    return kind(
        **{key: _convert(hints[key], value, f"{where}: {key}") for key, value in plain.items()}
    )


def _required(kind: type) -> set[str]:
    """The fields without a default."""
    return {
        f.name
        for f in dataclasses.fields(kind)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in options:
            return None
        hint = next(option for option in options if option is not type(None))
        return _convert(hint, value, where)
    if dataclasses.is_dataclass(hint):
        return from_plain(typing.cast(type[Any], hint), value, where)
    if origin in (tuple, list) and isinstance(value, list):
        return origin(_convert(options[0], item, where) for item in value)
    if origin is dict and isinstance(value, dict):
        return {key: _convert(options[1], item, where) for key, item in value.items()}
    if not _is_valid(hint, origin, options, value):
        raise UserError(f"{where}: {str(value)[:60]!r} is not a valid value", ExitCode.CHECKPOINT)
    return {Path: Path, float: float}.get(hint, lambda same: same)(value)


def _is_valid(hint: Any, origin: Any, options: tuple[Any, ...], value: Any) -> bool:
    """Whether a JSON value can stand for a plain type."""
    if origin is typing.Literal:
        return value in options
    if hint is Path:
        return isinstance(value, str) and "\0" not in value
    if hint is float:
        return type(value) in (int, float)
    return origin is None and type(value) is hint
