"""How long things take: measurements of engines and tables, the laws fitted to them, and where they come from."""

from .laws import BatchLaw, StepLaw, fit_batch_law, fit_batch_laws, fit_step_law
from .plausibility import judge
from .tables import MeasuredTable, read_cells, read_table

__all__ = [
    "BatchLaw",
    "MeasuredTable",
    "StepLaw",
    "fit_batch_law",
    "fit_batch_laws",
    "fit_step_law",
    "judge",
    "read_cells",
    "read_table",
]
