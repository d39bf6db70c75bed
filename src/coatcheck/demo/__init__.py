"""`coatcheck demo`: a shopping evening against a faulty PSP, and the proof that nothing was charged twice or lost."""

from coatcheck.demo.play import run_demo
from coatcheck.demo.processes import DemoError

__all__ = ["DemoError", "run_demo"]
