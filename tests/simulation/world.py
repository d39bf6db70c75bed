"""The world of a simulation: gateways that die, clients that click, a PSP that fails, a database that hangs up.

Everything runs in one process on a manual clock and on a real PostgreSQL. What is drawn comes from the seed; in which
order concurrent statements reach PostgreSQL does not.
"""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import asyncpg
from tests.simulation.life import CONNECTION_TROUBLE, GatewayDied, Life, mortal
from tests.simulation.plan import Click, PlannedCheckout, clicks_by_wave
from tests.simulation.psp import STORMY, WINDOW, Psp, PspLine, Weather

from coatcheck.api.gateway import Gateway
from coatcheck.clock import ManualClock
from coatcheck.config import Settings
from coatcheck.ids import derive_id
from coatcheck.payments import PaymentView, Verdict
from coatcheck.shops import Caller
from coatcheck.states import Mode
from coatcheck.store import Store
from coatcheck.validation import Buyer, OrderRequest, PaymentRequest
from coatcheck.wiring import make_gateway

START: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
CALLER: Final = Caller(derive_id("shop", "hats"), "hats", Mode.TEST, derive_id("key", "one"))
# Pauses from half a minute to four hours: the retries of one operation take days, past the PSP's window.
SETTINGS: Final = Settings(
    digest_secret="a secret of the tests, long enough to be taken",
    retry_base_ms=30_000,
    retry_cap_s=4 * 3600,
    retry_budget_attempts=25,
    batch_size=128,
)
_WAVE: Final = timedelta(seconds=100)  # how long the clicks of a wave take: some leases run out meanwhile
_CLIENTS_AT_ONCE: Final = 96
_TRIES: Final = 40
_REPLAYS: Final = frozenset({Verdict.ACCEPTED, Verdict.SAME_KEY, Verdict.SAME_CHECKOUT})
_REFUSALS: Final = frozenset({Verdict.KEY_REUSED, Verdict.CHECKOUT_CONFLICT})


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """What goes wrong besides the PSP. `life_calls`: how many outside calls a gateway lives for, at most.

    `loss`: the share of statements that lose their connection before, and the same again after they took effect.
    """

    gateways: int = 3
    life_calls: int = 900
    loss: float = 0.004
    kills_backends: bool = True
    blackout_every: int = 6
    weather: Weather = STORMY


@dataclass(frozen=True, slots=True)
class Running:
    """A gateway and what keeps it alive."""

    gateway: Gateway
    life: Life


