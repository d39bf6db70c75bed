"""When what is done to which process: drawn from a seed before the drill begins. Pure.

Rates are for an hour of `make drill-full`; a short drill has at least one of each.
"""

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

_HOUR_S: Final = 3600
_FIRST, _LAST = 0.04, 0.92  # of the time: begin when there is traffic, end before the clients stop


class Blow(StrEnum):
    """What can happen to a process or to a line; the values are the report's words."""

    GATEWAY_KILL = "gateway killed (SIGKILL)"
    GATEWAY_STOP = "gateway stopped in its tracks (SIGSTOP), longer than a lease"
    GATEWAY_PAUSE = "gateway stopped in its tracks (SIGSTOP), shorter than a lease"
    POSTGRES_KILL = "PostgreSQL killed (SIGKILL) and recovered"
    PSP_AWAY = "PSP refused connections for a while"


_PER_HOUR: Final = {
    Blow.GATEWAY_KILL: 1_030,
    Blow.GATEWAY_STOP: 60,
    Blow.GATEWAY_PAUSE: 120,
    Blow.POSTGRES_KILL: 52,
    Blow.PSP_AWAY: 150,
}
# How long a stop or an absence lasts, in seconds: from, to. A lease lasts LEASE_S.
LEASE_S: Final = 5
_LASTS_S: Final = {
    Blow.GATEWAY_STOP: (LEASE_S + 0.5, LEASE_S + 2.0),
    Blow.GATEWAY_PAUSE: (0.3, 2.5),
    Blow.PSP_AWAY: (0.4, 2.0),
}


@dataclass(frozen=True, slots=True, order=True)
class Stroke:
    """One blow: seconds after the beginning, which of its kind's targets (a number to be taken modulo), how long."""

    at_s: float
    blow: Blow
    target: int
    lasts_s: float


def plan_strokes(seed: int, seconds: float) -> list[Stroke]:
    """Draw all blows of a drill, in the order of time; the same seed and seconds give the same blows."""
    dice = random.Random(f"strokes {seed}")  # noqa: S311 - a drill that can be run again, not a secret
    strokes: list[Stroke] = []
    for blow, per_hour in _PER_HOUR.items():
        count = max(1, round(seconds * per_hour / _HOUR_S))
        strokes += [_stroke(dice, blow, (place + dice.random()) / count, seconds) for place in range(count)]
    return sorted(strokes)


def _stroke(dice: random.Random, blow: Blow, when: float, seconds: float) -> Stroke:
    """Place one blow in its own slice of the time, so that each kind is spread over all of it."""
    low, high = _LASTS_S.get(blow, (0.0, 0.0))
    return Stroke(seconds * (_FIRST + (_LAST - _FIRST) * when), blow, dice.randrange(1 << 16), dice.uniform(low, high))


def skew_of(seed: int, gateway: str, start: int) -> float:
    """Say by how many seconds the clock of a gateway is wrong, from this start of it on: the second of a pair only."""
    dice = random.Random(f"skew {seed} {gateway} {start}")  # noqa: S311
    return 0.0 if gateway.endswith("a") else round(dice.choice((-1, 1)) * dice.uniform(0.5, 3.0), 3)
