"""What a PSP's answers, errors and silences do to our money. Each test carries the hazard it stands for."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from itertools import product

import asyncpg
import msgspec
import pytest
import structlog
from tests.integration.outside import (
    SETTINGS,
    START,
    Answer,
    ScriptedProvider,
    World,
    approved,
    checkout,
    declined,
    not_found,
    not_sent,
    pending,
    server_error,
    unknown,
)

from coatcheck.providers.outcome import Outcome, OutcomeKind
from coatcheck.providers.protocol import Intent
from coatcheck.states import (
    DISPUTE_TRANSITIONS,
    OPERATION_TRANSITIONS,
    ORDER_TRANSITIONS,
    PAYOUT_RUN_TRANSITIONS,
    PAYOUT_TRANSITIONS,
    REFUND_TRANSITIONS,
    OrderStatus,
)
from coatcheck.store import Store


def replaced(outcome: Outcome, **fields: object) -> Outcome:
    changed: Outcome = msgspec.structs.replace(outcome, **fields)
    return changed


async def statuses(world: World) -> list[tuple[str, str]]:
    rows = await world.store.pool.fetch(
        "SELECT p.status, o.status FROM payment_order p JOIN operation o USING (order_id) ORDER BY p.payment_order_id"
    )
    return [(row[0], row[1]) for row in rows]


async def receivable_minor(world: World) -> int:
    balance: int = await world.store.pool.fetchval(
        "SELECT coalesce(sum(debits_posted_minor - credits_posted_minor), 0) FROM account WHERE kind = 'psp_receivable'"
    )
    return balance


async def test_an_approval_is_booked_in_one_commit(store: Store) -> None:
    world = World(store)
    view = await world.pay(checkout("c1", "o1", "o2"))
    assert view.status == "SUCCESS"
    assert await world.count("transfer") == 4
    assert await receivable_minor(world) == 2000
    assert await world.count("lease") == 0
    assert await world.violations() == {}


async def test_a_decline_is_a_result_and_moves_no_money(store: Store) -> None:
    world = World(store)
    world.provider.charges = [declined, approved]
    view = await world.pay(checkout("c1", "o1", "o2"))
    assert view.status == "PARTIAL"
    assert sorted(order.decline_code or "" for order in view.orders) == ["", "insufficient_funds"]
    assert await world.count("transfer") == 2
    assert await world.count("risk_failure") == 3
    assert await world.violations() == {}


async def test_A1_silence_is_not_failure_and_is_retried_with_the_same_key_and_body(store: Store) -> None:
    world = World(store)
    world.provider.charges = [unknown, unknown, approved]
    assert (await world.pay(checkout())).status == "EXECUTING"
    await world.recover()
    await world.recover()
    assert await statuses(world) == [("SUCCESS", "APPROVED")]
    sent = [intent for call, intent in world.provider.calls if call == "charge"]
    assert len({(intent.reference, intent.body) for intent in sent}) == 1  # hazard A16: the body is frozen
    assert await receivable_minor(world) == 1000
    assert await world.violations() == {}


async def test_A2_a_crash_between_the_psp_and_our_commit_is_finished_by_another_process(store: Store) -> None:
    dead, alive = World(store), World(store)
    await dead.accept(checkout())  # ... and it is never heard of again
    assert await alive.recover(timedelta(seconds=29)) == []  # the lease still holds
    assert len(await alive.recover(timedelta(seconds=2))) == 1
    assert await statuses(alive) == [("SUCCESS", "APPROVED")]
    assert await alive.count("event", "kind = 'operation.claimed'") == 1
    assert await alive.violations() == {}


async def test_B5_a_key_whose_process_died_is_in_progress_until_another_has_finished_it(store: Store) -> None:
    dead, alive = World(store), World(store)
    alive.provider.charges = [unknown, approved]
    first = await dead.accept(checkout())  # ... and it is never heard of again
    for after, status in ((29, "EXECUTING"), (2, "EXECUTING"), (120, "SUCCESS")):
        await alive.recover(timedelta(seconds=after))
        again = await alive.accept(checkout())
        assert (again.verdict, again.payment_id, again.operations) == ("same_key", first.payment_id, ())
        assert (await alive.read(first.payment_id)).status == status
    assert len({intent.reference for _, intent in alive.provider.calls}) == 1
    assert await alive.count("operation", "attempt = 3") == 1
    assert await receivable_minor(alive) == 1000
    assert await alive.violations() == {}


async def test_A3_no_resend_after_the_window(store: Store) -> None:
    world = World(store)
    world.provider.charges = [unknown]
    await world.pay(checkout())
    world.clock.advance(timedelta(hours=23, minutes=56))  # inside the window, but past its margin
    for _ in range(5):
        await world.recover(timedelta(hours=1))
    assert world.provider.asked == ["charge"] + ["look_up"] * 5
    assert await statuses(world) == [("EXECUTING", "OPEN")]


async def test_A3_after_the_window_a_look_up_that_finds_the_charge_settles_it(store: Store) -> None:
    world = World(store)
    world.provider.charges = [unknown]
    world.provider.look_ups = [not_found, approved]
    await world.pay(checkout())
    await world.recover(timedelta(days=2))
    await world.recover(timedelta(hours=1))
    assert await statuses(world) == [("SUCCESS", "APPROVED")]
    assert await receivable_minor(world) == 1000


async def test_A3_nothing_found_is_never_a_failure_by_age(store: Store) -> None:
    world = World(store)
    world.provider.charges = [unknown]
    await world.pay(checkout())
    for _ in range(20):
        await world.recover(timedelta(days=2))
    assert await statuses(world) == [("EXECUTING", "UNRESOLVED")]
    assert world.provider.asked.count("charge") == 1
    assert await world.count("event", "kind = 'operation.unresolved'") == 1
    assert await world.violations() == {}


async def test_A4_a_replayed_server_error_is_looked_up(store: Store) -> None:
    world = World(store, ScriptedProvider(replays_errors=True))
    world.provider.charges = [server_error]
    world.provider.look_ups = [approved]
    await world.pay(checkout())
    await world.recover()
    assert world.provider.asked == ["charge", "look_up"]
    assert await statuses(world) == [("SUCCESS", "APPROVED")]


async def test_A5_A14_a_provider_that_forgets_errors_is_asked_twice_before_a_resend(store: Store) -> None:
    world = World(store, ScriptedProvider(look_up_before_resend=True))
    world.provider.charges = [unknown, approved]
    await world.pay(checkout())
    await world.recover()
    # A14: the first "not found" may be the PSP's search lagging behind, and its key may be forgotten.
    assert world.provider.asked == ["charge", "look_up"]
    assert await world.recover(timedelta(seconds=59)) == []
    await world.recover(timedelta(seconds=1))
    assert world.provider.asked == ["charge", "look_up", "look_up", "charge"]
    assert await statuses(world) == [("SUCCESS", "APPROVED")]


async def test_A14_a_lagging_search_does_not_lead_to_a_second_charge(store: Store) -> None:
    world = World(store, ScriptedProvider(look_up_before_resend=True))
    world.provider.charges = [server_error]
    world.provider.look_ups = [not_found, approved]
    await world.pay(checkout())
    await world.recover()
    await world.recover()
    assert world.provider.asked == ["charge", "look_up", "look_up"]
    assert await receivable_minor(world) == 1000


async def test_A3_a_provider_without_keys_is_sent_to_again_only_by_its_own_word(store: Store) -> None:
    world = World(
        store, ScriptedProvider(idempotency_window=timedelta(0), registers_first=True, look_up_before_resend=True)
    )
    world.provider.charges = [unknown, approved]
    world.provider.look_ups = [not_found, not_sent]
    await world.pay(checkout())
    await world.recover()
    assert world.provider.asked == ["register", "charge", "look_up"]  # not found proves nothing here
    await world.recover()
    assert world.provider.asked == ["register", "charge", "look_up", "look_up", "charge"]
    assert {intent.provider_reference for call, intent in world.provider.calls if call != "register"} == {"pi_1"}
    assert await statuses(world) == [("SUCCESS", "APPROVED")]


async def test_the_psps_id_is_stored_before_money_moves(store: Store) -> None:
    world = World(store, ScriptedProvider(registers_first=True))
    stored: list[str | None] = []

    def look(intent: Intent) -> Outcome:
        stored.append(intent.provider_reference)
        return unknown(intent)

    world.provider.charges = [look]
    await world.pay(checkout())
    assert stored == ["pi_1"]
    assert await store.pool.fetchval("SELECT provider_reference FROM operation") == "pi_1"
    assert await world.count("event", "kind = 'operation.registered'") == 1


async def test_A12_not_sent_is_sent_again_and_its_window_has_not_begun(store: Store) -> None:
    world = World(store)
    world.provider.charges = [not_sent, approved]
    await world.pay(checkout())
    assert await world.count("operation", "first_sent_at IS NULL") == 1
    await world.recover(timedelta(days=3))  # far beyond any window: nothing ever left
    assert world.provider.asked == ["charge", "charge"]
    assert await world.count("operation", "first_sent_at = decided_at") == 1


async def test_A12_not_sent_after_an_unclear_sending_keeps_the_window_running(store: Store) -> None:
    world = World(store)
    world.provider.charges = [unknown, not_sent]
    await world.pay(checkout())
    await world.recover()
    await world.recover(timedelta(days=3))
    assert world.provider.asked == ["charge", "charge", "look_up"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("amount_minor", 999),
        ("amount_minor", None),
        ("currency", "USD"),
        ("reference", "op_of_another"),
        ("is_live", True),
    ],
)
async def test_A15_an_answer_about_something_else_posts_nothing(store: Store, field: str, value: object) -> None:
    world = World(store)
    world.provider.charges = [lambda intent: replaced(approved(intent), **{field: value})]
    await world.pay(checkout())
    assert await statuses(world) == [("EXECUTING", "UNRESOLVED")]
    assert await world.count("transfer") == 0
    assert await world.count("event", "kind = 'operation.answer_refused'") == 1
    assert await world.recover(timedelta(days=1)) == []  # it waits for a person
    assert await world.violations() == {}


async def test_A15_a_look_up_about_something_else_is_not_followed_by_a_resend(store: Store) -> None:
    world = World(store, ScriptedProvider(look_up_before_resend=True))
    world.provider.charges = [unknown]
    world.provider.look_ups = [
        lambda intent: Outcome(kind=OutcomeKind.NOT_SENT, reference="op_of_another", amount_minor=intent.amount_minor)
    ]
    await world.pay(checkout())
    await world.recover()
    assert world.provider.asked == ["charge", "look_up"]
    assert await statuses(world) == [("EXECUTING", "UNRESOLVED")]


async def test_A17_a_caller_that_goes_away_leaves_the_work_going_on(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(store)
    answered = asyncio.Event()

    async def slow_charge(intent: Intent) -> Outcome:
        world.provider.calls.append(("charge", intent))
        await answered.wait()
        return approved(intent)

    monkeypatch.setattr(world.provider, "send", slow_charge)
    accepted = await world.accept(checkout())
    caller = asyncio.create_task(asyncio.wait_for(asyncio.shield(world.gateway.executor.start(accepted.operations)), 5))
    await asyncio.sleep(0.05)
    caller.cancel()
    answered.set()
    await world.gateway.executor.stop(timedelta(seconds=5))
    assert await statuses(world) == [("SUCCESS", "APPROVED")]


async def test_B8_an_unclear_outcome_is_no_final_answer(store: Store) -> None:
    world = World(store)
    world.provider.charges = [unknown, approved]
    view = await world.pay(checkout())
    assert (view.status, view.is_done) == ("EXECUTING", False)
    await world.recover()
    view = await world.read(view.payment_id)
    assert (view.status, view.is_done) == ("SUCCESS", True)


async def test_F1_a_holder_whose_lease_ran_out_books_nothing(store: Store) -> None:
    slow, quick = World(store), World(store)
    accepted = await slow.accept(checkout())
    await quick.recover(timedelta(seconds=31))
    assert await statuses(quick) == [("SUCCESS", "APPROVED")]
    zombie = accepted.operations[0]
    assert await slow.gateway.payments.apply(zombie, declined(zombie.intent)) is False
    assert await slow.gateway.payments.apply(zombie, approved(zombie.intent)) is False
    assert await statuses(quick) == [("SUCCESS", "APPROVED")]
    assert await receivable_minor(quick) == 1000
    assert await quick.violations() == {}


async def test_F1_only_what_is_due_is_taken_over(store: Store) -> None:
    world = World(store)
    left_behind = (await world.accept(checkout("c1"), "k1")).operations[0]
    world.clock.advance(timedelta(seconds=20))
    in_good_hands = (await world.accept(checkout("c2"), "k2")).operations[0]
    world.clock.advance(timedelta(seconds=11))
    claimed = await world.gateway.operations.claim(100)
    assert [operation.intent.operation_id for operation in claimed] == [left_behind.intent.operation_id]
    assert await world.gateway.payments.apply(in_good_hands, approved(in_good_hands.intent)) is True


async def test_F1_an_answer_of_an_earlier_attempt_books_nothing_while_another_holder_works(store: Store) -> None:
    slow, quick = World(store), World(store)
    zombie = (await slow.accept(checkout())).operations[0]
    quick.clock.advance(timedelta(seconds=31))
    (current,) = await quick.gateway.operations.claim(1)
    assert await slow.gateway.payments.apply(zombie, declined(zombie.intent)) is False
    assert await statuses(quick) == [("EXECUTING", "OPEN")]
    await quick.gateway.executor.run(current)
    assert await statuses(quick) == [("SUCCESS", "APPROVED")]


async def test_F1_a_zombie_cannot_postpone_or_register_either(store: Store) -> None:
    slow, quick = World(store), World(store)
    accepted = await slow.accept(checkout())
    quick.provider.charges = [unknown]
    await quick.recover(timedelta(seconds=31))
    assert await slow.gateway.operations.register(accepted.operations[0], "pi_zombie") is False
    slow.provider.charges = [unknown]
    await slow.gateway.executor.run(accepted.operations[0])
    assert await store.pool.fetchval("SELECT attempt FROM lease") == 2
    assert await quick.count("event", "kind = 'operation.rescheduled'") == 1


async def test_G6_the_same_decision_booked_again_after_a_lost_commit_answer_counts_as_booked(store: Store) -> None:
    world = World(store)
    operation = (await world.accept(checkout())).operations[0]
    assert await world.gateway.payments.apply(operation, approved(operation.intent)) is True
    assert await world.gateway.payments.apply(operation, approved(operation.intent)) is True
    assert await world.gateway.payments.apply(operation, declined(operation.intent)) is False
    assert await world.count("transfer") == 2
    assert await receivable_minor(world) == 1000


async def test_F3_one_bad_neighbour_does_not_fail_a_batch(store: Store) -> None:
    world = World(store)
    operations = [(await world.accept(checkout(f"c{n}"), f"k{n}")).operations[0] for n in range(4)]
    # An account that was never opened: the ledger refuses its transfers, and only its.
    broken = msgspec.structs.replace(operations[2], seller_account="never-seen")
    results = await asyncio.gather(
        *[
            world.gateway.payments.apply(operation, approved(operation.intent))
            for operation in (*operations[:2], broken, operations[3])
        ],
        return_exceptions=True,
    )
    assert [result is True for result in results] == [True, True, False, True]
    assert await world.count("payment_order", "status = 'SUCCESS'") == 3
    assert await world.violations() == {}


async def test_pending_waits_for_the_providers_word(store: Store) -> None:
    world = World(store)
    world.provider.charges = [pending]
    world.provider.look_ups = [*[pending] * 30, approved]
    view = await world.pay(checkout())
    assert view.status == "PENDING"
    for _ in range(31):
        await world.recover(timedelta(days=1))
    assert (await world.read(view.payment_id)).orders[0].status is OrderStatus.SUCCESS
    assert world.provider.asked.count("charge") == 1


async def test_the_retry_budget_ends_in_unresolved_not_in_failed(store: Store) -> None:
    world = World(store)
    world.provider.charges = [unknown] * 50
    await world.pay(checkout())
    for _ in range(20):
        await world.recover()
    assert world.provider.asked == ["charge"] * 12
    assert await statuses(world) == [("EXECUTING", "UNRESOLVED")]


async def test_retry_after_is_obeyed(store: Store) -> None:
    world = World(store)
    world.provider.charges = [
        lambda _: Outcome(kind=OutcomeKind.NOT_SENT, cause="429", retry_after=timedelta(minutes=5))
    ]
    await world.pay(checkout())
    assert await world.recover(timedelta(minutes=4, seconds=59)) == []
    assert len(await world.recover(timedelta(seconds=1))) == 1


async def test_a_provider_that_gives_no_answer_is_told_of_once_and_once_when_it_is_back(store: Store) -> None:
    world = World(store)
    world.provider.charges = [not_sent, unknown, declined, not_sent, declined, not_sent, declined]
    with structlog.testing.capture_logs() as lines:
        for number in range(5):
            await world.pay(checkout(f"c{number}"), f"k{number}")
        world.clock.advance(timedelta(seconds=30))  # one that fails now and then is told of from time to time
        for number in range(5, 7):
            await world.pay(checkout(f"c{number}"), f"k{number}")
    told = [line["event"] for line in lines if line["event"].startswith("provider_")]
    assert told == ["provider_gives_no_answer", "provider_answers_again"] * 2


async def test_F12_a_gateway_that_stops_finishes_what_is_in_flight(store: Store) -> None:
    world = World(store)
    accepted = await world.accept(checkout())
    world.gateway.executor.start(accepted.operations)
    await world.gateway.executor.stop(timedelta(seconds=5))
    assert await statuses(world) == [("SUCCESS", "APPROVED")]


async def test_an_error_of_our_own_is_unknown_and_asked_again(store: Store) -> None:
    world = World(store)

    def fault(_: Intent) -> Outcome:
        raise RuntimeError("a bug in an adapter")

    world.provider.charges = [fault, approved]
    await world.pay(checkout())
    assert await statuses(world) == [("EXECUTING", "OPEN")]
    await world.recover()
    assert await statuses(world) == [("SUCCESS", "APPROVED")]


@pytest.mark.parametrize(("before", "after"), list(product(OrderStatus, (OrderStatus.SUCCESS, OrderStatus.FAILED))))
async def test_every_pair_of_order_statuses_in_the_database(
    store: Store, owner: asyncpg.Connection, before: OrderStatus, after: OrderStatus
) -> None:
    world = World(store)
    operation = (await world.accept(checkout())).operations[0]
    await owner.execute("UPDATE payment_order SET status = $1", before.value)
    decision = approved if after is OrderStatus.SUCCESS else declined
    if after in ORDER_TRANSITIONS[before]:
        assert await world.gateway.payments.apply(operation, decision(operation.intent))
    else:
        with pytest.raises(asyncpg.CheckViolationError, match="states do not allow"):
            await world.gateway.payments.apply(operation, decision(operation.intent))
        assert await world.count("transfer") == 0
        assert await world.count("lease") == 1


@pytest.mark.parametrize(
    ("function", "table"),
    [
        ("order_may_become", ORDER_TRANSITIONS),
        ("operation_may_become", OPERATION_TRANSITIONS),
        ("refund_may_become", REFUND_TRANSITIONS),
        ("dispute_may_become", DISPUTE_TRANSITIONS),
        ("payout_may_become", PAYOUT_TRANSITIONS),
        ("payout_run_may_become", PAYOUT_RUN_TRANSITIONS),
    ],
)
async def test_the_database_knows_the_same_ways_as_the_state_tables(
    owner: asyncpg.Connection, function: str, table: dict[str, frozenset[str]]
) -> None:
    for before, after in product(table, table):
        assert await owner.fetchval(f"SELECT {function}($1, $2)", before, after) is (after in table[before])


async def test_a_velocity_of_declines_blocks_the_next_attempt(store: Store) -> None:
    world = World(store)
    world.provider.charges = [declined] * 30
    for number in range(10):
        await world.pay(checkout(f"c{number}"), f"k{number}")
    view = await world.pay(checkout("c-last"), "k-last")
    assert view.orders[0].decline_code == "risk_blocked"
    assert world.provider.asked == ["charge"] * 10


async def test_unknown_is_asked_again_by_look_up_after_not_found_inside_the_window(store: Store) -> None:
    world = World(store, ScriptedProvider(replays_errors=True))
    world.provider.charges = [server_error, approved]
    world.provider.look_ups = [not_found]
    await world.pay(checkout())
    await world.recover()
    assert world.provider.asked == ["charge", "look_up", "charge"]
    assert await statuses(world) == [("SUCCESS", "APPROVED")]


async def test_F6_an_open_circuit_stops_new_sends_only_and_fails_nobody(store: Store) -> None:
    world = World(store, settings=replace(SETTINGS, breaker_threshold=3, breaker_pause_s=600, retry_budget_attempts=4))
    world.provider.charges = [unknown] * 3
    for number in range(3):
        await world.pay(checkout(f"c{number}", f"o{number}"), key=f"k{number}")
    held_back = await world.pay(checkout("c9", "o9"), key="k9")
    assert world.provider.asked == ["charge"] * 3
    for _ in range(8):  # longer than the budget
        await world.recover(timedelta(seconds=60))
    assert world.provider.asked == ["charge"] * 3
    assert await world.count("operation", "status = 'UNRESOLVED'") == 0
    await world.recover(timedelta(minutes=11))  # the probe is answered, and everything goes on
    await world.recover(timedelta(minutes=11))
    assert await world.count("payment_order", "status = 'SUCCESS'") == 4
    assert (await world.read(held_back.payment_id)).status == "SUCCESS"
    assert await world.violations() == {}


async def test_F6_look_ups_go_on_while_the_circuit_is_open(store: Store) -> None:
    world = World(
        store,
        ScriptedProvider(look_up_before_resend=True),
        settings=replace(SETTINGS, breaker_threshold=1, breaker_pause_s=3600),
    )
    world.provider.charges = [unknown]
    world.provider.look_ups = [approved]
    await world.pay(checkout("c1", "o1"))
    await world.recover()
    assert world.provider.asked == ["charge", "look_up"]
    assert await statuses(world) == [("SUCCESS", "APPROVED")]


@pytest.mark.parametrize("found", [not_found, not_sent])
async def test_F6_a_sending_that_a_look_up_allows_waits_while_the_circuit_is_open(store: Store, found: Answer) -> None:
    world = World(
        store,
        ScriptedProvider(look_up_before_resend=True),
        settings=replace(SETTINGS, breaker_threshold=1, breaker_pause_s=3600, retry_budget_attempts=4),
    )
    world.provider.charges = [unknown]
    await world.pay(checkout("c1", "o1"))
    world.provider.look_ups = [found] * 9
    for _ in range(8):  # longer than the budget
        await world.recover(timedelta(seconds=120))
    assert set(world.provider.asked[1:]) == {"look_up"}
    row = await store.pool.fetchrow("SELECT status, cause, tries, first_sent_at FROM operation")
    assert row is not None
    said = "connection refused" if found is not_sent else "not found at the provider"
    assert (row["status"], row["cause"]) == ("OPEN", said)
    assert row["first_sent_at"] == START
    held_back = await store.pool.fetch("SELECT body FROM event WHERE body ->> 'is_held_back' = 'true'")
    assert {msgspec.json.decode(each["body"])["told_by"] for each in held_back} == {"look_up"}
    await world.recover(timedelta(hours=1))  # the probe's turn
    assert world.provider.asked[-2:] == ["look_up", "charge"]
    assert await statuses(world) == [("SUCCESS", "APPROVED")]
    assert await world.violations() == {}


async def test_F6_a_page_that_a_look_up_allows_waits_while_the_circuit_is_open(store: Store) -> None:
    world = World(
        store,
        ScriptedProvider(look_up_before_resend=True),
        settings=replace(SETTINGS, breaker_threshold=1, breaker_pause_s=3600),
    )
    world.provider.registers = [unknown]
    await world.pay(checkout("c1", "o1", return_url="https://shop.example/"))
    await world.recover()
    await world.recover()
    assert world.provider.asked == ["register", "look_up", "look_up"]
    await world.recover(timedelta(hours=1))
    assert world.provider.asked[3:] == ["look_up", "register"]
    assert await statuses(world) == [("PENDING", "PENDING")]


async def test_A5_A14_a_page_is_not_made_again_by_what_was_found_before_a_death_in_its_making(store: Store) -> None:
    def die(_: Intent) -> Outcome:
        raise asyncio.CancelledError

    world = World(store, ScriptedProvider(look_up_before_resend=True))
    world.provider.registers = [unknown, die]
    await world.pay(checkout("c1", "o1", return_url="https://shop.example/"))
    await world.recover()
    with pytest.raises(asyncio.CancelledError):
        await world.recover()
    assert world.provider.asked == ["register", "look_up", "look_up", "register"]
    await world.recover()
    assert world.provider.asked[4:] == ["look_up"]  # the first "not found" since that page may have been made
    await world.recover()
    assert world.provider.asked[5:] == ["look_up", "register"]
    assert await statuses(world) == [("PENDING", "PENDING")]


async def test_F2_a_process_that_slept_through_its_lease_asks_before_it_sends(store: Store) -> None:
    """Frozen between the commit and the first sending, for so long that the PSP has forgotten the key by now."""
    asleep = World(store, ScriptedProvider(idempotency_window=timedelta(0)))
    awake = World(store, clock=asleep.clock)
    accepted = await asleep.accept(checkout("c1", "o1"))
    await awake.recover()
    assert await statuses(awake) == [("SUCCESS", "APPROVED")]
    await asleep.gateway.executor.start(accepted.operations)
    assert asleep.provider.asked == []
    assert await awake.violations() == {}
