"""Every kind of history, and after each step the replay: the events alone make the very rows that are stored."""

import asyncio
import json
import logging
import random
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest
import structlog
from tests.failpoints.judging import _empty
from tests.failpoints.scenarios import SCENARIOS
from tests.failpoints.stage import Stage
from tests.integration.outside import (
    CALLER,
    SETTINGS,
    START,
    ScriptedProvider,
    World,
    approved,
    checkout,
    declined,
    not_found,
    not_sent,
    pending,
    unknown,
)
from tests.integration.test_bank_statements import Bank, statement
from tests.integration.test_dead_letters import ADA, ALL, BOB, CHARGED, DONE, IMPATIENT, NOT_CHARGED, desk
from tests.integration.test_inbox import Psp, charge, dispute
from tests.integration.test_lifecycle import lapsed
from tests.integration.test_reconciliation import kinds, lines, summed

from coatcheck.audit.replay import Difference, replay, replaying
from coatcheck.audit.replay.bodies import Event
from coatcheck.audit.replay.books import TABLES
from coatcheck.audit.replay.fold import fold
from coatcheck.audit.replay.tables import Table
from coatcheck.cli.failures import UnusableError
from coatcheck.cli.replay import replay as command
from coatcheck.clock import ManualClock
from coatcheck.config import Settings
from coatcheck.ids import derive_id, operation_id_of, order_id_of
from coatcheck.ledger import Account, Ledger, bank
from coatcheck.providers.outcome import Outcome
from coatcheck.providers.protocol import Intent
from coatcheck.shops import Caller, create_key, revoke_key
from coatcheck.states import Capture, Mode, OnFailure, OperationKind
from coatcheck.store import Store

MANUAL, TOGETHER = Capture.MANUAL, OnFailure.ALL_OR_NOTHING
AUTHORIZE, CAPTURE, VOID, REFUND = (
    OperationKind.AUTHORIZE,
    OperationKind.CAPTURE,
    OperationKind.VOID,
    OperationKind.REFUND,
)
PAGE: Final = "https://shop.example/"


async def differences_of(store: Store) -> list[Difference]:
    found: list[Difference] = []
    replayed = await replay(store, found.append)
    assert replayed.differences == len(found)
    return found


class JumpingClock(ManualClock):
    """What several machines' clocks look like from the events: seconds apart, to either side, at every look."""

    def __init__(self, start: datetime, seed: int) -> None:
        super().__init__(start)
        self._dice = random.Random(seed)

    def now(self) -> datetime:
        return super().now() + timedelta(milliseconds=self._dice.randint(-5000, 5000))


class WatchedProvider(ScriptedProvider):
    """Has the replay run while a call is under way: it is decided at the PSP, and not yet here."""

    def __init__(self, store: Store, **capabilities: object) -> None:
        super().__init__(**capabilities)
        self.differences: list[Difference] = []  # an exception here would be taken for the PSP's silence
        self._store = store

    async def register(self, intent: Intent) -> Outcome:
        return await self._look(await super().register(intent))

    async def send(self, intent: Intent) -> Outcome:
        return await self._look(await super().send(intent))

    async def look_up(self, intent: Intent) -> Outcome:
        return await self._look(await super().look_up(intent))

    async def _look(self, outcome: Outcome) -> Outcome:
        self.differences += await differences_of(self._store)
        return outcome


History = Callable[[World], Awaitable[None]]
HISTORIES: dict[str, tuple[History, Settings, dict[str, object]]] = {}


def history(settings: Settings = SETTINGS, **capabilities: object) -> Callable[[History], History]:
    def keep(play: History) -> History:
        HISTORIES[play.__name__] = (play, settings, capabilities)
        return play

    return keep


async def operations_of(world: World, where: str = "true") -> list[UUID]:
    rows = await world.store.pool.fetch(f"SELECT operation_id FROM operation WHERE {where} ORDER BY operation_id")
    return [row[0] for row in rows]


async def ask_again(world: World, where: str, answer: Callable[[Intent], Outcome]) -> None:
    """Reopen operations, and let the PSP answer."""
    for held in await world.gateway.operations.reopen(await operations_of(world, where), "a test asks again"):
        world.provider.look_ups.insert(0, answer)
        await world.gateway.executor.run(held)


async def status_of(world: World, name: str = "o1") -> str:
    order_id = order_id_of(CALLER.shop_id, CALLER.mode, name)
    status: str = await world.store.pool.fetchval("SELECT status FROM payment_order WHERE order_id = $1", order_id)
    return status


async def hear(world: World, psp: Psp, type_: str, subject: dict[str, Any]) -> None:
    """Deliver an event; where clocks are apart, it may be due only a while later."""
    await psp.tell(type_, subject)
    world.clock.advance(timedelta(seconds=20))
    await psp.handle()


# a charge


@history()
async def paid(world: World) -> None:
    await world.pay(checkout("c1", "o1", "o2"))
    await world.pay(msgspec.structs.replace(checkout("c2", "p1"), metadata={"basket": "ü 1.0", "empty": ""}), "k2")


@history()
async def some_declined(world: World) -> None:
    world.provider.charges = [declined, approved, declined]
    await world.pay(checkout("c1", "o1", "o2", "o3"))


@history(settings=replace(SETTINGS, risk_max_amount={"EUR": "1.00"}))
async def blocked(world: World) -> None:
    await world.pay(checkout("c1", "o1", "o2"))
    assert await status_of(world) == "FAILED"
    assert await world.count("operation") == 0


@history()
async def sent_again(world: World) -> None:
    world.provider.charges = [not_sent, not_sent, unknown, approved]
    await world.pay(checkout("c1", "o1"))
    for _ in range(3):
        await world.recover()
    assert await status_of(world) == "SUCCESS"


