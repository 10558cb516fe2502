"""Policies from outside in a specification: `[policy.controller]`, and orders given as a table with their settings."""

import json
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationError, create_model
from pydantic_core import PydanticCustomError

from batchcube.engine.policies import order
from batchcube.engine.policies.controller import Controller
from batchcube.engine.policies.order import CHOICES, SERVICE_ORDERS, Order
from batchcube.engine.policies.registry import Policy, Registered, arrive, names, registered, settings_of
from batchcube.engine.policies.sla import Signal

from ..workloads.settings import Settings


class NamedPolicy(Settings):
    """A policy that a package brings or that was registered in Python, and its settings; see `batchcube policies`."""

    name: str = Field(description="name of the policy")

    @property
    def policy(self) -> Policy:
        """The policy itself."""
        return registered()[self.name].policy

    def numbers(self) -> Any:
        """Return its settings as the engine takes them."""
        policy = self.policy
        # A default may be an int where a float is meant.
        given = {setting.name: setting.kind(getattr(self, setting.name)) for setting in settings_of(policy)}
        return policy.settings(**given)

    def __reduce__(self) -> tuple[Callable[..., "NamedPolicy"], tuple[Registered, dict[str, Any]]]:
        """Go to another process together with the policy, which need not be registered there."""
        return _arrived, (registered()[self.name], self.model_dump())

    @classmethod
    def variants(cls) -> tuple[type["NamedPolicy"], ...]:
        """Return the settings of every policy of this kind, this class itself where there is none."""
        kind = Controller if issubclass(cls, NamedController) else Order
        return tuple(model_of(name, registered()[name].policy) for name in names(kind)) or (cls,)

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> dict[str, Any]:
        if cls not in (NamedController, NamedOrder):
            return dict(handler(core_schema))
        variants = cls.variants()
        if variants != (cls,):
            return {"oneOf": [variant.model_json_schema() for variant in variants]}
        schema = handler.resolve_ref_schema(handler(core_schema))
        schema.pop("additionalProperties")  # who edits may have other policies than who wrote the schema
        return dict(schema)


class NamedController(NamedPolicy):
    """A controller beside those of memory and SLA: the smallest bound of all holds."""

    signal: Signal | None = Field(
        default=None, description="latency it observes, where there is no policy.sla to say so; tbt when left out"
    )


class NamedOrder(NamedPolicy):
    """An order of service."""


@cache
def model_of(name: str, policy: Policy) -> type[NamedPolicy]:
    """Return the model of a policy's settings."""
    base = NamedController if isinstance(policy, Controller) else NamedOrder
    fields: dict[str, Any] = {"name": (Literal[name], Field(description="name of the policy"))}
    for setting in settings_of(policy):
        fields[setting.name] = (setting.type, Field(default=setting.default, description=setting.meaning))
    made: type[NamedPolicy] = create_model(f"Policy_{name}", __base__=base, **fields)
    return made


def _arrived(known: Registered, table: dict[str, Any]) -> NamedPolicy:
    """Return the settings of a policy that come from another process; InputError where its text is another one here."""
    name = known.policy.name
    here = registered().get(name)
    if here is None or here.sha256 != known.sha256:
        here = arrive(known)
    return model_of(name, here.policy).model_validate(table)


def _named(kind: type[Controller] | type[Order], given: Any, builtin: tuple[str, ...] = ()) -> Any:
    """Return a policy's settings by the name in them; names of the package itself, and models, stay what they are."""
    if isinstance(given, NamedPolicy):
        return given
    table = given if isinstance(given, Mapping) else {"name": given}
    name, allowed = table.get("name"), (*builtin, *names(kind))
    if name not in allowed:
        what = "controller" if kind is Controller else "order"
        known = " or ".join(f'"{known}"' for known in allowed)
        text = f"must be {known}" if known else f"no {what} is registered; see docs/policies.md"
        # In a table it is the name that is wrong.
        place, value = (("name",), name) if table is given else ((), given)
        wrong = (
            "missing" if table is given and name is None else PydanticCustomError("policy", "{text}", {"text": text})
        )
        raise ValidationError.from_exception_data(what, [{"type": wrong, "loc": place, "input": value}])
    if name in builtin:
        if len(table) > 1:
            raise ValueError(f'"{name}" has no settings')
        return name
    return model_of(name, registered()[name].policy).model_validate(table)


ControllerSettings = Annotated[
    SerializeAsAny[NamedController], BeforeValidator(lambda given: _named(Controller, given))
]
ServiceOrder = Annotated[
    order.ServiceOrder | SerializeAsAny[NamedOrder],
    BeforeValidator(lambda given: _named(Order, given, SERVICE_ORDERS)),
]
BinChoice = Annotated[
    order.BinChoice | SerializeAsAny[NamedOrder],
    BeforeValidator(lambda given: _named(Order, given, CHOICES)),
]


def order_of(given: str | NamedOrder) -> Any:
    """Return an order as the engine takes it: its name, or its settings."""
    return given if isinstance(given, str) else given.numbers()


def named_in(policy: Any) -> dict[str, Registered]:
    """Return the registered policies that the settings of a policy name."""
    given = (policy.controller, policy.service_order, policy.bin_choice)
    return {part.name: registered()[part.name] for part in given if isinstance(part, NamedPolicy)}


def record(policies: Iterable[Any]) -> dict[str, str]:
    """Return the attribute that says where registered policies come from; none where there are none."""
    found = {name: known for policy in policies for name, known in named_in(policy).items()}
    told = {name: {"origin": known.origin, "sha256": known.sha256} for name, known in sorted(found.items())}
    return {"policies": json.dumps(told)} if told else {}
