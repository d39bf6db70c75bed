"""The PSP of the simulation: the simulator's own bank, chaos and HTTP application, on the world's clock, no sockets.

What it does wrong depends on the seed, the charge and which sending of it this is, never on who comes first. It keeps a
diary of what it was asked and what it answered, which the judge reads.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import aiohttp
import msgspec
from tests.simulation.life import Life

from coatcheck.providers.outcome import Outcome
from coatcheck.providers.protocol import Charge
from coatcheck.providers.simulated import SimulatedProvider, _charge_outcome, _look_up_outcome, _Raw, _unanswered
from coatcheck.providers.transport import outcome_of_exception
from coatcheck.simulator.app import App, Reply
from coatcheck.simulator.bank import PENDING, Bank
from coatcheck.simulator.chaos import Chaos, Dial

WINDOW: Final = timedelta(hours=24)
CALL_DEADLINE_S: Final = 10
API_KEY: Final = "sk_sim_test_coatcheck"
_HEADERS: Final = {b"authorization": f"Bearer {API_KEY}".encode()}
_FAULTS_AT_MOST: Final = 4  # of the ones drawn here; the chaos dial has a bound of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """How bad it is. Shares of all sendings: `refused` connections, calls that `hang` until long after their lease."""

    dial: Dial
    refused: float
    hang: float


STORMY = Weather(
    dial=Dial(
        drop_after_charge_share=0.06,
        error_before_share=0.03,
        error_after_share=0.04,
        rate_limit_share=0.02,
        retry_after_s=7,
        slow_share=0.02,
        slow_ms=20_000,
        decline_share=0.03,
        look_up_error_share=0.03,
        search_lag_ms=45_000,
        max_faults_per_key=4,
    ),
    refused=0.03,
    hang=0.03,
)


@dataclass(slots=True)
class Entry:
    """What the PSP knows of one reference. `told`: the decisions it truthfully answered with."""

    first_at: float = 0.0
    sendings: int = 0
    look_ups: int = 0
    lies: int = 0
    told: set[str] = field(default_factory=set)
    last_look_up_at: float | None = None
    log: list[str] = field(default_factory=list)


class Psp:
    """One PSP for all gateways. `remembers_errors`: an error after execution is stored under the key (hazard A4), else
    only successful answers are (hazard A5)."""

    def __init__(self, clock: Callable[[], float], seed: int, weather: Weather, *, remembers_errors: bool) -> None:
        self.remembers_errors = remembers_errors
        self.bank = Bank(clock=clock, key_window_s=WINDOW.total_seconds())
        self.diary: dict[str, Entry] = {}
        self.hanging: dict[asyncio.Task[Any], asyncio.Future[None]] = {}
        self.hung = 0
        self.refused = 0
        self._clock = clock
        self._seed = seed
        self._weather = weather
        dial = msgspec.structs.replace(weather.dial, seed=seed)
        self._app = App(self.bank, Chaos(dial), cache_errors=remembers_errors, slow_s=2 * CALL_DEADLINE_S)

    def entry(self, reference: str) -> Entry:
        """Open the diary at a reference."""
        return self.diary.setdefault(reference, Entry(first_at=self._clock()))

    def release(self, share: float = 1.0) -> None:
        """Let calls go on that hung; whoever made them has long lost its lease."""
        dice = random.Random(f"release {self._seed} {self.hung}")
        for caller, waiting in list(self.hanging.items()):
            if dice.random() < share:
                del self.hanging[caller]  # from now on it is busy, not hanging
                if not waiting.done():
                    waiting.set_result(None)

    def settle_pending(self, share: float) -> int:
        """Decide charges that were left pending; returns how many are still pending."""
        dice = random.Random(f"settle {self._seed} {self._clock()}")
        left = 0
        for charge in self.bank.page(0, self.bank.charge_count):
            if charge.status == PENDING:
                if dice.random() >= share:
                    left += 1
                elif dice.random() < 0.8:
                    self.bank.settle(charge.id, "succeeded")
                else:
                    self.bank.settle(charge.id, "declined", "authentication_required")
        return left

    async def charge(self, charge: Charge, caller: asyncio.Task[Any] | None) -> Outcome:
        """Take a charge over the wire, with what the weather makes of it."""
        entry = self.entry(charge.reference)
        entry.sendings += 1
        dice = random.Random(f"{self._seed}/{charge.reference}/{entry.sendings}")
        draw = dice.random() if entry.sendings <= _FAULTS_AT_MOST else 1.0
        if draw < self._weather.refused:
            self.refused += 1
            self._log(entry, "refused the connection")
            return outcome_of_exception(ConnectionRefusedError())
        hangs = self._weather.refused <= draw < self._weather.refused + self._weather.hang
        # A request that arrives late is harmless only where the key is sure to be known.
        is_young = self._clock() - entry.first_at < WINDOW.total_seconds() / 2
        hangs_before = hangs and is_young and self.remembers_errors and dice.random() < 0.5
        if hangs_before:
            self._log(entry, "hangs before the charge")
            await self._hang(caller)
        headers = {**_HEADERS, b"idempotency-key": charge.reference.encode()}
        reply = self._app.handle(b"POST", b"/v1/charges", headers, charge.body)
        self._log(entry, f"charge: HTTP {reply.status}, after {reply.delay_s} s, dropped={reply.is_dropped}")
        if hangs and not hangs_before:
            await self._hang(caller)
        outcome = self._broken(reply) or _charge_outcome(_raw(reply))
        self._note(entry, charge, outcome)
        return outcome

    async def look_up(self, charge: Charge) -> Outcome:
        """Answer what became of a charge."""
        entry = self.entry(charge.reference)
        entry.look_ups += 1
        by_id = charge.provider_reference
        target = f"/v1/charges/{by_id}" if by_id else f"/v1/charges?reference={charge.reference}"
        reply = self._app.handle(b"GET", target.encode(), _HEADERS, b"")
        self._log(entry, f"look-up: HTTP {reply.status} {reply.body.decode()}")
        broken = self._broken(reply)
        if broken is not None:
            return _unanswered(broken)
        outcome = _look_up_outcome(_raw(reply), charge)
        if reply.status == 200:
            entry.last_look_up_at = self._clock()
        self._note(entry, charge, outcome)
        return outcome

    def _broken(self, reply: Reply) -> Outcome | None:
        """What the client sees instead of the reply, if the line does not hold so long."""
        if reply.is_dropped:
            return outcome_of_exception(aiohttp.ServerDisconnectedError())
        return outcome_of_exception(TimeoutError()) if reply.delay_s > CALL_DEADLINE_S else None

    def _note(self, entry: Entry, charge: Charge, outcome: Outcome) -> None:
        if not outcome.kind.is_definite:
            return
        truth = {
            (made.status, made.amount, made.currency, made.reference, made.livemode)
            for made in self.bank.search(self.bank.merchant("coatcheck", is_live=False), charge.reference)
        }
        status = "succeeded" if outcome.kind == "APPROVED" else "declined"
        said = (status, outcome.amount_minor, outcome.currency, outcome.reference, outcome.is_live)
        if said in truth or outcome.amount_minor is None:  # a refusal names no amount
            entry.told.add(status)
        else:
            entry.lies += 1

    def _log(self, entry: Entry, what: str) -> None:
        entry.log.append(f"{datetime.fromtimestamp(self._clock(), UTC)} {what}")

    async def _hang(self, caller: asyncio.Task[Any] | None) -> None:
        assert caller is not None
        self.hung += 1
        waiting = self.hanging[caller] = asyncio.get_running_loop().create_future()
        try:
            await waiting
        finally:
            self.hanging.pop(caller, None)


class PspLine(SimulatedProvider):
    """One gateway's line to the PSP: the simulator's adapter with its transport replaced by a call."""

    def __init__(self, psp: Psp, life: Life) -> None:
        super().__init__("http://psp.invalid", API_KEY, idempotency_window=WINDOW, replays_errors=psp.remembers_errors)
        self._psp = psp
        self._life = life

    async def charge(self, charge: Charge) -> Outcome:
        """Ask for the money."""
        caller = asyncio.current_task()
        return await self._life.outside(lambda: self._psp.charge(charge, caller))

    async def look_up(self, charge: Charge) -> Outcome:
        """Ask what became of a charge."""
        return await self._life.outside(lambda: self._psp.look_up(charge))


def _raw(reply: Reply) -> _Raw:
    headers = dict(line.split(": ", 1) for line in reply.headers.decode().splitlines())
    is_json = headers["content-type"] == "application/json"
    return _Raw(reply.status, is_json, headers.get("retry-after"), reply.body)