@history(look_up_before_resend=True)
async def looked_up(world: World) -> None:
    world.provider.charges = [unknown, unknown]
    world.provider.look_ups = [not_found, unknown, not_found, not_found]
    await world.pay(checkout("c1", "o1"))
    for _ in range(6):
        await world.recover()
    assert await status_of(world) == "SUCCESS"


@history(registers_first=True)
async def in_two_steps(world: World) -> None:
    world.provider.charges = [unknown]
    await world.pay(checkout("c1", "o1", "o2"))
    await world.recover()
    assert await status_of(world) == "SUCCESS"


@history()
async def left_by_its_process(world: World) -> None:
    await world.accept(checkout("c1", "o1"))
    claimed = await world.gateway.operations.claim(10)
    assert claimed == []
    await world.recover()
    assert await status_of(world) == "SUCCESS"


@history()
async def another_amount(world: World) -> None:
    world.provider.charges = [lambda intent: msgspec.structs.replace(approved(intent), amount_minor=999)]
    await world.pay(checkout("c1", "o1"))


@history()
async def decided_later(world: World) -> None:
    world.provider.charges = [pending, pending]
    world.provider.look_ups = [pending, approved, lapsed]
    await world.pay(checkout("c1", "o1", "o2"))
    for _ in range(3):
        await world.recover()
    assert {await status_of(world, "o1"), await status_of(world, "o2")} == {"SUCCESS", "CANCELLED"}


@history()
async def on_a_page(world: World) -> None:
    world.provider.registers = [unknown]
    await world.pay(checkout("c1", "o1", "o2", return_url=PAGE))
    world.provider.look_ups = [not_found, pending, approved, lapsed]
    for _ in range(4):
        await world.recover()
    assert {await status_of(world, "o1"), await status_of(world, "o2")} == {"SUCCESS", "CANCELLED"}


# captures and voids


@history(several_captures=True)
async def captured_in_parts(world: World) -> None:
    view = await world.pay(checkout("c1", "o1", capture=MANUAL, amount_minor=1001))
    await world.capture(view, key="first", is_final=False, o1=333)
    assert await world.capture(view, key="too-much", o1=669) == ["too_much"]
    world.provider.acts[CAPTURE] = [unknown]
    await world.capture(view, key="last", o1=444)
    await world.recover()
    assert await status_of(world) == "SUCCESS"


@history()
async def captured_whole(world: World) -> None:
    view = await world.pay(checkout("c1", "o1", "o2", capture=MANUAL))
    world.provider.acts[CAPTURE] = [declined, not_sent]
    await world.capture(view, o1=None)
    await world.capture(view, key="again", o1=None, o2=700)
    await world.recover()
    assert await status_of(world, "o2") == "SUCCESS"


@history()
async def voided(world: World) -> None:
    view = await world.pay(checkout("c1", "o1", capture=MANUAL))
    world.provider.acts[VOID] = [declined, pending]
    await world.cancel(view)
    await world.cancel(view, key="v2")
    world.provider.look_ups = [approved]
    await world.recover()
    assert await status_of(world) == "CANCELLED"


@history()
async def some_of_it_voided(world: World) -> None:
    """A cancel that finds one order failed makes one void; and the rest of a part that was captured."""
    world.provider.acts[AUTHORIZE] = [approved, declined]
    view = await world.pay(checkout("c1", "o1", "o2", capture=MANUAL))
    await world.capture(view, is_final=False, o1=400)
    assert sorted(await world.cancel(view)) == ["done", "requested"]
    assert await status_of(world) == "SUCCESS"


@history()
async def lapsed_under_a_capture(world: World) -> None:
    view = await world.pay(checkout("c1", "o1", capture=MANUAL))
    world.provider.acts[CAPTURE] = [lapsed]
    await world.capture(view)
    assert await status_of(world) == "CANCELLED"


@history()
async def lapsed_by_itself(world: World) -> None:
    view = await world.pay(checkout("c1", "o1", "o2", capture=MANUAL))
    await world.capture(view, is_final=False, o1=1)
    await ask_again(world, "kind = 'authorize'", approved)
    await ask_again(world, "kind = 'authorize'", lapsed)
    assert {await status_of(world, "o1"), await status_of(world, "o2")} == {"SUCCESS", "CANCELLED"}
    await ask_again(world, "kind = 'authorize'", lapsed)


@history()
async def ended_by_a_void(world: World) -> None:
    """A void ends a charge that is pending; it is asked about again, and says the same."""
    world.provider.charges = [lambda intent: msgspec.structs.replace(pending(intent), provider_reference="ch_1")]
    view = await world.pay(checkout("c1", "o1"))
    await world.cancel(view)
    assert await status_of(world) == "CANCELLED"
    assert await world.count("operation", "decline_code = 'cancelled'") == 1
    await ask_again(world, "kind = 'charge'", lambda intent: msgspec.structs.replace(pending(intent)))
    await world.recover()
    world.provider.look_ups = [lapsed] * 5
    await world.recover()


@history()
async def ended_by_a_void_and_taken_all_the_same(world: World) -> None:
    world.provider.charges = [lambda intent: msgspec.structs.replace(pending(intent), provider_reference="ch_1")]
    view = await world.pay(checkout("c1", "o1"))
    await world.cancel(view)
    await ask_again(world, "kind = 'charge'", approved)
    assert await status_of(world) == "SUCCESS"


@history()
async def ended_before_its_void_was_answered(world: World) -> None:
    """The page expires while a void is under way: both make the order CANCELLED, and the void ends nothing any more."""
    world.provider.acts[VOID] = [unknown]
    world.provider.charges = [lambda intent: msgspec.structs.replace(pending(intent), provider_reference="ch_1")]
    view = await world.pay(checkout("c1", "o1"))
    await world.cancel(view)
    world.clock.advance(timedelta(minutes=2))
    (held,) = await world.gateway.operations.claim_named(await operations_of(world, "kind = 'charge'"))
    await world.gateway.executor.settle(held, lapsed(held.intent))
    assert await differences_of(world.store) == []
    await world.recover()
    assert await world.count("event", "kind = 'order.cancelled'") == 2
    await ask_again(world, "kind = 'charge'", unknown)
    assert await status_of(world) == "CANCELLED"


