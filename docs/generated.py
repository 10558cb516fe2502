"""The pages of the reference that are made of the program itself: commands, settings, variables, policies and figures.

`write` puts them into docs/reference/ when the site is built; none is kept in the repository, so none can be out of
date.
"""

import json
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

from batchcube.figures import registry as figures
from batchcube.results.text import PAPERS, papers_of
from batchcube.results.variables import EXTRA_DIMENSIONS, REGISTRY
from batchcube.sweeps import presets as shipped
from batchcube.sweeps.cli.main import app
from batchcube.sweeps.cli.policies import BUILTIN
from batchcube.sweeps.spec.document import Document
from gallery import COMMANDS

PICTURES = {
    name: f"../calibration/qwen3-0.6b-cpu-{engine}/{name}.png"
    for name, engine in (
        ("calibration-law", "transformers"),
        ("calibration-residuals", "transformers"),
        ("calibration-batch-factor", "transformers"),
        ("calibration-throughput", "vllm"),
    )
}
"""Pictures of what was measured on an engine, of which there are some already."""
WIDEST = 88
"""Characters of a line of code."""


def write(docs: Path) -> None:
    """Write all pages below a folder; one that is as it was stays, so that it is not built again."""
    for name, page in PAGES.items():
        text = "\n".join(page()) + "\n"
        file = docs / "reference" / f"{name}.md"
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")


# Variables ------------------------------------------------------------------------------------------------------------


def variables() -> Iterator[str]:
    """Yield the page of the variables of cubes."""
    yield "# Variables\n"
    yield (
        "What a cube may hold; which of them it does depends on mode and workload. A variable has the axes of its "
        "sweep and `replication`, some have one more [dimension](#dimensions). `batchcube variables` prints this.\n"
    )
    for variable in REGISTRY.values():
        unit = f" ({variable.units})" if variable.units else ""
        by = "".join(f", by {dim}" for dim in variable.extra)
        once = "" if variable.replicated else ", one for all replications"
        about = f"**{variable.long_name}**{unit}{by}{once}. {variable.definition}"
        yield f"```{{variable}} {variable.name}\n{about}\n```\n"
    yield "## Dimensions\n"
    for name, meaning in {"replication": "independent replication of the whole grid", **EXTRA_DIMENSIONS}.items():
        yield f"`{name}`\n:   {meaning}\n"


# Settings -------------------------------------------------------------------------------------------------------------


def settings() -> Iterator[str]:
    """Yield the page of the settings of a specification."""
    whole = Document.model_json_schema()
    words = _words(whole)
    yield "# Settings\n"
    yield (
        "All that a specification (TOML) may say, table by table. `batchcube schema` prints the same as a JSON schema, "
        "with which editors complete; `batchcube check SPEC.toml` tells a mistake in one line. "
        "Each has its path as a name, which `--set` and axes take; what is not needed can be left out. "
        f"{papers_of(' '.join(PAPERS))}\n"
    )
    yield "## Top level\n"
    yield from _settings("", whole, words)
    for name, place in _places(whole).items():
        part = whole["$defs"][name]
        chosen = f": {words[name]}" if name in words else ""
        yield f"(setting-{name})=\n## {place}{chosen}\n\n{part.get('description', '')}\n"
        yield from _settings(f"{place}.", part, words, f" ({words[name]})" if name in words else "")


def _places(whole: Mapping[str, Any]) -> dict[str, str]:
    """Return where each part of the schema stands in a specification: its first place, in the order of the file."""
    found: dict[str, tuple[list[int], str]] = {}
    waiting: list[tuple[list[int], str, Mapping[str, Any]]] = [([], "", whole)]
    for order, path, part in waiting:
        for place, (name, known) in enumerate(part.get("properties", {}).items()):
            inner = f"{path}{name}.NAME" if "additionalProperties" in known else f"{path}{name}"
            for choice, reference in enumerate(_references(known)):
                if reference not in found:
                    found[reference] = ([*order, place, choice], inner)
                    waiting.append((*found[reference][:1], f"{inner}.", whole["$defs"][reference]))
    assert set(found) == set(whole["$defs"])
    return {name: place for name, (_, place) in sorted(found.items(), key=lambda item: item[1])}


