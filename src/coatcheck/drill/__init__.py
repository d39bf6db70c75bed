"""`coatcheck drill`: real processes, killed and cut off on purpose, and a judge that shares no code with them."""

from coatcheck.drill.play import DrillPlan, run_drill
from coatcheck.drill.processes import DrillError

__all__ = ["DrillError", "DrillPlan", "run_drill"]