@history()
async def ended_by_a_void_while_it_was_asked_about_again(world: World) -> None:
    """A file has the expired charge asked about again before the void is answered; and then the void ends it."""
    world.provider.acts[VOID] = [unknown]
    world.provider.charges = [lambda intent: msgspec.structs.replace(pending(intent), provider_reference="ch_1")]
    view = await world.pay(checkout("c1", "o1"))
    await world.cancel(view)
    world.clock.advance(timedelta(minutes=2))
    (held,) = await world.gateway.operations.claim_named(await operations_of(world, "kind = 'charge'"))
    await world.gateway.executor.settle(held, lapsed(held.intent))
    await ask_again(world, "kind = 'charge'", unknown)
    world.clock.advance(timedelta(minutes=2))
    for held in await world.gateway.operations.claim_named(await operations_of(world, "kind = 'void'")):
        await world.gateway.executor.settle(held, approved(held.intent))
    assert await world.count("event", "body ->> 'ended_attempt' >= '3'") == 1
    assert await world.count("operation", "decline_code = 'cancelled'") == 1


@history()
async def a_declined_capture_asked_about_again(world: World) -> None:
    view = await world.pay(checkout("c1", "o1", capture=MANUAL))
    world.provider.acts[CAPTURE] = [declined]
    await world.capture(view)
    (operation_id,) = await operations_of(world, "kind = 'capture'")
    (held,) = await world.gateway.operations.reopen([operation_id], "a settlement file has it")
    assert await differences_of(world.store) == []
    await world.gateway.executor.settle(held, approved(held.intent))
    assert await status_of(world) == "SUCCESS"


# all or nothing


@history()
async def all_of_it(world: World) -> None:
    world.provider.acts[AUTHORIZE] = [approved, unknown]
    world.provider.acts[CAPTURE] = [not_sent, unknown]
    await world.pay(checkout("c1", "o1", "o2", on_failure=TOGETHER))
    for _ in range(3):
        await world.recover()
        await world.quiet()
    assert await status_of(world) == "SUCCESS"


@history()
async def nothing_of_it(world: World) -> None:
    """One is declined; another, of which nothing was known yet, is authorized after that was decided."""
    world.provider.acts[AUTHORIZE] = [approved, declined, unknown]
    await world.pay(checkout("c1", "o1", "o2", "o3", on_failure=TOGETHER))
    await world.quiet()
    for _ in range(3):
        await world.recover()
        await world.quiet()
    assert await world.count("operation", "kind = 'void'") == 2
    assert await world.count("event", "kind = 'checkout.decided'") >= 2
    statuses = [await status_of(world, name) for name in ("o1", "o2", "o3")]
    assert sorted(statuses) == ["CANCELLED", "CANCELLED", "FAILED"]


@history()
async def undone(world: World) -> None:
    world.provider.acts[CAPTURE] = [approved, declined]
    world.provider.acts[REFUND] = [not_sent]
    await world.pay(checkout("c1", "o1", "o2", "o3", on_failure=TOGETHER))
    await world.quiet()
    for _ in range(4):
        await world.recover()
        await world.quiet()
    assert await world.count("checkout_decision", "decision = 'undo'") == 1
    assert await world.balances() == {}


# refunds and disputes


@history()
async def refunded(world: World) -> None:
    await world.pay(checkout("c1", "o1", amount_minor=1003))
    world.provider.acts[REFUND] = [approved, declined, unknown, pending]
    for number, amount in enumerate((400, 100, 200, None)):
        await world.refund("o1", amount, key=f"r{number}")
    world.provider.look_ups = [approved, approved]
    await world.recover()
    assert await world.balances() == {}


@history()
async def refunded_and_returned(world: World) -> None:
    await world.pay(checkout("c1", "o1"))
    await world.refund("o1", 600)
    await ask_again(world, "kind = 'refund'", approved)
    world.clock.advance(timedelta(days=9))
    await ask_again(world, "kind = 'refund'", declined)
    assert await world.count("refund", "status = 'FAILED'") == 1
    await world.refund("o1", key="r2")
    assert await world.balances() == {}


@history()
async def disputed(world: World) -> None:
    await world.pay(checkout("c1", "o1"))
    await world.refund("o1", 100)
    psp = Psp(world)
    await hear(world, psp, "dispute.opened", dispute("o1"))
    assert (await world.refund("o1", 100, key="r2")).verdict == "disputed"
    await hear(world, psp, "charge.succeeded", charge("o1", "succeeded", amount=999))
    await hear(world, psp, "charge.succeeded", charge("o1", "succeeded", id="ch_another"))
    assert {"applied", "refused", "charged_twice"} == set(await psp.outcomes())


# late


async def _given_up(world: World) -> None:
    await world.pay(checkout("c1", "o1", return_url=PAGE))
    world.provider.look_ups = [lapsed]
    await world.recover()
    assert await status_of(world) == "CANCELLED"


@history()
async def late_and_honoured(world: World) -> None:
    await _given_up(world)
    await ask_again(world, "true", approved)
    await ask_again(world, "true", approved)
    assert await status_of(world) == "SUCCESS"


@history(settings=replace(SETTINGS, late_success="refund"))
async def late_and_refunded(world: World) -> None:
    await _given_up(world)
    await ask_again(world, "true", approved)
    assert await world.gateway.refunds.refund_late(10) == 1
    assert await differences_of(world.store) == []
    await world.recover()
    assert await world.balances() == {}


