"""The world of a simulation: gateways that die, clients that click, a PSP that fails, a database that hangs up.

Everything runs in one process on a manual clock and on a real PostgreSQL. What is drawn comes from the seed; in which
order concurrent statements reach PostgreSQL does not.
"""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import asyncpg
from tests.simulation.life import CONNECTION_TROUBLE, GatewayDied, Life, mortal
from tests.simulation.plan import Click, Manner, PlannedCheckout, Step, What, errands_by_wave
from tests.simulation.psp import STORMY, WINDOW, Letter, Psp, PspLine, Weather

from coatcheck.api.gateway import Gateway
from coatcheck.api.returning import ask_about_page
from coatcheck.clock import ManualClock
from coatcheck.config import Settings
from coatcheck.ids import derive_id, order_id_of, payment_id_of
from coatcheck.operations import Operation
from coatcheck.payments import PaymentView, Verdict
from coatcheck.providers.protocol import WebhookRefusedError
from coatcheck.refunds import RefundRequest, RefundVerdict
from coatcheck.shops import Caller
from coatcheck.states import Capture, Mode, OnFailure
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
    batch_size=512,
)
_WAVE: Final = timedelta(seconds=100)  # how long the clicks of a wave take: some leases run out meanwhile
_CLIENTS_AT_ONCE: Final = 128
_TRIES: Final = 40
_PROVIDER: Final = (SETTINGS.provider, Mode.TEST)
_RETURN_URL: Final = "https://shop.example/thanks"
_MANNERS: Final = {
    Manner.USUAL: (Capture.AUTOMATIC, OnFailure.KEEP),
    Manner.MANUAL: (Capture.MANUAL, OnFailure.KEEP),
    Manner.TOGETHER: (Capture.AUTOMATIC, OnFailure.ALL_OR_NOTHING),
}
_NEXT_DUE: Final = """
WITH waits_behind AS (  -- an order whose capture or void is a person's turn: nothing else becomes final there
    SELECT p.order_id FROM payment_order AS p JOIN operation AS a ON a.operation_id = p.acting
     WHERE a.status = 'UNRESOLVED'
)
SELECT min(due_at) FROM (
    SELECT l.due_at FROM lease AS l JOIN operation AS o USING (operation_id)
     WHERE o.order_id NOT IN (SELECT order_id FROM waits_behind)
     UNION ALL
    SELECT due_at FROM authorization_watch WHERE order_id NOT IN (SELECT order_id FROM waits_behind)
     UNION ALL
    SELECT due_at FROM inbox_lease  -- news of an order that waits so waits with it, for as long as that takes
     WHERE cause IS DISTINCT FROM 'a capture or void of its order is under way' OR NOT EXISTS (SELECT FROM waits_behind)
) AS waiting
"""
_REPLAYS: Final = frozenset({Verdict.ACCEPTED, Verdict.SAME_KEY, Verdict.SAME_CHECKOUT})
_REFUSALS: Final = frozenset({Verdict.KEY_REUSED, Verdict.CHECKOUT_CONFLICT})


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """What goes wrong besides the PSP. `life_calls`: how many outside calls a gateway lives for, at most.

    `recovery_in_flight`: how much left work of a PSP a gateway has under way. `loss`: the share of statements that lose
    their connection before, and the same again after they took effect.
    """

    gateways: int = 3
    life_calls: int = 900
    loss: float = 0.003
    kills_backends: bool = True
    recovery_in_flight: int = 200
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
        self.pages: dict[str, list[str]] = {}  # the PSP's pages that buyers were sent to, by checkout
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
        for number, errands in enumerate(errands_by_wave(self._plan, self._waves), 1):
            self._tick = _WAVE / max(1, len(errands))
            async with self._recovery(), self._hang_ups():
                await asyncio.gather(*[self._run_errand(checkout, errand) for checkout, errand in errands])
                await self._quiet()
            await self._between_waves(number)
        await self._end()

    async def _between_waves(self, number: int) -> None:
        """Let leases run out and others take over; then wake who hung. Or let nobody live to do so for a day."""
        if number % self.trouble.blackout_every == 0 and number < self._waves:
            await self._blackout()
            return
        for _ in range(3):
            self.clock.advance(timedelta(seconds=self._dice.uniform(20, 60)))
            await self._claim_all()
        # A request that arrives late is harmless only while its key is sure to be known: those arrive now.
        self.psp.release(1.0 if self.psp.remembers_errors else 0.5)
        self.psp.let_time_work(0.3, is_ending=False)
        self.psp.post.bring_late()
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
        done = 1
        while done:
            done = 0
            self._living()
            for outcome in await asyncio.gather(*map(self._do_chores, self._gateways), return_exceptions=True):
                if isinstance(outcome, int):
                    done += outcome
                elif not isinstance(outcome, CONNECTION_TROUBLE):
                    raise outcome
                else:
                    done += 1  # whoever comes next does it
            await self._quiet()

    async def _do_chores(self, running: Running) -> int:
        """Do once what a gateway does unasked, as `at_work` does all the time: recovery, webhooks, upkeep."""
        await self._deliver(running)
        gateway = running.gateway
        done = await gateway.executor.recover_once()
        self.counts["claimed"] += done
        return done + await gateway.inbox.handle_once() + await gateway.upkeep.tend_once()

    async def _deliver(self, running: Running) -> None:
        """Post the PSP's events as their endpoint takes them; what is not taken comes again."""
        letters = self.psp.post.collect()
        try:
            while letters:
                batch, at = letters[:200], self.clock.now()
                await asyncio.gather(*[self._hand_in(running, letter, at) for letter in batch])
                for letter in batch:
                    self.psp.post.delivered(letter)
                letters = letters[200:]
        finally:
            self.psp.post.letters.extend(letters)

    async def _hand_in(self, running: Running, letter: Letter, at: datetime) -> None:
        headers = self.psp.post.sign(letter, at.timestamp())
        try:
            events = running.gateway.webhooks[_PROVIDER].receive(headers, letter.body, at)
        except WebhookRefusedError:
            if not letter.is_forged:
                self.protests.append(f"an authentic event was refused: {letter.body.decode()}")
            return
        if letter.is_forged:
            self.protests.append(f"a forged event was taken: {letter.body.decode()}")
        await running.gateway.inbox.store(*_PROVIDER, headers, events)

    async def _end(self) -> None:
        """Let days pass, with no more crashes, until every operation is decided or waits for a person."""
        self._is_ending = True
        for running in self._gateways:
            running.life.live_on()
        for day in range(400):
            self.psp.release()
            pending = self.psp.let_time_work(0.5 if day < 20 else 1.0, is_ending=True)
            self.psp.post.bring_late()
            await self._quiet()
            await self._claim_all()
            due_at = await self._owner.fetchval(_NEXT_DUE)
            if due_at is None and not pending and not self.psp.hanging and not self.psp.post.letters:
                break
            if due_at is not None:
                self.clock.advance(max(timedelta(0), due_at - self.clock.now()) + timedelta(hours=1))
        for running in self._everybody:
            fenced = running.gateway.metrics.registry.get_sample_value("coatcheck_fenced_total")
            self.counts["fenced"] += round(fenced or 0)
        for clicks in _in_parts([(checkout, checkout.clicks[0]) for checkout in self._plan], 1000):
            await asyncio.gather(*[self._ask_once_more(checkout, click) for checkout, click in clicks])

    # clients

    async def _run_errand(self, checkout: PlannedCheckout, errand: Click | Step) -> None:
        async with self._clients:
            self.clock.advance(2 * self._tick * self._dice.random())
            if isinstance(errand, Step):
                await self._take_step(checkout, errand)
            elif errand.is_tampered:
                await self._tamper(checkout, errand)
            else:
                await self._click(checkout, errand)

    async def _click(self, checkout: PlannedCheckout, click: Click) -> None:
        request = _request(checkout)
        copies = [asyncio.create_task(self._persist(checkout, request, click)) for _ in range(click.copies)]
        if click.leaves:
            await asyncio.sleep(self._dice.random() * 0.02)
            for copy in copies:
                copy.cancel()
            self.counts["left"] += 1
        await asyncio.gather(*copies, return_exceptions=True)

    async def _persist(self, checkout: PlannedCheckout, request: PaymentRequest, click: Click) -> None:
        await self._until_answered(checkout, lambda: self._send(checkout, request, click.key))

    async def _until_answered(self, checkout: PlannedCheckout, send: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Send the same request again until it is answered, as a client does whose connection broke."""
        for _ in range(_TRIES):
            try:
                await send()
            except CONNECTION_TROUBLE:
                self.counts["sent again"] += 1
                await asyncio.sleep(0.002)
            else:
                return
        self.protests.append(f"{checkout.checkout_id} was not answered in {_TRIES} tries")

    async def _take_step(self, checkout: PlannedCheckout, step: Step) -> None:
        if step.what is What.VISIT:
            await self._until_answered(checkout, lambda: self._visit(checkout, step))
            await self._until_answered(checkout, lambda: self._come_back(checkout))
            return
        ask = {What.CAPTURE: self._capture, What.CANCEL: self._cancel, What.REFUND: self._refund}[step.what]
        await self._until_answered(checkout, lambda: ask(checkout, step))

    async def _visit(self, checkout: PlannedCheckout, step: Step) -> None:
        """Let the buyer go where the shop sends him, and to every page that he was sent to before."""
        payment_id = payment_id_of(CALLER.shop_id, CALLER.mode, checkout.checkout_id)
        view = await self._living().gateway.payments.read(payment_id)
        pages = self.pages.setdefault(checkout.checkout_id, [])
        if view is not None and view.redirect_url is not None and view.redirect_url not in pages:
            pages.append(view.redirect_url)
        self.counts["visit no page"] += not pages
        for page in pages:
            self.counts[f"visit {self.psp.visit(page.rsplit('/', 1)[1], step.draw)}"] += 1

    async def _come_back(self, checkout: PlannedCheckout) -> None:
        """Let him come back from there, whatever he did: the PSP is asked now, where nobody asks at this moment."""
        gateway = self._living().gateway
        view = await gateway.payments.read(payment_id_of(CALLER.shop_id, CALLER.mode, checkout.checkout_id))
        self.counts["back and asked"] += view is not None and await ask_about_page(gateway, view)

    async def _capture(self, checkout: PlannedCheckout, step: Step) -> None:
        running = self._living()
        act = await running.gateway.acts.capture(
            payment_id_of(CALLER.shop_id, CALLER.mode, checkout.checkout_id),
            {_order_id(name): amount for name, amount in step.amounts_minor},
            is_final=step.is_final,
            key=step.key,
        )
        self.counts.update(f"capture {verdict}" for verdict in act.verdicts.values())
        await self._run_to_the_end(running, act.operations)

    async def _cancel(self, checkout: PlannedCheckout, step: Step) -> None:
        running = self._living()
        payment_id = payment_id_of(CALLER.shop_id, CALLER.mode, checkout.checkout_id)
        if await running.gateway.payments.read(payment_id) is None:  # as the API does it
            self.counts["cancel unknown"] += 1
            return
        orders = [_order_id(order.payment_order_id) for order in checkout.orders]
        act = await running.gateway.acts.cancel(payment_id, orders, step.key)
        self.counts.update(f"cancel {verdict}" for verdict in act.verdicts.values())
        await self._run_to_the_end(running, act.operations)

    async def _refund(self, _: PlannedCheckout, step: Step) -> None:
        running = self._living()
        ((name, amount_minor),) = step.amounts_minor
        asked = RefundRequest(order_id=_order_id(name), amount_minor=amount_minor, reason="sent back")
        answer = await running.gateway.refunds.request(CALLER, asked, step.key)
        self.counts[f"refund {answer.verdict}"] += 1
        if answer.verdict is RefundVerdict.KEY_REUSED:
            self.protests.append(f"the refund {step.key} was refused as another one's")
        await self._run_to_the_end(running, answer.operations)

    async def _run_to_the_end(self, running: Running, operations: Sequence[Operation]) -> None:
        await self._done_or_hanging([running.gateway.executor.start([operation]) for operation in operations])

    async def _send(self, checkout: PlannedCheckout, request: PaymentRequest, key: str) -> None:
        running = self._living()
        gateway = running.gateway
        accepted = await gateway.payments.accept(CALLER, request, key)
        self.counts[accepted.verdict.value] += 1
        if accepted.verdict is Verdict.KEY_REUSED and any(other.is_tampered for other in checkout.clicks):
            # The forger was first under a key whose 24 hours are over; refused, it leaves none behind (B2).
            accepted = await gateway.payments.accept(CALLER, request, key)
        if accepted.verdict not in _REPLAYS:
            self.protests.append(f"{checkout.checkout_id} was refused: {accepted.verdict}")
            return
        await self._run_to_the_end(running, accepted.operations)
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
        gateway = make_gateway(SETTINGS, store, {SETTINGS.provider: line}, clock=self.clock, dice=self._dice)
        line.workers = gateway.executor._running
        gateway.executor._recovery_in_flight = self.trouble.recovery_in_flight
        return Running(gateway, life)

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
            await asyncio.wait(busy, timeout=0.02)

    @asynccontextmanager
    async def _recovery(self) -> AsyncIterator[None]:
        """Do the chores all the time, as every gateway does, while clients click."""

        async def work() -> None:
            while True:
                await asyncio.sleep(0.02)
                with contextlib.suppress(*CONNECTION_TROUBLE):
                    await self._do_chores(self._living())

        async with _beside(work()), _beside(work()):
            yield

    @asynccontextmanager
    async def _hang_ups(self) -> AsyncIterator[None]:
        """Kill a busy backend now and then: statements break off at any point, COMMIT included (hazard G6)."""

        async def kill() -> None:
            while self.trouble.kills_backends:
                await asyncio.sleep(0.1 + self._dice.random() * 0.2)
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
        while not task.done():  # a gateway that dies of it hears of its death instead
            task.cancel()
            await asyncio.wait([task], timeout=0.1)
        with contextlib.suppress(asyncio.CancelledError, *CONNECTION_TROUBLE):
            await task


def _complain_of_the_living(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What a dead process leaves unheard, and what its clients saw as an error already, is no news."""
    if not isinstance(context.get("exception"), (*CONNECTION_TROUBLE, asyncio.CancelledError)):
        loop.default_exception_handler(context)


def _in_parts(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _order_id(payment_order_id: str) -> UUID:
    return order_id_of(CALLER.shop_id, CALLER.mode, payment_order_id)


def _request(checkout: PlannedCheckout) -> PaymentRequest:
    orders = tuple(
        OrderRequest(
            order.payment_order_id, order.seller_account, order.amount_minor, order.currency, order.commission_minor
        )
        for order in checkout.orders
    )
    capture, on_failure = _MANNERS[checkout.manner]
    return PaymentRequest(
        checkout.checkout_id,
        Buyer(checkout.buyer),
        checkout.token,
        orders,
        capture=capture,
        on_failure=on_failure,
        return_url=_RETURN_URL if checkout.token is None else None,
    )