class World:
    """One simulation, from the first click until nothing is left to do."""

    def __init__(
        self,
        store: Store,
        owner: asyncpg.Connection,
        plan: Sequence[PlannedCheckout],
        *,
        seed: int,
        waves: int,
        remembers_errors: bool = True,
        trouble: Trouble | None = None,
    ) -> None:
        self.clock = ManualClock(START)
        self.trouble = trouble or Trouble()
        self.psp = Psp(
            lambda: self.clock.now().timestamp(), seed, self.trouble.weather, remembers_errors=remembers_errors
        )
        self.counts: Counter[str] = Counter()
        self.told: dict[str, dict[str, str]] = {}  # the final statuses clients heard, by checkout and order
        self.protests: list[str] = []
        self._store = store
        self._owner = owner
        self._plan = plan
        self._waves = waves
        self._dice = random.Random(f"world {seed}")
        self._is_ending = False
        self._tick = timedelta(0)
        self._gateways: list[Running] = []
        self._everybody: list[Running] = []
        self._clients = asyncio.Semaphore(_CLIENTS_AT_ONCE)

    async def run(self) -> None:
        """Play all waves, then let time pass until nothing is left to do."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_complain_of_the_living)
        for number, clicks in enumerate(clicks_by_wave(self._plan, self._waves), 1):
            self._tick = _WAVE / max(1, len(clicks))
            async with self._recovery(), self._hang_ups():
                await asyncio.gather(*[self._click(checkout, click) for checkout, click in clicks])
                await self._quiet()
            await self._between_waves(number)
        await self._end()

    async def _between_waves(self, number: int) -> None:
        """Let leases run out and others take over; then wake who hung. Or let nobody live to do so for a day."""
        if number % self.trouble.blackout_every == 0:
            await self._blackout()
            return
        for _ in range(3):
            self.clock.advance(timedelta(seconds=self._dice.uniform(20, 60)))
            await self._claim_all()
        # A request that arrives late is harmless only while its key is sure to be known: those arrive now.
        self.psp.release(1.0 if self.psp.remembers_errors else 0.5)
        self.psp.settle_pending(0.3)
        await self._quiet()
        self.clock.advance(timedelta(seconds=self._dice.choice((5, 45, 600, 5_000))))

    async def _blackout(self) -> None:
        """All gateways die at once, and the PSP has forgotten their keys before anybody is back."""
        self.psp.release()
        await self._quiet()
        for running in self._gateways:
            running.life.die()
        self.counts["blackouts"] += 1
        await self._quiet()
        self.clock.advance(WINDOW + timedelta(hours=self._dice.uniform(-1, 6)))

    async def _claim_all(self) -> None:
        """Do what is due, to its end or until somebody dies of it."""
        claimed = 1
        while claimed:
            with contextlib.suppress(*CONNECTION_TROUBLE):
                claimed = await self._living().gateway.executor.recover_once()
            await self._quiet()

    async def _end(self) -> None:
        """Let days pass, with no more crashes, until every operation is decided or waits for a person."""
        self._is_ending = True
        for running in self._gateways:
            running.life.live_on()
        for day in range(400):
            self.psp.release()
            pending = self.psp.settle_pending(0.5 if day < 20 else 1.0)
            await self._quiet()
            await self._claim_all()
            due_at = await self._owner.fetchval("SELECT min(due_at) FROM lease")
            if due_at is None and not pending and not self.psp.hanging:
                break
            if due_at is not None:
                self.clock.advance(max(timedelta(0), due_at - self.clock.now()) + timedelta(hours=1))
        for running in self._everybody:
            fenced = running.gateway.metrics.registry.get_sample_value("coatcheck_fenced_total")
            self.counts["fenced"] += round(fenced or 0)
        for clicks in _in_parts([(checkout, checkout.clicks[0]) for checkout in self._plan], 1000):
            await asyncio.gather(*[self._ask_once_more(checkout, click) for checkout, click in clicks])

    # clients

    async def _click(self, checkout: PlannedCheckout, click: Click) -> None:
        async with self._clients:
            self.clock.advance(2 * self._tick * self._dice.random())
            if click.is_tampered:
                await self._tamper(checkout, click)
                return
            request = _request(checkout)
            copies = [asyncio.create_task(self._persist(checkout, request, click)) for _ in range(click.copies)]
            if click.leaves:
                await asyncio.sleep(self._dice.random() * 0.02)
                for copy in copies:
                    copy.cancel()
                self.counts["left"] += 1
            await asyncio.gather(*copies, return_exceptions=True)

    async def _persist(self, checkout: PlannedCheckout, request: PaymentRequest, click: Click) -> None:
        """Send the same request again until it is answered, as a client does whose connection broke."""
        for _ in range(_TRIES):
            try:
                await self._send(checkout, request, click.key)
            except CONNECTION_TROUBLE:
                self.counts["sent again"] += 1
                await asyncio.sleep(0.002)
            else:
                return
        self.protests.append(f"{checkout.checkout_id} was not answered in {_TRIES} tries")

    async def _send(self, checkout: PlannedCheckout, request: PaymentRequest, key: str) -> None:
        gateway = self._living().gateway
        accepted = await gateway.payments.accept(CALLER, request, key)
        self.counts[accepted.verdict.value] += 1
        if accepted.verdict is Verdict.KEY_REUSED and any(other.is_tampered for other in checkout.clicks):
            # The forger was first under a key whose 24 hours are over; refused, it leaves none behind (B2).
            accepted = await gateway.payments.accept(CALLER, request, key)
        if accepted.verdict not in _REPLAYS:
            self.protests.append(f"{checkout.checkout_id} was refused: {accepted.verdict}")
            return
        works = [gateway.executor.start([operation]) for operation in accepted.operations]
        await self._done_or_hanging(works)
        view = await gateway.payments.read(accepted.payment_id)
        if view is None:
            self.protests.append(f"{checkout.checkout_id} was {accepted.verdict} and is not there")
            return
        self._hear(checkout, view)

    async def _tamper(self, checkout: PlannedCheckout, click: Click) -> None:
        """Send another amount under a key or checkout that was answered before: it must be refused (B2, B6)."""
        if checkout.checkout_id not in self.told:
            return
        first = replace(checkout.orders[0], amount_minor=checkout.orders[0].amount_minor + 1)
        request = _request(replace(checkout, orders=(first, *checkout.orders[1:])))
        try:
            accepted = await self._living().gateway.payments.accept(CALLER, request, click.key)
        except CONNECTION_TROUBLE:
            return
        self.counts[accepted.verdict.value] += 1
        if accepted.verdict not in _REFUSALS:
            self.protests.append(f"{checkout.checkout_id} came with another amount and was {accepted.verdict}")

    async def _ask_once_more(self, checkout: PlannedCheckout, click: Click) -> None:
        """Show the ticket again, long after: only where the coat was handed in."""
        if checkout.checkout_id in self.told:
            await self._persist(checkout, _request(checkout), click)

    def _hear(self, checkout: PlannedCheckout, view: PaymentView) -> None:
        heard = self.told.setdefault(checkout.checkout_id, {})
        for order in view.orders:
            if not order.status.is_final:
                continue
            before = heard.setdefault(order.payment_order_id, order.status.value)
            if before != order.status:
                self.protests.append(f"{order.payment_order_id} was told {before}, then {order.status}")

    # gateways

    def _living(self) -> Running:
        """Find a gateway that lives; dead ones are replaced at once by new processes."""
        for running in [running for running in self._gateways if running.life.is_dead]:
            self._gateways.remove(running)
            self.counts["gateways died"] += 1
        while len(self._gateways) < self.trouble.gateways:
            self._gateways.append(self._start())
            self._everybody.append(self._gateways[-1])
        return self._dice.choice(self._gateways)

    def _start(self) -> Running:
        calls = self.trouble.life_calls
        life = Life(self._dice, None if self._is_ending else self._dice.randint(calls // 10, calls))
        store = mortal(self._store, life, self._dice, 0 if self._is_ending else self.trouble.loss)
        line = PspLine(self.psp, life)
        return Running(
            make_gateway(SETTINGS, store, {SETTINGS.provider: line}, clock=self.clock, dice=self._dice), life
        )

    async def _done_or_hanging(self, works: Sequence["asyncio.Task[Any]"]) -> None:
        """Wait until each is done or hangs at the PSP, where a client would give up."""
        while busy := [work for work in works if not work.done() and work not in self.psp.hanging]:
            await asyncio.wait(busy, timeout=0.02, return_when=asyncio.FIRST_COMPLETED)
        for work in works:
            if work.done() and isinstance(work.exception(), GatewayDied):
                raise GatewayDied

    async def _quiet(self) -> None:
        """Wait until no gateway does anything but hang at the PSP."""
        while busy := [
            work
            for running in self._everybody
            for work in running.gateway.executor._running
            if work not in self.psp.hanging
        ]:
            await asyncio.wait(busy, timeout=0.02, return_when=asyncio.FIRST_COMPLETED)

    @asynccontextmanager
    async def _recovery(self) -> AsyncIterator[None]:
        """Claim due work all the time, as every gateway does, while clients click."""

        async def claim() -> None:
            while True:
                await asyncio.sleep(0.02)
                with contextlib.suppress(*CONNECTION_TROUBLE):
                    self.counts["claimed"] += await self._living().gateway.executor.recover_once()

        async with _beside(claim()):
            yield

    @asynccontextmanager
    async def _hang_ups(self) -> AsyncIterator[None]:
        """Kill a busy backend now and then: statements break off at any point, COMMIT included (hazard G6)."""

        async def kill() -> None:
            while self.trouble.kills_backends:
                await asyncio.sleep(0.02 + self._dice.random() * 0.2)
                killed = await self._owner.fetch(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
                    "AND application_name = 'coatcheck' AND state = 'active' LIMIT 1"
                )
                self.counts["backends killed"] += len(killed)

        async with _beside(kill()):
            yield


@asynccontextmanager
async def _beside(work: Any) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, *CONNECTION_TROUBLE):
            await task


def _complain_of_the_living(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What a dead process leaves unheard, and what its clients saw as an error already, is no news."""
    if not isinstance(context.get("exception"), (*CONNECTION_TROUBLE, asyncio.CancelledError)):
        loop.default_exception_handler(context)


def _in_parts(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _request(checkout: PlannedCheckout) -> PaymentRequest:
    orders = tuple(
        OrderRequest(
            order.payment_order_id, order.seller_account, order.amount_minor, order.currency, order.commission_minor
        )
        for order in checkout.orders
    )
    return PaymentRequest(checkout.checkout_id, Buyer(checkout.buyer), checkout.token, orders)
