"""One gateway at the simulator's own bank, without sockets and in calm weather."""

import random

from tests.integration.outside import SETTINGS, START, World
from tests.simulation.life import Life
from tests.simulation.psp import Psp, PspLine, Weather

from coatcheck.clock import ManualClock
from coatcheck.config import Settings
from coatcheck.simulator.chaos import Dial
from coatcheck.store import Store


def at_the_psp(
    store: Store, *, remembers_errors: bool = True, settings: Settings = SETTINGS, **dial: float
) -> tuple[World, Psp]:
    """One gateway at the simulator's own bank, in calm weather but for the dial."""
    clock = ManualClock(START)
    weather = Weather(dial=Dial(**dial), refused=0, hang=0, lapse=0, returned=0)  # type: ignore[arg-type]
    psp = Psp(lambda: clock.now().timestamp(), 1, weather, remembers_errors=remembers_errors)
    return World(store, PspLine(psp, Life(random.Random(1), None)), clock=clock, settings=settings), psp  # type: ignore[arg-type]