def _references(known: Any) -> Iterator[str]:
    """Yield the names of the parts of the schema that a setting may be."""
    if isinstance(known, Mapping):
        if "$ref" in known:
            yield known["$ref"].rsplit("/", 1)[1]
        known = [inner for key, inner in known.items() if key in ("anyOf", "oneOf", "items", "additionalProperties")]
    for inner in known if isinstance(known, list) else ():
        yield from _references(inner)


def _words(schema: Any) -> dict[str, str]:
    """Return the words by which parts of the schema are chosen among others."""
    found: dict[str, list[str]] = {}
    waiting = [schema]
    for known in waiting:
        if isinstance(known, Mapping):
            for word, reference in known.get("discriminator", {}).get("mapping", {}).items():
                words = found.setdefault(reference.rsplit("/", 1)[1], [])
                words.extend({word} - set(words))
            waiting.extend(known.values())
        elif isinstance(known, list):
            waiting.extend(known)
    return {name: ", ".join(words) for name, words in found.items()}


def _settings(place: str, part: Mapping[str, Any], words: Mapping[str, str], chosen: str = "") -> Iterator[str]:
    needed = set(part.get("required", ()))
    for name, known in part.get("properties", {}).items():
        stated = _stated(known.get("default"))
        nothing = stated is None or (isinstance(stated, dict) and not any(stated.values()))
        meaning = known.get("description", "")
        meaning, otherwise = _without(meaning) if nothing else (meaning, "")
        default = "needed" if name in needed else otherwise if nothing else f"`{json.dumps(stated)}`"
        default = f"default: {default}" if default and name not in needed else default
        about = "; ".join(filter(None, (_kind(known, words), default)))
        yield f"```{{setting}} {place}{name}{chosen}\n*{about}*\n\n{meaning}\n```\n"


def _stated(default: Any) -> Any:
    """Return a default without the settings that it leaves out."""
    return {name: one for name, one in default.items() if one is not None} if isinstance(default, dict) else default


def _without(description: str) -> tuple[str, str]:
    """Return what a setting means, and apart from it what holds when it is left out, "" where that is not said."""
    for said in description.split("; ")[1:]:
        otherwise = re.sub(r"^left out: |,? (?:when|if) left out$", "", said)
        if otherwise != said or " when drawn" in said:
            return description.replace(f"; {said}", ""), otherwise
    return description, ""


def _kind(known: Mapping[str, Any], words: Mapping[str, str]) -> str:
    """Return what a setting may be, in words."""
    if "$ref" in known:
        name = known["$ref"].rsplit("/", 1)[1]
        return f"[{words.get(name, 'table')}](#setting-{name})"
    if "const" in known:
        return f"`{json.dumps(known['const'])}`"
    if "enum" in known:
        return ", ".join(f"`{json.dumps(value)}`" for value in known["enum"])
    for key in ("anyOf", "oneOf"):
        if key in known:
            kinds = [_kind(one, words) for one in known[key] if one.get("type") != "null"]
            return " or ".join(dict.fromkeys(kinds))
    kind = known.get("type", "any value")
    if kind == "array":
        return "list of " + re.sub(r"^(list|number|integer|string)", r"\1s", _kind(known.get("items", {}), words))
    if isinstance(known.get("additionalProperties"), Mapping):
        return f"tables by name: {_kind(known['additionalProperties'], words)}"
    return f"{'table' if kind == 'object' else kind} {', '.join(_bounds(known))}".strip()


def _bounds(known: Mapping[str, Any]) -> Iterator[str]:
    for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<")):
        if key in known:
            yield f"{sign} {known[key]:{',' if isinstance(known[key], int) else 'g'}}"


# Presets, policies ----------------------------------------------------------------------------------------------------


