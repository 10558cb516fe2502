"""Defaults: which of them a sweep rests on, and how one made with others is made again."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError

from batchcube.errors import InputError

from ..workloads.settings import Settings
from .messages import show_value

Defaults = Mapping[str, Any]
"""Values by the dotted path of the setting that was left out."""
NO_OTHERS: Defaults = {}


def in_force(points: Iterable[Mapping[str, Settings]]) -> dict[str, Any]:
    """Return the defaults that points, each its sections by name, rest on, as JSON has them.

    Left out is what points disagree on: their own settings decide it (how many requests a trace has).
    """
    sections = {(name, id(settings)): settings for point in points for name, settings in point.items()}
    found: dict[str, Any] = {}
    disputed: set[str] = set()
    for (name, _), settings in sections.items():
        for path, value in _left_out(settings, name, stated=True):
            if found.setdefault(path, value) != value:
                disputed.add(path)
    agreed: dict[str, Any] = json.loads(json.dumps({path: found[path] for path in found if path not in disputed}))
    return agreed


def _left_out(value: Any, path: str, *, stated: bool) -> Iterator[tuple[str, Any]]:
    """Yield what is left out of a value, which is a default itself unless it is stated."""
    if isinstance(value, Settings):
        for name in type(value).model_fields:
            said = stated and name in value.model_fields_set
            yield from _left_out(getattr(value, name), f"{path}.{name}", stated=said)
    elif stated and isinstance(value, tuple):
        for place, part in enumerate(value):
            yield from _left_out(part, f"{path}.{place}", stated=True)
    elif not stated:
        yield path, value


def with_defaults(section: str, settings: Settings, others: Defaults) -> Settings:
    """Return settings of a section with other defaults where something is left out.

    Raises InputError for a default that the setting cannot take.
    """
    made: Settings = _replaced(settings, section, others, stated=True)
    return made


def _replaced(value: Any, path: str, others: Defaults, *, stated: bool) -> Any:
    if isinstance(value, Settings):
        parts = {}
        for name, field in type(value).model_fields.items():
            here, said = f"{path}.{name}", stated and name in value.model_fields_set
            parts[name] = _replaced(getattr(value, name), here, others, stated=said)
            if here in others and not said:
                parts[name] = checked(field, f"default {here}", others[here])
        # Unlike a copy with changes, this leaves it known that they were left out.
        return type(value).model_construct(_fields_set=set(value.model_fields_set), **parts)
    if stated and isinstance(value, tuple):
        return tuple(_replaced(part, f"{path}.{place}", others, stated=True) for place, part in enumerate(value))
    return value


def checked(field: Any, path: str, value: Any) -> Any:
    """Return a value as the field of a setting takes it; raises InputError with the path where it cannot."""
    try:
        return TypeAdapter(Annotated[field.annotation, field], config=Settings.model_config).validate_python(value)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise InputError(f"this version cannot take it: {reason}", path=path, value=show_value(value)) from None


def differences(theirs: Defaults, ours: Defaults) -> str:
    """Return in one line how the defaults of the version that made a cube differ from those of this one, or ""."""
    if ours and not theirs:
        return "does not say with which defaults it was made: those of this version are taken"
    changed = [
        f"{path} = {show_value(theirs[path])} ({show_value(ours[path])} in this one)"
        for path in theirs
        if path in ours and theirs[path] != ours[path]
    ]
    gone = [f"{path} = {show_value(value)}" for path, value in theirs.items() if path not in ours]
    new = [f"{path} = {show_value(value)}" for path, value in ours.items() if path not in theirs]
    said = [
        f"{what}: {', '.join(those)}"
        for what, those in (
            ("defaults taken from the cube", changed),
            ("settings that this version does not have", gone),
            ("settings that only this version has", new),
        )
        if those
    ]
    return "; ".join(said)
