"""How long things take: measured batch times, and the service law fitted to them."""

from .tables import FittedLaw, MeasuredTable, best_law, fit_law, fit_points, read_table

__all__ = ["FittedLaw", "MeasuredTable", "best_law", "fit_law", "fit_points", "read_table"]