@history()
async def authorized_late_and_voided(world: World) -> None:
    world.provider.acts[AUTHORIZE] = [declined]
    view = await world.pay(checkout("c1", "o1", capture=MANUAL))
    await ask_again(world, "true", declined)
    await ask_again(world, "true", approved)
    assert await status_of(world) == "AUTHORIZED"
    await world.cancel(view)
    assert await status_of(world) == "CANCELLED"


@history(settings=replace(SETTINGS, late_success="refund"))
async def authorized_late_and_voided_by_policy(world: World) -> None:
    """One at once; of another the shop's own void is under way, and refused."""
    at_psp = {"provider_reference": "ch_1"}
    world.provider.acts[AUTHORIZE] = [declined, lambda intent: msgspec.structs.replace(pending(intent), **at_psp)]
    await world.pay(checkout("c1", "o1", capture=MANUAL))
    await ask_again(world, "true", approved)
    await world.recover()
    assert await status_of(world) == "CANCELLED"
    view = await world.pay(checkout("c2", "o2", capture=MANUAL), "k2")
    world.provider.acts[VOID] = [unknown, declined, approved]
    await world.cancel(view)
    world.clock.advance(timedelta(minutes=2))
    (held,) = await world.gateway.operations.claim_named(
        await operations_of(world, "kind = 'authorize' AND attempt = 1")
    )
    await world.gateway.executor.settle(held, lapsed(held.intent))
    await ask_again(world, "kind = 'authorize' AND status = 'DECLINED'", approved)
    for _ in range(2):
        assert await differences_of(world.store) == []
        await world.recover()
    assert await status_of(world, "o2") == "CANCELLED"


@history()
async def told_by_a_webhook(world: World) -> None:
    psp = Psp(world)
    world.provider.charges = [unknown]
    await world.pay(checkout("c1", "o1"))
    await hear(world, psp, "charge.succeeded", charge("o1", "succeeded"))
    world.provider.charges = [declined]
    await world.pay(checkout("c2", "o2"), "k2")
    world.provider.look_ups = [approved]
    await hear(world, psp, "charge.succeeded", charge("o2", "succeeded"))
    assert {await status_of(world, "o1"), await status_of(world, "o2")} == {"SUCCESS"}


# people


async def _resolve(world: World, word: Any) -> None:
    (letter,) = await desk(world).find(ALL)
    operation_id = letter.operation.intent.operation_id
    proposal = await desk(world).propose(operation_id, ALL, word, ADA)
    assert await differences_of(world.store) == []
    await desk(world).confirm(operation_id, proposal.proposal_id, ALL, BOB)


@history(settings=IMPATIENT)
async def resolved_as_charged(world: World) -> None:
    world.provider.charges = [unknown]
    await world.pay(checkout("c1", "o1"))
    await _resolve(world, CHARGED)
    assert await status_of(world) == "SUCCESS"


@history(settings=IMPATIENT)
async def resolved_as_not_charged(world: World) -> None:
    world.provider.charges = [not_sent]
    await world.pay(checkout("c1", "o1"))
    await _resolve(world, NOT_CHARGED)
    assert await status_of(world) == "FAILED"


@history(settings=IMPATIENT)
async def resolved_as_authorized(world: World) -> None:
    world.provider.acts[AUTHORIZE] = [unknown]
    await world.pay(checkout("c1", "o1", capture=MANUAL))
    await _resolve(world, DONE)
    assert await status_of(world) == "AUTHORIZED"


@history(settings=IMPATIENT, look_up_before_resend=True)
async def retried_by_a_person(world: World) -> None:
    world.provider.charges = [unknown]
    world.provider.look_ups = [not_found, not_found]
    await world.pay(checkout("c1", "o1"))
    for _ in range(2):
        await desk(world).retry(await desk(world).find(ALL), ADA)
        assert await differences_of(world.store) == []
        await world.recover()
    assert await status_of(world) == "SUCCESS"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [None, 1, 2])
async def test_every_history_replays_to_its_rows_at_every_step(
    store: Store, owner: asyncpg.Connection, seed: int | None
) -> None:
    """With one clock, and with clocks that are seconds apart: then neither times nor ids are an order."""
    for name, (play, settings, capabilities) in HISTORIES.items():
        clock = ManualClock(START) if seed is None else JumpingClock(START, seed)
        provider = WatchedProvider(store, **capabilities)
        world = World(store, provider, clock=clock, settings=settings)
        with telling(name):
            await play(world)
            await world.quiet()
            assert provider.differences == []
            assert await differences_of(store) == []
            assert await world.violations() == {}
            await assert_the_order_does_not_matter(store)
        await _empty(owner)


