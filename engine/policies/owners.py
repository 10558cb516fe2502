"""Whose settings a value is: its type alone says it, so each policy has a type of its own."""

from typing import Any, TypeVar

from batchcube.errors import InputError

P = TypeVar("P", bound=Any)


def claim(owners: dict[type, P], policy: P) -> None:
    """Make settings those of a policy; raises InputError where they are of one of another name.

    One of the same name, the same cell of a notebook run again, takes its place.
    """
    before = owners.get(policy.settings)
    if before is not None and before.name != policy.name:
        raise InputError(
            f"{policy.settings.__qualname__} holds the settings of {before.name}, and its type says whose they are: "
            "give each policy a class of its own",
            path=policy.name,
        )
    owners[policy.settings] = policy
