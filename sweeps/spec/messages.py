"""Turn what pydantic says about a specification into one readable line per mistake."""

import json
import math
import re
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, time
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from batchcube.errors import InputError, InputErrors, did_you_mean

from . import vllm
from .policies import NamedPolicy

Path = tuple[str | int, ...]
_ABSENT: Any = object()
_LONGEST_VALUE = 80
_NUMBER = re.compile(r"-?\d[\d.e+-]*")


class Mistake(NamedTuple):
    """One thing wrong at one place of a specification; ``value`` is absent where there is none to show."""

    path: Path
    text: str
    value: Any = _ABSENT

    @property
    def has_value(self) -> bool:
        """Whether there is a value to show."""
        return self.value is not _ABSENT

    def error(self, file: object = "") -> InputError:
        """Return it as what refuses a file."""
        value = show_value(self.value) if self.has_value else ""
        return InputError(self.text, file=file, path=show_path(self.path), value=value)

    def kind(self) -> tuple[Path, str]:
        """Return what a mistake shares with others like it, at other points of an axis or places of a list.

        That is its path without positions and labels, and its text without numbers.
        """
        labelled = self.path[:1] == ("axes",) and self.path[2:3] == ("points",)
        path = (*self.path[:3], *self.path[4:]) if labelled else self.path
        return tuple(part for part in path if isinstance(part, str)), _NUMBER.sub("#", self.text)


def errors_of(found: Iterable[Mistake], file: str) -> InputErrors:
    """Return one line for each kind of mistake in a file: the first of its kind, and how many more there are."""
    kinds: dict[tuple[Path, str], list[Mistake]] = {}
    for mistake in found:
        kinds.setdefault(mistake.kind(), []).append(mistake)
    return InputErrors(
        first._replace(text=f"{first.text} (and {len(others)} more like it)" if others else first.text).error(file)
        for first, *others in kinds.values()
    )