@contextmanager
def telling(name: str) -> Iterator[None]:
    """Say of what fails which play it was."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"It was {name}.")
        raise


async def assert_the_order_does_not_matter(store: Store) -> None:
    rows = await store.pool.fetch("SELECT subject_id, event_id, kind, shop_id, mode, at, body FROM event")
    events = [Event(*row) for row in rows]
    dice = random.Random(0)
    for subject in {event.subject_id for event in events}:
        its = [event for event in events if event.subject_id == subject]
        made = {repr(row) for row in fold(its).rows}
        for _ in range(20):
            dice.shuffle(its)
            assert {repr(row) for row in fold(its).rows} == made


@pytest.mark.slow
async def test_every_scenario_of_the_failpoints_replays_to_its_rows(store: Store, owner: asyncpg.Connection) -> None:
    for name, scenario in SCENARIOS.items():
        stage = Stage(store, settings=scenario.settings, line=scenario.line)
        with telling(name), stage.listening():
            await scenario.play(stage)
            assert await differences_of(store) == []
            await stage.end()
            assert await differences_of(store) == []
        await _empty(owner)


async def test_two_gateways_whose_clocks_are_apart(store: Store) -> None:
    """One takes over what the other left; its clock is so far behind that its events seem to come first."""
    ahead = World(store, clock=ManualClock(START + timedelta(seconds=40)))
    behind = World(store, clock=ManualClock(START))
    ahead.provider.charges = [unknown, not_sent]
    await ahead.pay(checkout("c1", "o1", "o2"))
    behind.clock.advance(timedelta(seconds=41))
    behind.provider.charges = [pending, declined]
    for operation in await behind.gateway.operations.claim(10):
        await behind.gateway.executor.run(operation)
    assert await differences_of(store) == []
    behind.provider.look_ups = [approved]
    await behind.recover()
    assert await differences_of(store) == []
    assert await ahead.violations() == {}


async def test_live_traffic_goes_on_and_is_no_difference(store: Store) -> None:
    world = World(store)
    done = asyncio.Event()

    async def pay() -> None:
        for number in range(60):
            world.provider.charges.append(declined if number % 3 == 0 else approved)
            await world.pay(checkout(f"c{number}", f"o{number}"), f"k{number}")
        done.set()

    async def replay_meanwhile() -> int:
        runs = 0
        while not done.is_set():
            assert await differences_of(store) == []
            runs += 1
        return runs

    _, runs = await asyncio.gather(pay(), replay_meanwhile())
    assert runs > 1
    assert await world.count("payment") == 60


async def test_the_events_of_one_subject_are_folded_together_wherever_a_batch_ends(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replaying, "_EVENTS_AT_ONCE", 2)
    monkeypatch.setattr(replaying, "_ROWS_AT_ONCE", 2)
    monkeypatch.setattr(replaying, "_DIFFERENCES_AT_ONCE", 1)
    world = World(store)
    await rich(world)
    assert await differences_of(store) == []


# Files, keys, and a whole day of everything


async def test_an_evening_with_everything_and_the_files_of_psp_and_bank(store: Store, tmp_path: Path) -> None:
    """Captures, refunds, a void, all or nothing, a page; a settlement file with a break that is closed; a statement."""
    desk = Bank(store, tmp_path, settings=replace(SETTINGS, retry_budget_attempts=1))
    world = desk.world
    await world.pay(checkout("c1", "o1", "o2"))
    await world.refund("o1", 300)
    held = await world.pay(checkout("c2", "o3", "o4", capture=MANUAL), "k2")
    await world.capture(held, is_final=True, o3=700)
    await world.pay(checkout("c3", "o5", capture=MANUAL), "k3")
    await world.cancel(await world.pay(checkout("c4", "o6", capture=MANUAL), "k4"), key="v4")
    await world.pay(checkout("c5", "o7", "o8", on_failure=TOGETHER), "k5")
    await world.quiet()
    await world.recover()
    await world.pay(checkout("c6", "o9", return_url=PAGE), "k6")
    assert await differences_of(store) == []

    header, *told, _ = lines(desk.close()[0])
    charge = next(line for line in told if ",charge,ch_" in line)
    foreign = charge.replace(",charge,ch_", ",charge,ch_9").replace(",op_", ",their_")
    report = await desk.take(summed(header, *told, foreign))
    assert "missing_here" in kinds(report)
    assert await differences_of(store) == []
    (found,) = [each for each in report.mismatches if each.kind == "missing_here"]
    assert await desk.corrections.close([found.break_id], "ada", "the PSP's own test") == 1
    assert await differences_of(store) == []
    before = await world.count("transfer")
    await desk.state(statement(("19.50", "po_000001"), ("3.00", "rent")))
    assert await world.count("transfer") > before
    assert await differences_of(store) == []
    assert await world.violations() == {}


async def test_an_unknown_charge_that_a_file_has_decided(store: Store, tmp_path: Path) -> None:
    desk = Bank(store, tmp_path, settings=replace(SETTINGS, retry_budget_attempts=1), drop_after_charge_share=1.0)
    await desk.world.pay(checkout("c1", "o1"))
    report = await desk.take(desk.close()[0])
    assert await differences_of(store) == []
    assert await desk.corrections.correct(report.file_id) == 1
    assert await status_of(desk.world) == "SUCCESS"
    assert await differences_of(store) == []


async def test_the_outcome_itself_shows_the_first_of_what_differs(store: Store, owner: asyncpg.Connection) -> None:
    await World(store).pay(checkout("c1", *[f"o{number}" for number in range(30)]))
    sound = await replay(store)
    assert (sound.differences, list(sound.shown)) == (0, [])
    await owner.execute("UPDATE payment_order SET redirect_url = 'x'")
    rotten = await replay(store)
    assert (rotten.differences, len(rotten.shown)) == (30, 20)
    assert {(each.table, each.column) for each in rotten.shown} == {("payment_order", "redirect_url")}


async def test_a_shop_was_made_with_one_of_its_keys_whatever_the_clocks_say(
    store: Store, owner: asyncpg.Connection
) -> None:
    for clock in (ManualClock(START), ManualClock(START - timedelta(seconds=3))):
        await create_key(store, clock, "hats", Mode.LIVE)
    assert await differences_of(store) == []
    await owner.execute("UPDATE shop SET created_at = created_at + interval '1 second'")
    (found,) = await differences_of(store)
    assert (found.table, found.column) == ("shop", "created_at")


# What was changed behind the gateway's back


async def rich(world: World) -> None:
    """One of everything."""
    world.provider.acts[CAPTURE] = [approved, declined]
    await world.pay(checkout("c0", "j1", "j2", on_failure=TOGETHER), "k0")
    await world.quiet()
    await world.recover()
    view = await world.pay(checkout("c1", "o1", capture=MANUAL))
    await world.capture(view, is_final=False, o1=400)
    await world.pay(checkout("c2", "o2"), "k2")
    world.provider.acts[REFUND] = [unknown]
    await world.refund("o2", 300)
    for _ in range(2):
        _, key = await create_key(world.store, world.clock, "hats", Mode.TEST)
    await revoke_key(world.store, world.clock, key.printed_id)


async def forget_the_rules(owner: asyncpg.Connection) -> None:
    """Whoever changes rows behind the gateway's back can do that, too."""
    rules = await owner.fetch(
        "SELECT conrelid::regclass AS table, conname FROM pg_constraint "
        "WHERE contype IN ('c', 'f') AND connamespace = 'public'::regnamespace AND conrelid <> 0"
    )
    for rule in rules:
        await owner.execute(f"ALTER TABLE {rule['table']} DROP CONSTRAINT {rule['conname']}")


