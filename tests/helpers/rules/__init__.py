"""Settings that break every rule of `problems`, and the nearest ones that do not."""

from . import continuous, controllers, policy, server, workload
from .rule import Rule

RULES = [*workload.RULES, *policy.RULES, *controllers.RULES, *server.RULES, *continuous.RULES]

__all__ = ["RULES", "Rule"]
