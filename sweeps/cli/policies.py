"""What `batchcube policies` prints: a line for each policy, or the settings of one."""

from collections.abc import Iterator

from batchcube.engine.policies.controller import Controller
from batchcube.engine.policies.registry import registered, settings_of, summary_of
from batchcube.errors import InputError, did_you_mean, printable
from batchcube.results.text import all_of

from ..spec.settings import MemorySettings, SlaSettings
from ..workloads.settings import Settings

BUILTIN = {
    "memory": ("controller", "memory bound of Algorithm 1 of [DB]", "policy.memory"),
    "sla": ("controller", "latency feedback of Algorithm 2 of [DB]", "policy.sla"),
    "first_formed": ("order", "batches as they are formed", "policy.service_order"),
    "shortest_first": ("order", "the batch with the shortest predicted service", "policy.service_order"),
    "oldest_head": ("order", "the bin whose first request is the oldest", "policy.bin_choice"),
    "round_robin": ("order", "bins in turn", "policy.bin_choice"),
    "longest_queue": ("order", "the bin in which most requests wait", "policy.bin_choice"),
}
"""Of each policy of the package: its kind, what it does, and the setting that names it."""


def all_policies() -> Iterator[str]:
    """Yield a line for each policy: name, kind, what it does, where it comes from."""
    for name, (kind, does, setting) in BUILTIN.items():
        yield f"{name:<20} {kind:<11} {does} ({setting})"
    for name, found in registered().items():
        kind = "controller" if isinstance(found.policy, Controller) else "order"
        yield printable(f"{name:<20} {kind:<11} {summary_of(found.policy)} ({found.origin})")


def one_policy(name: str) -> Iterator[str]:
    """Yield what a policy does, and a line for each of its settings; InputError for a name that is not known."""
    if name in BUILTIN:
        kind, does, setting = BUILTIN[name]
        yield f"{name}: {kind}, {does}"
        yield f"in a specification: {setting}"
        models: dict[str, type[Settings]] = {"memory": MemorySettings, "sla": SlaSettings}
        for field, about in models[name].model_fields.items() if name in models else ():
            given = "required" if about.is_required() else about.default
            yield f"  {field:<22} {_shown(given):<12} {about.description}"
        return
    if name not in (known := registered()):
        names = [*BUILTIN, *known]
        raise InputError(f"no policy {name}; {did_you_mean(name, names) or f'there are {all_of(names)}'}")
    found = known[name]
    kind = "controller" if isinstance(found.policy, Controller) else "order"
    yield printable(f"{name}: {kind}, {summary_of(found.policy)}")
    yield printable(f"from {found.origin}")
    setting = "controller" if kind == "controller" else "service_order, policy.bin_choice"
    yield f'in a specification: policy.{setting} = {{ name = "{name}", ... }}'
    for set_by in settings_of(found.policy):
        default = "required" if set_by.default is ... else set_by.default
        yield printable(f"  {set_by.name:<22} {_shown(default):<12} {set_by.meaning}")


def _shown(default: object) -> str:
    return "" if default is None else str(default)