CHANGES: Final = {
    "text": "coalesce({0}, '') || 'X'",
    "currency_code": "'XXX'",
    "bpchar": "'XXX'",
    "uuid": "md5(coalesce({0}::text, '') || 'X')::uuid",
    "_uuid": "{0} || md5('X')::uuid",
    "bytea": "{0} || '\\x00'",
    "json": "'{{\"x\": 1}}'",
    "int4": "{0} + 1",
    "int8": "{0} + 1",
    "bool": "NOT {0}",
    "timestamptz": "coalesce({0}, '2026-01-01 00:00:00Z') + interval '1 second'",
}
# One row of each table, that has most to lose.
VICTIMS: Final = {
    "payment": "checkout_id = 'c2'",
    "payment_order": "payment_order_id = 'o2'",
    "operation": "kind = 'charge'",
    "refund": "amount_minor = 300",
    "checkout_decision": "true",
    "transfer": "kind = 'refund' AND phase = 'posted'",
    "hold": "captured_minor > 0 AND debit_account_id = (SELECT account_id FROM account WHERE kind = 'psp_receivable')",
    "account": "kind = 'psp_receivable'",
    "api_key": "revoked_at IS NOT NULL",
    "shop": "true",
}


async def types_of(owner: asyncpg.Connection, table: str) -> dict[str, str]:
    rows = await owner.fetch(
        "SELECT attname, typname AS type FROM pg_attribute JOIN pg_type AS t ON t.oid = atttypid "
        "WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped",
        table,
    )
    return {row["attname"]: row["type"] for row in rows}


@pytest.mark.parametrize("table", [table for table in TABLES if table.name in VICTIMS], ids=lambda table: table.name)
async def test_a_column_that_was_changed_is_named_and_nothing_else(
    store: Store, owner: asyncpg.Connection, table: Table
) -> None:
    await rich(World(store))
    assert await differences_of(store) == []
    await forget_the_rules(owner)
    (key_column,) = table.key
    types = await types_of(owner, table.name)
    key = await owner.fetchval(f"SELECT {key_column} FROM {table.name} WHERE {VICTIMS[table.name]} ORDER BY 1 LIMIT 1")
    assert key is not None
    for column in table.columns:
        where = f"WHERE {key_column} = $1"
        before = await owner.fetchval(f"SELECT {column}::text FROM {table.name} {where}", key)
        await owner.execute(f"UPDATE {table.name} SET {column} = {CHANGES[types[column]].format(column)} {where}", key)
        after = await owner.fetchval(f"SELECT {column}::text FROM {table.name} {where}", key)
        found = [each for each in await differences_of(store) if each.table != "wallet_balance"]
        assert [(each.table, each.key, each.column) for each in found] == [(table.name, str(key), column)]
        if column != "body":  # shown by its digest
            assert (found[0].replayed, found[0].stored) == (before, after)
        type_of = {"_uuid": "uuid[]"}.get(types[column], types[column])
        await owner.execute(f"UPDATE {table.name} SET {column} = $2::text::{type_of} {where}", key, before)
    assert await differences_of(store) == []


async def test_a_row_that_was_taken_away_or_put_in_is_named(store: Store, owner: asyncpg.Connection) -> None:
    await rich(World(store))
    await forget_the_rules(owner)
    for table in [table for table in TABLES if table.name in VICTIMS]:
        (key_column,) = table.key
        victims = f"SELECT {key_column} FROM {table.name} WHERE {VICTIMS[table.name]} ORDER BY 1 LIMIT 1"
        key, other = await owner.fetchval(victims), uuid4()
        rename = f"UPDATE {table.name} SET {key_column} = $2 WHERE {key_column} = $1"
        await owner.execute(rename, key, other)
        found = [each for each in await differences_of(store) if each.table != "wallet_balance"]
        assert {(each.key, each.replayed, each.stored) for each in found} == {
            (str(key), "is there", None),
            (str(other), None, "is there"),
        }
        assert {(each.table, each.column) for each in found} == {(table.name, "row")}
        await owner.execute(rename, other, key)
    assert await differences_of(store) == []


async def test_a_wallet_that_was_changed_is_named_with_its_account(store: Store, owner: asyncpg.Connection) -> None:
    await World(store).pay(checkout("c1", "o1"))
    await owner.execute("UPDATE account SET credits_posted_minor = 901 WHERE kind = 'seller_pending'")
    account_id = await owner.fetchval("SELECT account_id FROM account WHERE kind = 'seller_pending'")
    assert await differences_of(store) == [
        Difference("account", str(account_id), "credits_posted_minor", "900", "901"),
        Difference("wallet_balance", f"{CALLER.shop_id} test seller-o1 EUR", "pending_minor", "900", "901"),
    ]


async def test_a_window_that_was_put_off_is_named(store: Store, owner: asyncpg.Connection) -> None:
    """Until when the same key is safe to send again stands on this column: of a dead letter, too."""
    world = World(store, settings=IMPATIENT)
    world.provider.charges = [not_sent, unknown]
    await world.pay(checkout("c1", "o1"))
    await desk(world).retry(await desk(world).find(ALL), ADA)
    await world.recover()
    assert await store.pool.fetchval("SELECT first_sent_at FROM operation") > START
    await owner.execute("UPDATE operation SET first_sent_at = first_sent_at + interval '1 day'")
    (found,) = await differences_of(store)
    assert (found.table, found.column) == ("operation", "first_sent_at")


