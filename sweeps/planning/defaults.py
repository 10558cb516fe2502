"""What a plan takes where nothing else is asked; the command has it in its help, so that this loads nothing."""

CONFIDENCE = 0.95
INDIFFERENCE = 0.02
REPLICAS_MAX = 256
LATENCIES = 20.0
"""Times as long as a request takes should a run last, or longer, for its beginning and its end not to weigh in."""