def show_path(path: Path) -> str:
    """Return a path the way TOML users read it: ``axes.rate.values[2]``, keys quoted where TOML needs it."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            bare = part and all(c.isascii() and (c.isalnum() or c in "_-") for c in part)
            text += ("." if text else "") + (part if bare else show_value(part))
    return text


def show_value(value: Any) -> str:
    """Return a value as TOML would spell it, on one line and not longer than a glance."""
    if isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, float):
        text = "nan" if math.isnan(value) else repr(value)
    elif isinstance(value, int):
        # Python refuses to print integers of thousands of digits.
        text = str(value) if abs(value) < 10**40 else "an integer beyond 10^40"
    elif isinstance(value, date | time):
        text = value.isoformat()
    elif isinstance(value, Mapping):
        text = "{" + ", ".join(f"{show_path((str(k),))} = {show_value(v)}" for k, v in list(value.items())[:8]) + "}"
    elif isinstance(value, list | tuple):
        text = "[" + ", ".join(show_value(v) for v in value[:12]) + (", ..." if len(value) > 12 else "") + "]"
    else:
        text = json.dumps(str(value), ensure_ascii=True)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 3] + "..."


# Models behind an annotation ---------------------------------------------------------------------------------------


def models(annotation: Any) -> tuple[type[BaseModel], ...]:
    """Return the pydantic models an annotation can hold, looking through Annotated, Optional and unions.

    Where a policy may stand, these are the settings of all that are registered by now.
    """
    found = _models(annotation)
    return tuple(m for model in found for m in (model.variants() if issubclass(model, NamedPolicy) else (model,)))


@cache
def _models(annotation: Any) -> tuple[type[BaseModel], ...]:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _models(get_args(annotation)[0])
    if origin is Union or origin is types.UnionType:
        return tuple(model for part in get_args(annotation) for model in _models(part))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return (annotation,)
    return ()


def _models_of(field: FieldInfo) -> tuple[type[BaseModel], ...]:
    annotation: Any = field.annotation
    return models(annotation)


def _field_models(model: type[BaseModel], name: str) -> tuple[type[BaseModel], ...]:
    field = model.model_fields.get(name)
    return () if field is None else _models_of(field)


def _choices(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def fitting_models(candidates: Sequence[type[BaseModel]], data: Any) -> list[type[BaseModel]]:
    """Return the models whose literal tags do not contradict ``data``; all of them where none fits."""
    if not isinstance(data, Mapping):
        return list(candidates)

    def fits(model: type[BaseModel]) -> bool:
        return all(
            data[name] in choices if name in data else not field.is_required()
            for name, field in model.model_fields.items()
            if (choices := _choices(field.annotation)) and isinstance(data.get(name, ""), str)
        )

    return [model for model in candidates if fits(model)] or list(candidates)


def allowed_keys(root: type[BaseModel], data: Any, path: Path) -> list[str]:
    """Return the keys the models allow in the table at ``path`` of ``data``."""
    here: list[type[BaseModel]] = [root]
    for key in path:
        data = data[key]
        here = fitting_models([m for model in here for m in _field_models(model, str(key))], data)
    return sorted({name for model in here for name in model.model_fields})


def known_paths(
    root: type[BaseModel], above: tuple[tuple[type[BaseModel], ...], ...] = ()
) -> Iterator[tuple[str, type[BaseModel], str]]:
    """Yield every dotted settings path below ``root`` with the model and the field that hold it.

    What holds itself (a length distribution has a prompt, of any length distribution) is followed once.
    """
    for name, field in root.model_fields.items():
        yield name, root, name
        inner = _models_of(field)
        for model in inner if above.count(inner) < 2 else ():
            for below, holder, leaf in known_paths(model, (*above, inner)):
                yield f"{name}.{below}", holder, leaf


# pydantic errors ----------------------------------------------------------------------------------------------------

_KINDS = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number of reasonable size",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "string_too_short": "must not be empty",
    "string_pattern_mismatch": "must be the name of a file: no / or \\, no control characters, no dot in front",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "model_attributes_type": "must be a table",
}
_LIMITS = {"greater_than": ("gt", ">"), "greater_than_equal": ("ge", ">="), "less_than": ("lt", "<")}
_LIMITS["less_than_equal"] = ("le", "<=")


def text_of(error: Mapping[str, Any]) -> str:
    """Return what is wrong with a value, as pydantic found it, and what is allowed."""
    kind, context = error["type"], error.get("ctx", {})
    if kind in _LIMITS:
        name, sign = _LIMITS[kind]
        return f"must be {sign} {context[name]:.15g}"
    if kind in _KINDS:
        return _KINDS[kind]
    if kind == "literal_error":
        return _of_these("must be", str(context["expected"]), error["input"])
    if kind == "union_tag_invalid":
        return _of_these("must be one of", str(context["expected_tags"]), context["tag"])
    if kind in {"too_short", "tuple_too_short"}:
        return (
            "must not be empty" if context["min_length"] == 1 else f"must hold at least {context['min_length']} values"
        )
    if kind in {"value_error", "assertion_error"}:
        return " ".join(str(context["error"]).split())
    message = " ".join(str(error["msg"]).split())
    return message[:1].lower() + message[1:]


def _of_these(must: str, quoted: str, given: Any) -> str:
    """Return what must be, of names as pydantic quotes them, with those that are near what was given."""
    near = did_you_mean(given, re.findall(r"'([^']+)'", quoted)) if isinstance(given, str) else ""
    return "; ".join(filter(None, (f"{must} {quoted.replace(chr(39), chr(34))}", near)))


def _real_path(location: Path, data: Any, kind: str) -> Path:
    """Drop from a pydantic location the tags of unions, which are no keys of ``data``."""
    path: list[str | int] = []
    for position, part in enumerate(location):
        if _is_tag(part, location[position + 1 :], data):
            continue
        listed = isinstance(data, list | tuple) and isinstance(part, int) and part < len(data)
        if listed or (isinstance(data, Mapping) and part in data):
            data = data[part]
        elif not (kind == "missing" and position == len(location) - 1):
            continue
        path.append(part)
    return tuple(path)


def _is_tag(part: str | int, rest: Path, data: Any) -> bool:
    """Say whether a part is a tag although it is a key too (``service = { coefficients = NAME }``).

    Below a single value there is nothing, so that what follows must be another key of the same table.
    """
    if not rest or not isinstance(data, Mapping) or not {part, rest[0]} <= set(data):
        return False
    return not isinstance(data[part], Mapping | list | tuple)


def mistakes(root: type[BaseModel], data: Any, error: ValidationError, prefix: Path = ()) -> list[Mistake]:
    """Return one `Mistake` per wrong place that validating ``data`` as ``root`` found, each path under ``prefix``."""
    found: dict[Path, list[str]] = {}
    values: dict[Path, Any] = {}
    for item in error.errors(include_url=False):
        kind = item["type"]
        path = _real_path(item["loc"], data, kind)
        value = item["input"]
        if kind == "extra_forbidden":
            keys = allowed_keys(root, data, path[:-1])
            key = str(path[-1])
            hint = vllm.hint(key) or did_you_mean(key, keys) or (f"allowed here: {', '.join(keys)}" if keys else "")
            text, value = "; ".join(filter(None, ("no such setting", hint))), _ABSENT
        elif kind == "missing":
            text, value = "is missing", _ABSENT
        elif kind == "union_tag_not_found":
            tag = str(item["ctx"]["discriminator"]).strip("'")
            here = [m for m in _candidates(root, data, path) if tag in m.model_fields]
            tags = sorted({str(t) for m in here for t in _choices(m.model_fields[tag].annotation)})
            if isinstance(value, Mapping):
                path, text, value = (*path, tag), f"is missing; must be one of {', '.join(tags)}", _ABSENT
            else:
                text = "must be a table"
        elif kind in {"model_type", "model_attributes_type", "union_tag_invalid"} and not isinstance(value, Mapping):
            text = "must be a table"
        else:
            text = text_of(item)
            if kind == "union_tag_invalid":
                tag = str(item["ctx"]["discriminator"]).strip("'")
                path, value = (*path, tag), value[tag]
        if text not in found.setdefault(path, []):
            found[path].append(text)
        values[path] = value
    for texts in found.values():
        # "a whole number or a number"
        if _KINDS["int_type"] in texts and ({_KINDS["float_type"], _KINDS["finite_number"]} & set(texts)):
            texts.remove(_KINDS["int_type"])
    return [Mistake(prefix + path, " or ".join(texts), values[path]) for path, texts in found.items()]


def _candidates(root: type[BaseModel], data: Any, path: Path) -> list[type[BaseModel]]:
    here: list[type[BaseModel]] = [root]
    for key in path:
        data = data[key]
        here = [m for model in here for m in _field_models(model, str(key))]
    return here