async def test_a_sending_that_is_under_way_is_told_with_its_window(store: Store, owner: asyncpg.Connection) -> None:
    world = World(store)
    world.provider.charges = [not_sent]
    await world.pay(checkout("c1", "o1"))
    world.clock.advance(timedelta(minutes=2))
    (held,) = await world.gateway.operations.claim(10)
    assert await differences_of(store) == []
    assert await world.gateway.operations.mark_sending(held)
    assert await differences_of(store) == []
    await owner.execute("UPDATE operation SET cause = 'another cause', first_sent_at = first_sent_at + interval '1 s'")
    assert [found.column for found in await differences_of(store)] == ["cause", "first_sent_at"]


# Events that are gone, came twice, or say what cannot be


async def test_an_event_that_is_gone_is_missed(store: Store, owner: asyncpg.Connection) -> None:
    await World(store).pay(checkout("c1", "o1"))
    await owner.execute("DELETE FROM event WHERE kind = 'order.succeeded'")
    found = await differences_of(store)
    columns = {(each.table, each.column) for each in found}
    assert {("payment_order", "status"), ("operation", "status"), ("transfer", "row")} <= columns
    assert {each.table for each in found} == {"payment_order", "operation", "transfer", "account", "wallet_balance"}
    await owner.execute("DELETE FROM event WHERE kind IN ('payment.accepted', 'account.opened')")
    found = await differences_of(store)
    assert {each.table for each in found if each.column == "row"} == {
        *("payment", "payment_order", "operation", "transfer", "account", "wallet_balance")
    }


async def test_an_event_about_what_was_never_accepted_is_named(store: Store, owner: asyncpg.Connection) -> None:
    await World(store).pay(checkout("c1", "o1"))
    for number, subject in ((1, "subject_id"), (2, "md5('x')::uuid")):
        await owner.execute(
            f"INSERT INTO event SELECT {subject}, $1, kind, shop_id, mode, at, "
            "(body::jsonb || jsonb_build_object('operation_id', $1::uuid, 'transfers', '[]'::jsonb))::json "
            "FROM event WHERE kind = 'order.succeeded' AND event_id <> $2",
            *(UUID(int=number), UUID(int=1)),
        )
    found = [each for each in await differences_of(store) if each.table == "event"]
    assert {(each.key, each.column, each.stored) for each in found} == {
        (str(UUID(int=1)), "body", "order.succeeded"),
        (str(UUID(int=2)), "body", "order.succeeded"),
    }


async def test_an_event_that_cannot_be_read_is_named(store: Store, owner: asyncpg.Connection) -> None:
    await World(store).pay(checkout("c1", "o1"))
    await owner.execute("UPDATE event SET body = '{\"attempt\": \"x\"}' WHERE kind = 'order.succeeded'")
    found = [each for each in await differences_of(store) if each.table == "event"]
    (each,) = found
    assert str(each.replayed).startswith("cannot be read: ")


async def test_a_payment_that_was_accepted_twice_is_named(store: Store, owner: asyncpg.Connection) -> None:
    await World(store).pay(checkout("c1", "o1"))
    await owner.execute(
        "INSERT INTO event SELECT subject_id, $1, kind, shop_id, mode, at, body FROM event "
        "WHERE kind = 'payment.accepted'",
        uuid4(),
    )
    (found,) = await differences_of(store)
    assert (found.table, found.replayed) == ("event", "the payment was accepted before")


async def test_transfers_are_rebuilt_whatever_event_tells_of_them(store: Store, owner: asyncpg.Connection) -> None:
    """A kind that the replay knows nothing of: what a file of a PSP has moved, say."""
    world = World(store)
    await world.pay(checkout("c1", "o1"))
    account = Account(CALLER.shop_id, CALLER.mode, bank("main"), "EUR")
    await Ledger(store).open_accounts([account], START)
    row = await owner.fetchrow("SELECT * FROM transfer ORDER BY transfer_id LIMIT 1")
    assert row is not None
    moved = {
        "transfer_id": str(uuid4()),
        "kind": "psp_payout",
        "debit_account_id": str(account.account_id),
        "credit_account_id": str(row["debit_account_id"]),
        "amount_minor": 500,
        "currency": "EUR",
        "subject_id": str(row["subject_id"]),
    }
    posted = await store.pool.fetch(
        "SELECT * FROM ledger_post($1::uuid[], $2::text[], NULL, NULL, $3::uuid[], $4::uuid[], $5::bigint[], "
        "$6::text[], $7::uuid[], $8)",
        *([moved[name]] for name in ("transfer_id", "kind", "debit_account_id", "credit_account_id", "amount_minor")),
        *([moved[name]] for name in ("currency", "subject_id")),
        START,
    )
    assert [each["outcome"] for each in posted] == ["posted"]
    assert {each.table for each in await differences_of(store)} == {"transfer", "account"}
    await store.pool.execute(
        store.queries["event_write"],
        *(uuid4(), uuid4(), "something.new", CALLER.shop_id, "test", START, json.dumps({"transfers": [moved]})),
    )
    assert await differences_of(store) == []


# What it leaves behind, and how it is run


async def test_it_may_write_nothing_but_its_own_tables_and_leaves_nothing(store: Store) -> None:
    await World(store).pay(checkout("c1", "o1"))
    seen: list[Difference] = []
    await replay(store, seen.append)
    left = "SELECT count(*) FROM pg_class WHERE relname LIKE 'replayed%'"
    assert await store.pool.fetchval(left) == 0
    async with store.pool.acquire() as connection:
        async with replaying._scratch(connection):
            assert await connection.fetchval(left) > 0
            assert await connection.fetchval("SHOW transaction_isolation") == "repeatable read"
            with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
                await connection.execute("INSERT INTO event SELECT * FROM event")
        assert await connection.fetchval(left) == 0
        assert await connection.fetchval("SHOW statement_timeout") == "30s"


