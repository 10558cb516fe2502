"""What a plan takes where nothing else is asked; the command has it in its help, so that this loads nothing."""

CONFIDENCE = 0.95
INDIFFERENCE = 0.02
REPLICAS_MAX = 256
COMPARED = 32
"""Replications at which settings are compared first. A cap that is reached in every tenth replication, and harms there,
may have done no harm in the first look, and is not to win by it: there settings leave that fail, and no others."""
