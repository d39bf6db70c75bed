"""What the watcher sees, says once, and takes back when it is so no more."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import asyncpg
import msgspec
import pytest
import structlog
from tests.integration.outside import (
    CALLER,
    SETTINGS,
    ScriptedProvider,
    World,
    approved,
    checkout,
    not_sent,
    unknown,
)

from coatcheck.api.dead_letters import dead_letters_of
from coatcheck.audit.invariants import InvariantResult, run_invariants
from coatcheck.dead_letters import Finding, Word, person_named
from coatcheck.events import EventKind
from coatcheck.ids import ORDER, order_id_of, print_id
from coatcheck.inbox import Sender
from coatcheck.operations import UndecidedQuery
from coatcheck.providers.outcome import Outcome, more_than_one
from coatcheck.providers.protocol import Intent, Notice
from coatcheck.states import Capture, Mode
from coatcheck.store import Store
from coatcheck.watcher import AlertKind, Change, Watcher, WatchLimits, acknowledge, list_alerts
from coatcheck.wiring import make_watcher

IMPATIENT = replace(SETTINGS, retry_budget_attempts=1)
ORDER_ID = order_id_of(CALLER.shop_id, CALLER.mode, "c1-o1")
SENDER = Sender("simulator", Mode.TEST)


def told(changes: list[Change]) -> list[tuple[str, bool]]:
    return sorted((change.alert.kind.value, change.is_opened) for change in changes)


async def look(world: World, watcher: Watcher, after: timedelta = timedelta(0)) -> list[tuple[str, bool]]:
    world.clock.advance(after)
    return told(await watcher.watch_once())


async def gauge(world: World, kind: AlertKind) -> float:
    return float(world.gateway.metrics.registry.get_sample_value("coatcheck_alerts", {"kind": kind.value}) or 0)


async def test_a_quiet_gateway_has_no_alerts(store: Store) -> None:
    world = World(store)
    await world.pay(checkout())
    watcher = make_watcher(world.gateway)
    assert await look(world, watcher, timedelta(days=2)) == []
    assert await watcher.check_invariants() == []
    assert await list_alerts(store) == []
    rendered = world.gateway.metrics.render().decode()
    assert 'coatcheck_alerts{kind="order_stuck"} 0.0' in rendered  # there before its first alert


async def test_A7_a_stuck_order_is_told_once_and_taken_back_when_it_moves(store: Store) -> None:
    world = World(store)
    world.provider.charges = [not_sent]
    await world.pay(checkout())
    watcher = make_watcher(world.gateway)
    assert await look(world, watcher, timedelta(minutes=14, seconds=59)) == [("lease_expired_long", True)]
    await world.gateway.operations.claim(10)
    with structlog.testing.capture_logs() as lines:
        assert ("order_stuck", True) in await look(world, watcher, timedelta(seconds=1))
        assert await look(world, watcher) == []
        assert await look(world, watcher) == []
    stuck = [line for line in lines if line.get("kind") == "order_stuck"]
    assert [(line["event"], line["log_level"], line["runbook"]) for line in stuck] == [
        ("alert_opened", "warning", "docs/runbooks/order_stuck.md")
    ]
    assert "c1-o1" in stuck[0]["what"]
    assert await gauge(world, AlertKind.ORDER_STUCK) == 1
    await world.recover()
    with structlog.testing.capture_logs() as lines:
        assert ("order_stuck", False) in await look(world, watcher)
    assert any(line["event"] == "alert_closed" and line["kind"] == "order_stuck" for line in lines)
    assert await gauge(world, AlertKind.ORDER_STUCK) == 0
    kinds = await store.pool.fetch("SELECT kind FROM event WHERE body ->> 'alert' = 'order_stuck' ORDER BY at")
    assert [row["kind"] for row in kinds] == ["alert.opened", "alert.closed"]
    assert await list_alerts(store) == []


async def test_F3_a_dead_letter_is_an_alert_until_it_is_decided(store: Store) -> None:
    world = World(store, settings=IMPATIENT)
    world.provider.charges = [unknown]
    await world.pay(checkout())
    watcher = make_watcher(world.gateway)
    assert await look(world, watcher) == [("operation_unresolved", True)]
    (alert,) = await list_alerts(store)
    assert alert.text == "The charge of order c1-o1 waits for a person after attempt 1: read timeout."
    (letter,) = await dead_letters_of(world.gateway).find(UndecidedQuery())
    await dead_letters_of(world.gateway).retry([letter], person_named("Ada"))
    assert await look(world, watcher) == []  # being asked about is not decided
    await world.recover(timedelta(0))
    assert await look(world, watcher) == [("operation_unresolved", False)]


async def test_F1_work_that_nobody_takes_is_an_alert(store: Store) -> None:
    world = World(store)
    await world.accept(checkout())
    watcher = make_watcher(world.gateway)
    assert await look(world, watcher, timedelta(seconds=30 + 299)) == []
    assert await look(world, watcher, timedelta(seconds=1)) == [("lease_expired_long", True)]
    await world.recover(timedelta(0))
    assert await look(world, watcher) == [("lease_expired_long", False)]


async def test_A3_an_old_unknown_is_told_while_half_the_window_is_left(store: Store) -> None:
    world = World(store, settings=IMPATIENT)
    world.provider.charges = [unknown]
    await world.pay(checkout())
    watcher = make_watcher(world.gateway)
    assert ("unknown_old", True) not in await look(world, watcher, timedelta(hours=11, minutes=57))
    assert await look(world, watcher, timedelta(minutes=1)) == [("unknown_old", True)]
    (alert,) = [alert for alert in await list_alerts(store) if alert.kind is AlertKind.UNKNOWN_OLD]
    assert "was sent to simulator 2026-03-01 12:00:00 UTC" in alert.text


async def test_what_was_never_sent_is_no_old_unknown(store: Store) -> None:
    world = World(store, settings=IMPATIENT)
    world.provider.charges = [not_sent]
    await world.pay(checkout())
    assert ("unknown_old", True) not in await look(world, make_watcher(world.gateway), timedelta(days=3))


async def test_a_provider_without_keys_has_old_unknowns_soon(store: Store) -> None:
    world = World(store, ScriptedProvider(idempotency_window=timedelta(0)), settings=IMPATIENT)
    world.provider.charges = [unknown]
    await world.pay(checkout())
    assert ("unknown_old", True) in await look(world, make_watcher(world.gateway), timedelta(minutes=15))


async def test_D5_an_authorization_is_told_before_it_ends_and_after(store: Store) -> None:
    world = World(store)
    view = await world.pay(checkout("c1", "c1-o1", capture=Capture.MANUAL))
    watcher = make_watcher(world.gateway)
    assert await look(world, watcher, timedelta(days=6) - timedelta(seconds=1)) == []
    assert await look(world, watcher, timedelta(seconds=1)) == [("authorization_expiring", True)]
    assert "10.00 EUR not captured" in (await list_alerts(store))[0].text
    assert await look(world, watcher, timedelta(days=1)) == [
        ("authorization_expiring", False),
        ("authorization_lapsed", True),
    ]
    await world.capture(view)
    assert await look(world, watcher) == [("authorization_lapsed", False)]


async def break_the_books(owner: asyncpg.Connection) -> None:
    await owner.execute(
        "UPDATE account SET debits_posted_minor = debits_posted_minor + 1 WHERE kind = 'psp_receivable'"
    )


async def test_a_broken_invariant_is_an_incident_until_a_run_finds_it_whole(
    store: Store, owner: asyncpg.Connection
) -> None:
    world = World(store)
    await world.pay(checkout())
    watcher = make_watcher(world.gateway)
    await break_the_books(owner)
    with structlog.testing.capture_logs() as lines:
        opened = await watcher.check_invariants()
    assert {change.alert.subject for change in opened} == {
        "entries_equal_the_transfers",
        "ledger_counters_equal_transfers",
        "ledger_zero_sum_per_currency",
    }
    assert {line["log_level"] for line in lines} == {"error"}
    assert await watcher.check_invariants() == []
    assert await look(world, watcher) == []  # a look at the rest does not close them
    assert await gauge(world, AlertKind.INVARIANT_BROKEN) == 3
    await owner.execute(
        "UPDATE account SET debits_posted_minor = debits_posted_minor - 1 WHERE kind = 'psp_receivable'"
    )
    assert told(await watcher.check_invariants()) == [("invariant_broken", False)] * 3


async def test_an_invariant_that_holds_again_when_it_would_be_told_is_no_alert(
    store: Store, owner: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(store)
    await world.pay(checkout())

    async def made_whole_meanwhile(of: Store) -> list[InvariantResult]:
        await break_the_books(owner)
        results = await run_invariants(of)
        await owner.execute(
            "UPDATE account SET debits_posted_minor = debits_posted_minor - 1 WHERE kind = 'psp_receivable'"
        )
        return results

    monkeypatch.setattr("coatcheck.watcher.run_invariants", made_whole_meanwhile)
    with structlog.testing.capture_logs() as lines:
        assert await make_watcher(world.gateway).check_invariants() == []
    assert await list_alerts(store) == []
    assert {(line["event"], line["log_level"]) for line in lines} == {("invariant_held_again", "warning")}
    assert await gauge(world, AlertKind.INVARIANT_BROKEN) == 0


async def test_invariants_are_run_by_one_process_at_a_time_and_not_at_each_look(
    store: Store, owner: asyncpg.Connection
) -> None:
    world = World(store)
    await world.pay(checkout())
    await break_the_books(owner)
    watchers = [make_watcher(World(store, clock=world.clock).gateway) for _ in range(4)]

    async def turns() -> int:
        changes = await asyncio.gather(*[watcher.check_invariants_in_turn() for watcher in watchers])
        return sum(map(bool, changes))

    assert await turns() == 0  # a new database: the first turn is an interval from now
    world.clock.advance(timedelta(minutes=59))
    assert await turns() == 0
    world.clock.advance(timedelta(minutes=1))
    assert await turns() == 1
    assert await turns() == 0


async def test_F1_of_many_watchers_one_tells_and_one_takes_back(store: Store) -> None:
    world = World(store, settings=IMPATIENT)
    world.provider.charges = [unknown] * 5
    await world.pay(checkout("c1", *[f"o{number}" for number in range(5)]))
    watchers = [make_watcher(World(store, clock=world.clock).gateway) for _ in range(6)]
    found = await asyncio.gather(*[watcher.watch_once() for watcher in watchers])
    assert sum(map(len, found)) == 5
    await world.recover()
    await dead_letters_of(world.gateway).replay(UndecidedQuery(), person_named("Ada"), most=5, dry_run=False)
    await world.recover()
    closed = await asyncio.gather(*[watcher.watch_once() for watcher in watchers])
    assert told([change for changes in closed for change in changes]) == [("operation_unresolved", False)] * 5
    assert await world.count("event", "kind = 'alert.opened'") == 5
    assert await world.count("event", "kind = 'alert.closed'") == 5


async def test_an_outage_is_told_a_hundred_times_and_counted_whole(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coatcheck.watcher.OPENED_MOST", 3)
    world = World(store, settings=IMPATIENT)
    world.provider.charges = [unknown] * 8
    await world.pay(checkout("c1", *[f"o{number}" for number in range(8)]))
    watcher = make_watcher(world.gateway)
    assert await look(world, watcher) == [("operation_unresolved", True)] * 3
    assert await look(world, watcher) == []
    assert await gauge(world, AlertKind.OPERATION_UNRESOLVED) == 8


def another_charge(intent: Intent) -> Outcome:
    return msgspec.structs.replace(approved(intent), provider_reference="ch_other")


async def test_A8_a_second_charge_found_by_asking_is_told_with_its_refund(store: Store) -> None:
    world = World(store)
    await world.pay(checkout("c1", "c1-o1", capture=Capture.MANUAL))
    watcher = make_watcher(world.gateway)
    operation_id = await store.pool.fetchval("SELECT operation_id FROM operation")
    world.provider.look_ups = [another_charge]
    for held in await world.gateway.operations.reopen([operation_id], "a test"):
        await world.gateway.executor.run(held)
    assert ("charged_twice", True) in await look(world, watcher)
    (alert,) = [alert for alert in await list_alerts(store) if alert.kind is AlertKind.CHARGED_TWICE]
    first = await store.pool.fetchval("SELECT provider_reference FROM payment_order")
    assert f"{first} is in the books, ch_other is not" in alert.text
    assert "refund ch_other (10.00 EUR) at simulator, not through the gateway" in alert.text
    assert alert.subject == print_id(ORDER, ORDER_ID)


async def tell_of_another_charge(world: World, reference: str) -> None:
    """What the inbox writes when a webhook names another charge for an approved one."""
    operation_id = await world.store.pool.fetchval("SELECT operation_id FROM operation")
    operation = (await world.gateway.operations.stand([operation_id]))[operation_id].operation
    outcome = msgspec.structs.replace(approved(operation.intent), provider_reference=reference)
    notice = Notice(type="charge.succeeded", reference=operation.intent.reference, outcome=outcome)
    await world.gateway.inbox._tell(operation, SENDER, EventKind.ORDER_CHARGED_TWICE, notice, "another charge")


async def test_A8_a_second_charge_told_by_a_webhook_stays_until_a_person_has_seen_to_it(store: Store) -> None:
    world = World(store)
    await world.pay(checkout())
    watcher = make_watcher(world.gateway)
    await tell_of_another_charge(world, "ch_other")
    assert await look(world, watcher, timedelta(seconds=1)) == [("charged_twice", True)]
    assert await look(world, watcher, timedelta(days=9)) == []
    ada = person_named("Ada")
    assert await acknowledge(store, world.clock, ORDER_ID, by=ada, reason="refunded there as re_9") is True
    assert await look(world, watcher) == [("charged_twice", False)]
    assert await acknowledge(store, world.clock, ORDER_ID, by=ada, reason="again") is False
    await tell_of_another_charge(world, "ch_other")
    assert await look(world, watcher, timedelta(seconds=1)) == []  # the same charge, told again
    await tell_of_another_charge(world, "ch_third")
    assert await look(world, watcher, timedelta(seconds=1)) == [("charged_twice", True)]
    assert "ch_third is not" in (await list_alerts(store))[0].text


def two_charges(intent: Intent) -> Outcome:
    made = [msgspec.structs.replace(approved(intent), provider_reference=name) for name in ("ch_1", "ch_2")]
    return more_than_one("charge", made)


async def test_A8_two_charges_that_a_look_up_lists_are_told_until_a_person_has_refunded_one(store: Store) -> None:
    world = World(
        store, ScriptedProvider(look_up_before_resend=True), settings=replace(SETTINGS, retry_budget_attempts=3)
    )
    world.provider.charges = [unknown]
    world.provider.look_ups = [two_charges] * 9
    await world.pay(checkout())
    with structlog.testing.capture_logs() as lines:
        await world.recover()
        await world.recover()
    assert [line["log_level"] for line in lines if line["event"] == "order_charged_twice"] == ["error"]
    assert await world.count("transfer") == 0  # which of them is ours is not guessed
    assert await world.count("event", "kind = 'order.charged_twice'") == 2  # one for each charge, once
    watcher = make_watcher(world.gateway)
    assert await look(world, watcher) == [("charged_twice", True), ("operation_unresolved", True)]
    (alert,) = [each for each in await list_alerts(store) if each.kind is AlertKind.CHARGED_TWICE]
    assert "ch_1 and ch_2 carry its one reference, and none of them is in the books" in alert.text
    assert "refund all but one (10.00 EUR each) at simulator" in alert.text
    assert alert.subject == print_id(ORDER, ORDER_ID)

    desk, ada = dead_letters_of(world.gateway), person_named("Ada")
    (letter,) = await desk.find(UndecidedQuery())
    operation_id = letter.operation.intent.operation_id
    finding = Finding(word=Word.CHARGED, reason="ch_2 is refunded there", provider_reference="ch_1")
    proposal = await desk.propose(operation_id, UndecidedQuery(), finding, ada)
    await desk.confirm(operation_id, proposal.proposal_id, UndecidedQuery(), person_named("Bob"))
    assert await look(world, watcher) == [("operation_unresolved", False)]  # the second charge is not seen to by that
    assert await acknowledge(store, world.clock, ORDER_ID, by=ada, reason="ch_2 refunded there") is True
    assert await look(world, watcher) == [("charged_twice", False)]
    assert await world.violations() == {}


async def test_A8_a_charge_that_was_one_of_two_and_is_booked_by_now_is_no_second_one(store: Store) -> None:
    world = World(store)
    world.provider.charges = [unknown]
    await world.pay(checkout())
    operation_id = await store.pool.fetchval("SELECT operation_id FROM operation")
    (held,) = await world.gateway.operations.claim_named([operation_id])
    await world.gateway.executor.settle(held, two_charges(held.intent))
    (held,) = await world.gateway.operations.claim_named([operation_id])
    first = msgspec.structs.replace(approved(held.intent), provider_reference="ch_1")
    await world.gateway.executor.settle(held, first)
    watcher = make_watcher(world.gateway)
    assert await look(world, watcher) == [("charged_twice", True)]
    assert "ch_1 is in the books, ch_2 is not" in (await list_alerts(store))[0].text


async def test_A8_two_charges_in_two_modes_or_orders_are_no_second_charge(store: Store) -> None:
    world = World(store)
    await world.pay(checkout("c1"), "k1")
    await world.pay(checkout("c2"), "k2")
    assert await look(world, make_watcher(world.gateway)) == []


async def test_F11_a_transaction_that_stays_open_is_an_alert(store: Store, owner: asyncpg.Connection) -> None:
    world = World(store)
    watcher = Watcher(
        store,
        world.clock,
        capabilities={},
        metrics=world.gateway.metrics,
        limits=WatchLimits(transaction=timedelta(0)),
    )
    assert await look(world, watcher) == []
    async with owner.transaction():
        await owner.execute("SELECT 1")
        assert await look(world, watcher) == [("transaction_old", True)]
        assert "process" in (await list_alerts(store))[0].text
        patient = make_watcher(world.gateway)
        assert await look(world, patient) == [("transaction_old", False)]


async def test_the_watch_goes_on_through_trouble_and_ends_when_told(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(store)
    watcher, stopping, looked = make_watcher(world.gateway), asyncio.Event(), 0

    async def troubled() -> list[Change]:
        nonlocal looked
        looked += 1
        if looked == 3:
            stopping.set()
        raise OSError("the database is away")

    monkeypatch.setattr(watcher, "watch_once", troubled)
    with structlog.testing.capture_logs() as lines:
        await asyncio.wait_for(watcher.watch(timedelta(milliseconds=1), stopping), 10)
    assert looked == 3
    assert [line["event"] for line in lines] == ["watch_failed"] * 3


async def test_the_event_of_an_alert_is_in_the_payment_s_own_story(store: Store) -> None:
    world = World(store, settings=IMPATIENT)
    world.provider.charges = [unknown]
    view = await world.pay(checkout())
    await make_watcher(world.gateway).watch_once()
    row = await store.pool.fetchrow(
        "SELECT subject_id, shop_id, mode, body::text FROM event WHERE kind = 'alert.opened'"
    )
    assert row is not None
    assert (row["subject_id"], row["shop_id"], row["mode"]) == (view.payment_id, CALLER.shop_id, "test")
    assert msgspec.json.decode(row["body"])["alert"] == "operation_unresolved"