def presets() -> Iterator[str]:
    """Yield the page of the presets."""
    yield "# Presets\n"
    yield "Complete, commented sweeps: `batchcube specs NAME -o my.toml` copies one to change it.\n"
    for name in shipped.names():
        yield f"## {name}\n\n```toml\n{shipped.read(name).decode().rstrip()}\n```\n"


def policies() -> Iterator[str]:
    """Yield the page of the policies."""
    yield "# Policies\n"
    yield (
        "Those that a specification can name; [of your own](../policies.md), too. `batchcube policies` prints them. "
        f"{papers_of(' '.join(PAPERS))}\n"
    )
    for name, (kind, does, setting) in BUILTIN.items():
        yield f"## {name}\n\n{kind.capitalize()}: {does}. In a specification it is {{setting}}`{setting}`.\n"


# Figures --------------------------------------------------------------------------------------------------------------


def gallery() -> Iterator[str]:
    """Yield the page of the figures, each with its picture and the commands that make it."""
    yield "# Figures\n"
    yield (
        "`batchcube figures` lists them. The commands work in an empty folder; `python docs/gallery.py` makes all "
        "pictures again.\n"
    )
    for figure in figures.names():
        yield f"## {figure.name}\n\n{_prose(figure.shows)} It needs {_prose(figure.needs)}.\n"
        picture = PICTURES.get(figure.name, f"gallery/{figure.name}.png")
        yield f"![{figure.shows}]({picture})\n"
        lines = COMMANDS.get(figure.name, (f"batchcube figure {figure.name} measured.fit.nc -o {figure.name}.png",))
        text = "\n".join(line.replace(" --", " \\\n    --") if len(line) > WIDEST else line for line in lines)
        yield f"```sh\n{text}\n```\n\nOptions: {', '.join(f'`{option}`' for option in figure.options)}.\n"


# Commands -------------------------------------------------------------------------------------------------------------


def commands() -> Iterator[str]:
    """Yield the page of the commands: what the help of each says."""
    yield "# Commands\n"
    yield "What `--help` says of each. To begin: `batchcube specs`, then `batchcube run` and `batchcube show`.\n"
    yield from _help(typer.main.get_command(app), ["batchcube"])


def _help(command: Any, words: list[str]) -> Iterator[str]:
    """Yield the help of a command, of which click knows the parts, and of the commands below it."""
    context = command.context_class(command, info_name=" ".join(words), **command.context_settings)
    below = getattr(command, "commands", {})
    if len(words) > 1:
        about = "\n\n".join(_prose(" ".join(part.split())) for part in command.help.split("\n\n"))
        yield f"{'#' * len(words)} {' '.join(words)}\n\n{about}\n"
    for name, inner in below.items():
        target = "-".join([*words, name])
        yield f"[{name}](#{target})\n:   {_prose(inner.get_short_help_str(limit=1000))}\n"
    if not below:
        yield f"```sh\n{context.get_usage().removeprefix('Usage: ')}\n```\n\n```{{program}} {' '.join(words)}\n```\n"
        for parameter in command.params:
            name, about = parameter.get_help_record(context)
            yield f"```{{option}} {name}\n{_prose(about)}\n```\n"
        _, _, lines = (command.epilog or "").partition("Examples:\n")
        if lines:
            yield f"For example:\n\n```sh\n{textwrap.dedent(lines)}\n```\n"
    for name, inner in below.items():
        yield from _help(inner, [*words, name])


def _prose(text: str) -> str:
    """Return words of a help as Markdown: options and what is in backticks as code, all else as it stands."""
    pieces = re.split(r"(`[^`]*`|(?<![\w-])--?[a-z][\w/-]*)", text)
    return "".join(
        f"`{piece.strip('`')}`" if place % 2 else re.sub(r"([\\*_<>\[\]{}#|$])", r"\\\1", piece)
        for place, piece in enumerate(pieces)
    )


PAGES: dict[str, Callable[[], Iterable[str]]] = {
    "commands": commands,
    "settings": settings,
    "presets": presets,
    "variables": variables,
    "policies": policies,
    "figures": gallery,
}