async def test_nothing_is_left_when_it_fails(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    await World(store).pay(checkout("c1", "o1"))
    monkeypatch.setattr(replaying, "SUMS", ("SELECT 1 / 0",))
    with pytest.raises(asyncpg.DivisionByZeroError):
        await replay(store, lambda _: None)
    assert await store.pool.fetchval("SELECT count(*) FROM pg_class WHERE relname LIKE 'replayed%'") == 0
    assert await store.pool.fetchval("SELECT count(*) FROM payment") == 1


async def test_rows_of_several_shops_and_modes_are_compared(store: Store) -> None:
    world = World(store)
    for number, caller in enumerate(
        [CALLER, Caller(derive_id("shop", "shoes"), "shoes", Mode.LIVE, derive_id("key", "two"))]
    ):
        accepted = await world.accept(checkout("c1", "o1"), caller=caller)
        world.provider.charges = [declined] if number else []
        await world.gateway.executor.start(accepted.operations)
    found: list[Difference] = []
    replayed = await replay(store, found.append)
    assert found == []
    assert set(replayed.rows) == {table.name for table in TABLES}
    assert {name: rows for name, rows in replayed.rows.items() if rows} == {
        "payment": 2,
        "payment_order": 2,
        "operation": 2,
        "transfer": 2,
        "account": 6,
        "wallet_balance": 2,
    }
    assert replayed.rows_compared == 16
    assert replayed.events == await world.count("event")


@pytest.fixture
def logs_as_before() -> Iterator[None]:
    """A command takes over the logs of its process."""
    root = logging.getLogger()
    before = root.handlers[:], root.level, sys.excepthook
    yield
    structlog.reset_defaults()
    logging.captureWarnings(False)
    root.handlers[:], root.level, sys.excepthook = before


@pytest.fixture
def home(database_url: str, logs_as_before: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The directory that the command is run in, with settings that name the test's database."""
    del logs_as_before
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(arguments: list[str]) -> int:
    status = command.main(args=arguments, prog_name="coatcheck audit replay", standalone_mode=False)
    assert isinstance(status, int)
    return status


async def test_the_command_says_replay_and_exits_one_on_a_difference(
    store: Store, owner: asyncpg.Connection, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await rich(World(store))
    capsys.readouterr()
    assert await asyncio.to_thread(run, []) == 0
    rows = await replay(store, lambda _: None)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"REPLAY rows={rows.rows_compared} difference=0"
    assert len(lines) == 1 + len(TABLES)

    await owner.execute("UPDATE transfer SET at = at + interval '1 second'")
    transfers = await owner.fetchval("SELECT count(*) FROM transfer")
    await owner.execute("UPDATE payment_order SET redirect_url = repeat('y', 200)")
    orders = await owner.fetchval("SELECT count(*) FROM payment_order")
    path = home / "differences.json"
    assert await asyncio.to_thread(run, ["--json", str(path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"REPLAY rows={rows.rows_compared} difference={transfers + orders}"
    shown = [line for line in lines if ": replayed " in line]
    assert len(shown) == min(20, transfers + orders)
    assert (
        f"payment_order {order_id_of(CALLER.shop_id, CALLER.mode, 'o2')} redirect_url: replayed NULL, stored yyy"
        in ("\n".join(shown))
    )
    assert all(len(line) < 250 for line in shown)
    written = json.loads(path.read_text("utf-8"))
    assert written["difference"] == len(written["differences"]) == transfers + orders
    assert written["rows"] == dict(rows.rows)
    assert {(each["table"], each["column"]) for each in written["differences"]} == {
        ("transfer", "at"),
        ("payment_order", "redirect_url"),
    }


@pytest.mark.usefixtures("home")
async def test_the_command_shows_twenty_and_counts_all(
    store: Store, owner: asyncpg.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    await World(store).pay(checkout("c1", *[f"o{number}" for number in range(30)]))
    await owner.execute("UPDATE payment_order SET decline_code = 'sk_test_nothing'")
    assert await asyncio.to_thread(run, []) == 1
    lines = capsys.readouterr().out.splitlines()
    assert sum(": replayed NULL, stored [hidden]" in line for line in lines) == 20
    assert "... and 10 more; --json PATH writes all of them" in lines
    assert lines[-1].endswith(" difference=30")


@pytest.mark.usefixtures("home", "store")
async def test_a_database_that_allows_no_temporary_tables_is_told_what_to_do(owner: asyncpg.Connection) -> None:
    name = await owner.fetchval("SELECT current_database()")
    await owner.execute(f'REVOKE TEMPORARY ON DATABASE "{name}" FROM PUBLIC')
    with pytest.raises(UnusableError, match="GRANT TEMPORARY"):
        await asyncio.to_thread(run, [])


async def test_a_file_that_cannot_be_written_is_said_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await asyncio.to_thread(run, ["--json", str(tmp_path / "nowhere" / "x.json")])


async def test_an_operation_s_event_may_name_no_order_but_its_own(store: Store, owner: asyncpg.Connection) -> None:
    await World(store).pay(checkout("c1", "o1"))
    await owner.execute(
        "UPDATE event SET body = (body::jsonb || jsonb_build_object('order_id', md5('x')::uuid))::json "
        "WHERE kind = 'order.succeeded'"
    )
    found = await differences_of(store)
    assert ("event", "body") in {(each.table, each.column) for each in found}
    assert operation_id_of(order_id_of(CALLER.shop_id, CALLER.mode, "o1"), "charge") not in {each.key for each in found}
