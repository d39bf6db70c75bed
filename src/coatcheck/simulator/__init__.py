"""A PSP of our own, run as a separate process: the outside world that tests and drills charge, break and ask.

It imports nothing of the gateway, so that its books are an independent witness.
"""

from coatcheck.simulator.chaos import Dial
from coatcheck.simulator.server import SimulatorSettings, run

__all__ = ["Dial", "SimulatorSettings", "run"]
