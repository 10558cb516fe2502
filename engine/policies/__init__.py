"""The decisions of a scheduler, one small file each: pure functions of scalars, written once for every backend.

A policy of your own is a `Controller` (how many may run) or an `Order` (who is served next), in the words of
`batchcube.engine.dialect`; `register` makes it known by its name. See docs/policies.md.
"""

from .controller import Both, Controller, View, both, head_of
from .order import Candidate, Order
from .registry import register

__all__ = ["Both", "Candidate", "Controller", "Order", "View", "both", "head_of", "register"]
