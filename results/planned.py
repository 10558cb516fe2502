"""The answer of a plan in words: 80 columns, from the JSON that its cube and its file hold."""

from __future__ import annotations

import math
import re
import textwrap
from typing import TYPE_CHECKING, Any

from batchcube.errors import printable

from . import notebook
from .selection import AT_LIMIT, CANNOT_TELL, FAILED
from .text import all_of, counted, shortened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

WIDTH = 80
_LABEL = 12
_PIECE = re.compile(r"(?:'[^']*'|[^ '])+")
"""A word of a shell, with what is in quotation marks."""
_ENGINES = {"vllm": "vLLM", "sglang": "SGLang"}


def in_words(plan: Mapping[str, Any]) -> str:
    """Return the answer of a plan in words, 80 columns wide: what to take, how sure, and why."""
    lines = [_headline(plan), ""]
    for label, text in _parts(plan):
        lines += _filled(label, text)
    for number, note in enumerate(plan["notes"]):
        lines += _filled("" if number else "notes", note)
    for label, command in plan["commands"].items():
        lines += _pasted("serve" if label == "vllm" else "or", command)
    return "\n".join(map(printable, lines))


def as_parts(plan: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the same as labels with texts, without notes and commands; the headline is first, a "" continues one."""
    return [(label, printable(text)) for label, text in (("", _headline(plan)), *_parts(plan))]


def as_html(plan: Mapping[str, Any]) -> str:
    """Return the same as a notebook shows it: the headline, a table, notes, and commands to paste."""
    (_, headline), *rows = as_parts(plan)
    rows += [("" if number else "notes", note) for number, note in enumerate(plan["notes"])]
    commands = ["\n".join(map(notebook.safe, _on_lines(command))) for command in plan["commands"].values()]
    pasted = "".join(f"<pre>{command}</pre>" for command in commands)
    return f"{notebook.line(headline, bold=True)}{notebook.table((), rows, words=(0, 1))}{pasted}"


def is_plan(table: Mapping[str, Any]) -> bool:
    """Say whether a table, anybody's, holds all that is said of a plan."""
    try:
        in_words(table)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return False
    return True


def nothing_holds(races: Sequence[Mapping[str, Any]]) -> str:
    """Say it of races none of which has a best, or that one cannot tell."""
    return "no configuration holds" if set(races[-1]["states"]) == {FAILED} else "cannot tell whether one holds"


def _headline(plan: Mapping[str, Any]) -> str:
    best, rate = plan["best"], plan["asked"]["rate_per_s"]
    needed = f"{counted(best['replicas'], 'replica')} on {counted(best['gpus'], 'GPU')}"
    answer = needed if plan["found"] else nothing_holds(plan["races"])
    answer = f", {rate:.6g} request{'' if rate == 1 else 's'}/s: {answer}"
    return shortened(plan["title"], WIDTH - len(answer)) + answer


def _parts(plan: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    best, found = plan["best"], plan["found"]
    yield "best" if found else "nearest", f"{_called(best['at'])}{'' if found else _on(best)}"
    yield "how sure", _assurance(plan)
    if plan["overlaps"]:
        yield "", "less, as replications are windows of one trace: see the notes"
    for number, limit in enumerate(best["limits"]):
        yield "" if number else "limits", _limit(limit, best)
    if found:
        yield (
            "queue",
            {"steady": "steady", "cannot tell": "cannot tell whether it grows"}.get(plan["queue"], plan["queue"]),
        )
        yield "replicas", _replicas(plan)
        if _configurations(plan) > 1:
            yield "runner-up", _runner_up(plan)
    yield "binds", _binds(plan)
    if found:
        yield "cost", _cost(plan)
    for number, text in enumerate(plan["assumed"]):
        yield "" if number else "assumed", text
    yield "simulated", _simulated(plan)
    if unsaid := [f"{_ENGINES[engine]}: {', '.join(names)}" for engine, names in plan["unsaid"].items() if names]:
        yield "no option", f"the lines to serve with cannot carry what was simulated of {'; '.join(unsaid)}"


def _configurations(plan: Mapping[str, Any]) -> int:
    return math.prod(len(values) for values in plan["axes"].values())


def _called(at: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {_plain(value)}" for name, value in at.items()) or "the only configuration"


def _on(configuration: Mapping[str, Any]) -> str:
    return f", on {counted(configuration['replicas'], 'replica')}"


def _sure(share: float, rounded: Callable[[float], int] = math.floor) -> str:
    """In percent, rounded down: no more than one is sure of, and never all."""
    tenths = rounded(round(1000 * share, 6))
    return f"{(tenths if rounded is math.ceil else min(tenths, 999)) / 10:g} %"


def _so_sure(plan: Mapping[str, Any], share: float) -> str:
    """In percent, at most so many where replications overlap."""
    return f"less than {_sure(share, math.ceil)}" if plan["overlaps"] else _sure(share)


def _assurance(plan: Mapping[str, Any]) -> str:
    asked = plan["asked"]
    sure = _so_sure(plan, plan["assurance"])
    at_least = sure if plan["overlaps"] else f"{sure} or more"
    if not plan["found"]:
        states = plan["races"][-1]["states"]
        fail, most = states.get(FAILED, 0), sum(states.values())
        text = f"{'all' if fail == most else fail} of {counted(most, 'configuration')} fail"
        if fail == most == 1:
            text = "it fails"
        text += f" on {counted(plan['races'][-1]['gpus'], 'GPU')}"
        if at_limit := states.get(AT_LIMIT, 0):
            text += f"; {at_limit} so near {'its' if at_limit == 1 else 'their'} limit that one cannot tell"
        if others := most - fail - at_limit:
            text += f"; of {others} one cannot tell yet"
        more = "; more seem to make no difference" if plan["is_hopeless"] else ""
        return f"{sure if plan['assurance'] else 'not decided'}: {text}{more}{_early(plan) if others else ''}"
    # A run shows no more than what happens in so long.
    so_long = "; whether its queue grows one cannot tell in runs so long" if plan["queue"] == CANNOT_TELL else ""
    of = asked["objective"] or "the largest share of a limit that is used up"
    zone = f"{100 * asked['indifference']:.3g} %"
    if _configurations(plan) == 1:
        holds = f"{at_least} that it holds" if plan["assurance"] else "not decided: whether it holds"
        return f"{holds} all limits{_early(plan)}{so_long}"
    if plan["is_decided"]:
        return f"{at_least} that it holds, and that none on as few GPUs is better by over {zone} in {of}{so_long}"
    wider = "" if plan["ended_early"] else f", with an indifference zone above {zone} they may"
    only = f"{sure} only" if plan["assurance"] else "not decided"
    tied = counted(plan["tied"], "configuration")
    return f"{only}: {tied} may be better by over {zone} in {of}{_early(plan)}{wider}{so_long}"


def _early(plan: Mapping[str, Any]) -> str:
    if plan["is_decided"]:
        return ""
    if plan["ended_early"]:
        return "; the budget ended it"
    return "; the most replications that a plan takes do not tell"


def _limit(limit: Mapping[str, Any], configuration: Mapping[str, Any]) -> str:
    within = ">=" if limit["name"] == "goodput" else "<="
    unit = " s" if limit["unit"] == "s" else ""
    unknown = "not all requests keep their limits" if limit["name"] == "goodput" else "never served"
    unknown = "its queue grows" if configuration["grows"] else unknown
    mean = unknown if limit["mean"] is None else f"{_plain(limit['mean'])}{unit}"
    bounds = (
        "" if limit["low"] is None or limit["high"] is None else f" ({_plain(limit['low'])} to {_plain(limit['high'])})"
    )
    return f"{limit['name']} {within} {_plain(limit['limit'])}{unit}: {limit['verdict']}, {mean}{bounds}"


def _replicas(plan: Mapping[str, Any]) -> str:
    best, fewer = plan["best"], plan["fewer"]
    needed = counted(best["replicas"], "replica")
    if fewer is None:
        reason = "no configuration that fits on fewer GPUs holds on these"
        if best["gpus"] == plan["least_gpus"]:
            reason = "there is no fewer"
        elif plan["ended_early"]:
            reason = "fewer were not looked at: the budget ended it"
        return f"{needed}; {reason}"
    nearest = fewer["nearest"]
    worst = max(nearest["limits"], key=_used_up)
    if fewer["verdict"] == "fails":
        none = "no configuration holds" if _configurations(plan) > 1 else "it fails"
        sure = f"{none} on {counted(fewer['gpus'], 'GPU')} ({_so_sure(plan, fewer['assurance'])})"
    else:
        sure = f"whether {counted(fewer['gpus'], 'GPU')} would do one cannot tell"
    there = "the nearest has" if _configurations(plan) > 1 else "with"
    return f"{needed}; {sure}, {there} {_limit(worst, nearest)}"


def _used_up(limit: Mapping[str, Any]) -> float:
    if limit["mean"] is None:
        return float("inf")
    if limit["name"] == "goodput":
        return float((1.0 - limit["mean"]) / max(1.0 - limit["limit"], 1e-12))
    return float(limit["mean"] / max(limit["limit"], 1e-12))


def _runner_up(plan: Mapping[str, Any]) -> str:
    second = plan["runner_up"]
    if second is None:
        return "none: no other configuration holds"
    of = plan["asked"]["objective"] or "largest share of a limit"
    # Those that the race did not have to tell apart.
    others = f"; {counted(plan['tied'] - 1, 'more configuration')} may be as good" if plan["tied"] > 1 else ""
    others = {AT_LIMIT: "; it is at a limit", CANNOT_TELL: "; whether it holds one cannot tell"}.get(
        second["verdict"], ""
    ) + others
    if second["difference"] == second["low"] == second["high"] == 0.0:
        return f"{_called(second['at'])}; its {of} is the same in every replication{others}"
    return (
        f"{_called(second['at'])}; its {of} is {second['difference']:+.3g} from the best's "
        f"({second['low']:+.3g} to {second['high']:+.3g}), same requests{others}"
    )


def _binds(plan: Mapping[str, Any]) -> str:
    of = plan["measures"]
    preempted = of["preemptions_per_request"]
    said = [
        "what it can serve is not seen in runs so short"
        if of["load_fraction"] is None
        else f"load {100 * of['load_fraction']:.0f} % of what it can serve",
        f"KV cache {100 * of['kv_peak_fraction']:.0f} % at its peak, "
        + ("no preemptions" if not preempted else f"{preempted:.3g} preemptions a request"),
        f"{100 * of['steps_at_cap_fraction']:.0f} % of the steps at the cap",
        f"{100 * of['budget_fraction']:.0f} % of the token budget used",
    ]
    return f"{all_of(plan['binds']) if plan['binds'] else 'nothing'} ({'; '.join(said)})"


def _cost(plan: Mapping[str, Any]) -> str:
    text = f"{plan['output_tokens_per_gpu_second']:,.0f} output tokens per GPU second"
    per_output, per_token = plan["cost_per_million_output_tokens"], plan["cost_per_million_tokens"]
    if per_output is None:
        return f"{text} (what they cost needs the price of a GPU for an hour)"
    return f"{per_output:.3g} per million output tokens, {per_token:.3g} with those of prompts; {text}"


def _simulated(plan: Mapping[str, Any]) -> str:
    fewer = plan["full_grid_requests"] / plan["requests"]
    saved = f", {fewer:.1f} times fewer than all configurations to the end" if fewer > 1.05 else ""
    return f"{plan['requests']:,} requests in {counted(plan['simulations'], 'simulation')}{saved}"


def _filled(label: str, text: str) -> list[str]:
    lines = textwrap.wrap(text, WIDTH - _LABEL, break_long_words=False, break_on_hyphens=False)
    return [f"{label if not number else '':<{_LABEL}}{line}" for number, line in enumerate(lines)]


def _pasted(label: str, command: str) -> list[str]:
    """Return a command on lines of a shell, beside its label."""
    lines = _on_lines(command)
    return [f"{label if not number else '':<{_LABEL}}{line}" for number, line in enumerate(lines)]


def _on_lines(command: str) -> list[str]:
    """Return a command on lines of a shell."""
    words, lines = _PIECE.findall(command), []
    # An option stays with its value.
    parts: list[str] = []
    for word in words:
        if parts and not word.startswith("--") and parts[-1].startswith("--"):
            parts[-1] += f" {word}"
        else:
            parts.append(word)
    line = ""
    for part in parts:
        if line and len(line) + len(part) + 3 > WIDTH - _LABEL:
            lines.append(f"{line} \\")
            line = f"  {part}"
        else:
            line = f"{line} {part}" if line else part
        # A line that ends between the members of a table, in quotation marks, is white space of JSON.
        *whole, line = _wrapped(line)
        lines += whole
    return [*lines, line]


def _wrapped(line: str) -> list[str]:
    """Return a part of a command on as many lines as the tables in it need."""
    width, lines = WIDTH - _LABEL - 2, []
    while len(line) > width and ',"' in line:
        comma = line.rfind(',"', 0, width) if ',"' in line[:width] else line.index(',"')
        lines.append(line[: comma + 1])
        line = f"    {line[comma + 1 :]}"
    return [*lines, line]


def _plain(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
