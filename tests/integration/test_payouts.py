"""Payouts: what the books say after each, who wins a race, and what a PSP's silence and second thoughts do."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import asyncpg
import msgspec
import pytest
from tests.integration.locks import until_waiting
from tests.integration.outside import (
    CALLER,
    SETTINGS,
    ScriptedProvider,
    World,
    approved,
    declined,
    not_found,
    not_sent,
    pending,
    unknown,
)
from tests.integration.payees import fund, house, owe, pay_out, payout_of, seller_with

from coatcheck.api.dead_letters import dead_letters_of
from coatcheck.audit.replay import Difference, replay
from coatcheck.dead_letters import Finding, Word
from coatcheck.errors import CoatcheckError, ErrorCode
from coatcheck.events import EventKind
from coatcheck.explain import explain
from coatcheck.ids import OPERATION, operation_id_of, payout_id_of, print_id
from coatcheck.ids import PAYOUT as PAYOUT_ID
from coatcheck.inbox.hearing import Hearing, Sender, hear
from coatcheck.ledger import Ledger, Transfer
from coatcheck.operations import UndecidedQuery
from coatcheck.payouts import PayoutRequest, PayoutVerdict
from coatcheck.payouts.commits import account_ids
from coatcheck.providers.outcome import Outcome, OutcomeKind
from coatcheck.providers.protocol import Intent
from coatcheck.states import Mode, OperationKind, OperationStatus
from coatcheck.store import Store
from coatcheck.wallets import wallet
from coatcheck.wiring import make_watcher

PAYOUT = OperationKind.PAYOUT
SENDER = Sender("simulator", Mode.TEST)


@pytest.fixture
def world(store: Store) -> World:
    return World(store, ScriptedProvider(payout_token="dest_[a-z.-]+"))


def returned(intent: Intent) -> Outcome:
    return Outcome(
        kind=OutcomeKind.DECLINED, decline_code="bank_returned", reference=intent.reference, provider_reference="po_1"
    )


def paid_and_returned(intent: Intent) -> Outcome:
    return msgspec.structs.replace(returned(intent), came_back=True)


def paid(intent: Intent) -> Outcome:
    return msgspec.structs.replace(approved(intent), provider_reference="po_1")


async def events_of(world: World, payout_id: object) -> list[str]:
    rows = await world.store.pool.fetch("SELECT kind FROM event WHERE subject_id = $1 ORDER BY event_id", payout_id)
    return [row["kind"] for row in rows]


async def test_a_payout_leaves_the_balance_with_the_request_and_the_books_with_the_psp_s_word(world: World) -> None:
    await seller_with(world, 1000)
    asked = PayoutRequest(seller_account="s1", currency="EUR", amount_minor=400)
    made = await world.gateway.payouts.request(CALLER, asked, "p1")
    assert await world.balances() == {"psp_receivable": 1000, "seller_available": 600, "payouts_in_transit": 400}
    assert await world.violations() == {}
    await world.gateway.executor.start(made.operations)
    view = await payout_of(world, made)
    assert (view.status, view.amount_minor, view.destination) == ("PAID", 400, "dest_ok")
    assert await world.balances() == {"psp_receivable": 1000, "seller_available": 600, "bank": -400}
    assert await world.violations() == {}
    assert sorted(await events_of(world, view.payout_id)) == [EventKind.PAYOUT_PAID, EventKind.PAYOUT_REQUESTED]


async def test_without_an_amount_all_that_is_available_is_paid(world: World) -> None:
    await seller_with(world, 1234)
    assert (await payout_of(world, await pay_out(world))).amount_minor == 1234
    assert (await pay_out(world, key="p2")).verdict is PayoutVerdict.NOTHING_AVAILABLE
    assert await world.violations() == {}


async def test_D8_32_payouts_at_once_never_exceed_what_is_available(world: World, owner: asyncpg.Connection) -> None:
    """As many as there are connections come to the seller's balance before the first may take from it."""
    await seller_with(world, 1000)
    available, _transit = account_ids(CALLER.shop_id, CALLER.mode, "s1", "EUR")
    async with owner.transaction():
        await owner.execute("SELECT FROM account WHERE account_id = $1 FOR NO KEY UPDATE", available)
        asked = [asyncio.create_task(pay_out(world, 200, key=f"p{n}")) for n in range(32)]
        await until_waiting(owner, world.store.pool.get_max_size())
    answers = await asyncio.gather(*asked)
    assert [answer.verdict for answer in answers].count(PayoutVerdict.REQUESTED) == 5
    assert world.provider.asked.count("payout") == 5
    assert await world.balances() == {"psp_receivable": 1000, "bank": -1000}
    assert await world.violations() == {}


async def test_D8_of_payouts_and_takings_at_once_the_balance_decides(world: World) -> None:
    """A refund that comes between is seen: the balance is read under the lock that the posting takes."""
    await seller_with(world, 1000)
    other = await seller_with(world, 500, "s2")
    asked = [pay_out(world, None, key=f"p{n}") for n in range(4)]
    asked += [pay_out(world, 500, key=f"q{n}", seller=other) for n in range(4)]
    verdicts = [answer.verdict for answer in await asyncio.gather(*asked)]
    assert verdicts.count(PayoutVerdict.REQUESTED) == 2
    assert (await world.balances()).get("seller_available") is None
    assert await world.violations() == {}


async def test_D9_a_debt_is_not_paid_out_and_a_payout_makes_none(world: World) -> None:
    await seller_with(world, 100)
    assert (await pay_out(world, 101)).verdict is PayoutVerdict.TOO_MUCH
    assert (await pay_out(world, 101, key="p2")).verdict is PayoutVerdict.TOO_MUCH
    assert (await pay_out(world, 1, seller="nobody", key="p3")).verdict is PayoutVerdict.NO_DESTINATION
    await house(world, "poor")
    assert (await pay_out(world, 1, seller="poor", key="p4")).verdict is PayoutVerdict.NOTHING_AVAILABLE
    assert world.provider.asked == []
    assert await world.violations() == {}


async def test_D9_what_a_seller_owes_is_kept_back_from_the_next_payout(world: World) -> None:
    await seller_with(world, 1000)
    await owe(world, "s1", 300)
    assert (await pay_out(world, 701)).verdict is PayoutVerdict.TOO_MUCH
    assert (await payout_of(world, await pay_out(world, key="p2"))).amount_minor == 700
    assert (await pay_out(world, key="p3")).verdict is PayoutVerdict.NOTHING_AVAILABLE
    (balance,) = await wallet(world.store, CALLER.shop_id, CALLER.mode, "s1")
    assert (balance.available_minor, balance.pending_minor, balance.payable_minor) == (300, -300, 0)
    assert await world.violations() == {}


async def test_a_payout_s_key_pays_out_once_for_ever(world: World) -> None:
    await seller_with(world, 1000)
    first = await pay_out(world, 400)
    world.clock.advance(timedelta(days=400))
    again = await pay_out(world, 400)
    assert (first.verdict, again.verdict, first.payout_id) == ("requested", "exists", again.payout_id)
    assert (await pay_out(world, 401)).verdict is PayoutVerdict.KEY_REUSED
    assert world.provider.asked.count("payout") == 1
    sent = [intent for call, intent in world.provider.calls if call == "payout"]
    assert [intent.target_reference for intent in sent] == ["dest_ok"]


async def test_B1_one_key_for_two_sellers_at_once_is_one_payout(world: World) -> None:
    await seller_with(world, 1000)
    other = await seller_with(world, 1000, "s2")
    answers = await asyncio.gather(*[pay_out(world, 100, seller=name) for name in ("s1", other) * 8])
    verdicts = [answer.verdict for answer in answers]
    assert verdicts.count(PayoutVerdict.REQUESTED) == 1
    assert set(verdicts) <= {PayoutVerdict.REQUESTED, PayoutVerdict.EXISTS, PayoutVerdict.KEY_REUSED}
    assert world.provider.asked.count("payout") == 1
    assert await world.violations() == {}


async def test_what_the_psp_refuses_comes_back_to_the_wallet(world: World) -> None:
    await seller_with(world, 1000)
    world.provider.acts[PAYOUT] = [declined]
    view = await payout_of(world, await pay_out(world, 400))
    assert (view.status, view.decline_code) == ("FAILED", "insufficient_funds")
    assert await world.balances() == {"psp_receivable": 1000, "seller_available": 1000}
    assert await world.violations() == {}
    assert (await pay_out(world, key="p2")).verdict is PayoutVerdict.REQUESTED


async def test_A1_silence_is_asked_about_under_the_same_key_and_pays_once(world: World) -> None:
    await seller_with(world, 1000)
    world.provider.acts[PAYOUT] = [unknown, not_sent]
    made = await pay_out(world, 400)
    assert (await payout_of(world, made)).status == "PENDING"
    assert (await world.balances())["payouts_in_transit"] == 400
    assert await world.violations() == {}
    await world.recover()
    await world.recover()
    assert (await payout_of(world, made)).status == "PAID"
    assert len({intent.reference for call, intent in world.provider.calls if call == "payout"}) == 1
    assert await world.violations() == {}


async def test_A3_after_the_window_a_payout_is_looked_up_and_never_sent(world: World) -> None:
    await seller_with(world, 1000)
    world.provider.acts[PAYOUT] = [unknown]
    made = await pay_out(world, 400)
    world.clock.advance(timedelta(days=2))
    world.provider.look_ups = [not_found, paid]
    await world.recover()
    assert (await payout_of(world, made)).status == "PENDING"
    await world.recover()
    assert (await payout_of(world, made)).status == "PAID"
    assert world.provider.asked.count("payout") == 1
    assert await world.violations() == {}


async def test_an_unresolved_payout_keeps_its_money_in_transit(store: Store) -> None:
    world = World(
        store, ScriptedProvider(payout_token="dest_[a-z]+"), settings=replace(SETTINGS, retry_budget_attempts=2)
    )
    await seller_with(world, 1000)
    world.provider.acts[PAYOUT] = [unknown, unknown, unknown]
    made = await pay_out(world, 400)
    await world.recover()
    operation_id = operation_id_of(made.payout_id, PAYOUT)
    standing = (await world.gateway.operations.stand([operation_id]))[operation_id]
    assert standing.operation.status is OperationStatus.UNRESOLVED
    assert (await payout_of(world, made)).status == "PENDING"
    assert (await world.balances())["payouts_in_transit"] == 400
    assert await world.violations() == {}


async def test_A15_an_answer_about_another_amount_posts_nothing(world: World) -> None:
    await seller_with(world, 1000)
    world.provider.acts[PAYOUT] = [lambda intent: msgspec.structs.replace(paid(intent), amount_minor=401)]
    made = await pay_out(world, 400)
    assert (await payout_of(world, made)).status == "PENDING"
    assert (await world.balances())["payouts_in_transit"] == 400
    assert EventKind.OPERATION_ANSWER_REFUSED in await events_of(world, made.payout_id)


async def test_D10_a_payout_that_comes_back_days_later_is_in_the_wallet_again_once(world: World) -> None:
    await seller_with(world, 1000)
    before = await world.balances()
    world.provider.acts[PAYOUT] = [paid]
    made = await pay_out(world, 400)
    world.clock.advance(timedelta(days=9))
    operation_id = operation_id_of(made.payout_id, PAYOUT)
    for _ in range(2):
        for held in await world.gateway.operations.reopen([operation_id], "the PSP says it came back"):
            await world.gateway.executor.settle(held, returned(held.intent))
    view = await payout_of(world, made)
    assert (view.status, view.decline_code) == ("RETURNED", "bank_returned")
    assert await world.balances() == before
    assert await world.violations() == {}
    kinds = await events_of(world, made.payout_id)
    assert kinds.count(EventKind.PAYOUT_RETURNED) == 1
    assert (await pay_out(world, 1000, key="p2")).verdict is PayoutVerdict.REQUESTED


async def test_D10_a_payout_that_was_paid_and_came_back_before_we_heard_of_either_was_both(world: World) -> None:
    """The PSP's file and the bank's statement will tell of both."""
    await seller_with(world, 1000)
    before = await world.balances()
    world.provider.acts[PAYOUT] = [unknown]
    made = await pay_out(world, 400)
    world.provider.acts[PAYOUT] = [paid_and_returned]
    world.provider.look_ups = [paid_and_returned]
    world.clock.advance(timedelta(days=9))
    await world.recover()
    view = await payout_of(world, made)
    assert (view.status, view.decline_code) == ("RETURNED", "bank_returned")
    assert await world.balances() == before
    moved = await world.store.pool.fetch("SELECT kind FROM transfer WHERE subject_id = $1", made.payout_id)
    assert sorted(row["kind"] for row in moved) == ["payout", "payout_paid", "payout_returned"]
    assert EventKind.PAYOUT_FAILED not in await events_of(world, made.payout_id)
    assert await world.violations() == {}
    differing: list[Difference] = []
    await replay(world.store, differing.append)
    assert not {each.table for each in differing} & {"payout", "operation"}  # the funding alone has no event


async def test_D10_what_the_psp_says_of_a_decided_payout_is_asked_about_and_never_sent(world: World) -> None:
    await seller_with(world, 1000)
    world.provider.acts[PAYOUT] = [paid]
    made = await pay_out(world, 400)
    operation_id = operation_id_of(made.payout_id, PAYOUT)
    standing = (await world.gateway.operations.stand([operation_id]))[operation_id]
    at = world.clock.now()
    assert hear(standing, SENDER, returned(standing.operation.intent), at) is Hearing.ASK
    assert hear(standing, SENDER, paid(standing.operation.intent), at) is Hearing.NOTHING
    world.provider.look_ups = [returned]
    (held,) = await world.gateway.operations.reopen([operation_id], "an event")
    await world.gateway.executor.run(held)
    assert (await payout_of(world, made)).status == "RETURNED"
    assert world.provider.asked.count("payout") == 1


async def test_D9_paid_after_all_is_a_person_s_turn_and_takes_nothing_from_the_seller(world: World) -> None:
    await seller_with(world, 400)
    world.provider.acts[PAYOUT] = [declined]
    made = await pay_out(world, 400)
    operation_id = operation_id_of(made.payout_id, PAYOUT)
    standing = (await world.gateway.operations.stand([operation_id]))[operation_id]
    assert hear(standing, SENDER, paid(standing.operation.intent), world.clock.now()) is Hearing.ASK
    world.provider.look_ups = [paid]
    (held,) = await world.gateway.operations.reopen([operation_id], "an event")
    await world.gateway.executor.run(held)
    standing = (await world.gateway.operations.stand([operation_id]))[operation_id]
    assert standing.operation.status is OperationStatus.UNRESOLVED
    assert (await payout_of(world, made)).status == "FAILED"
    assert await world.balances() == {"psp_receivable": 400, "seller_available": 400}
    assert await world.violations() == {}


async def test_F1_an_answer_that_comes_after_the_lease_is_not_booked(world: World) -> None:
    await seller_with(world, 1000)
    world.provider.acts[PAYOUT] = [unknown]
    made = await pay_out(world, 400)
    world.clock.advance(timedelta(minutes=5))
    (first,) = await world.gateway.operations.claim(10)
    world.clock.advance(timedelta(minutes=5))
    (second,) = await world.gateway.operations.claim(10)
    assert await world.gateway.executor.settle(first, declined(first.intent)) is None
    assert (await payout_of(world, made)).status == "PENDING"
    assert await world.gateway.executor.settle(second, paid(second.intent)) is not None
    assert await world.gateway.executor.settle(second, paid(second.intent)) is not None  # a COMMIT's answer was lost
    assert (await world.balances())["bank"] == -400
    assert await world.violations() == {}


async def test_a_pending_payout_is_looked_up_until_the_psp_decides(world: World) -> None:
    await seller_with(world, 1000)
    world.provider.acts[PAYOUT] = [pending]
    made = await pay_out(world, 400)
    world.provider.look_ups = [pending, paid]
    await world.recover()
    await world.recover(timedelta(minutes=5))
    assert (await payout_of(world, made)).status == "PAID"
    assert world.provider.asked == ["payout", "look_up", "look_up"]


async def test_a_changed_destination_cools_down_and_an_unchanged_one_does_not(world: World) -> None:
    await fund(world, "s1", 1000)
    assert await house(world, "s1", "dest_ok.first") == "changed"
    assert await house(world, "s1", "dest_ok.first") == "exists"
    assert (await pay_out(world, 100)).verdict is PayoutVerdict.REQUESTED
    assert await house(world, "s1", "dest_ok.second") == "changed"
    assert (await pay_out(world, 100, key="p2")).verdict is PayoutVerdict.COOLING_DOWN
    world.clock.advance(timedelta(days=1, hours=23))
    assert await house(world, "s1", "dest_ok.second") == "exists"
    assert (await pay_out(world, 100, key="p2")).verdict is PayoutVerdict.COOLING_DOWN
    world.clock.advance(timedelta(hours=1))
    view = await payout_of(world, await pay_out(world, 100, key="p2"))
    assert (view.status, view.destination) == ("PAID", "dest_ok.second")
    (there,) = await world.gateway.payees.destinations(CALLER.shop_id, CALLER.mode, "s1")
    assert (there.token, there.changed_by) == ("dest_ok.second", "person ada")


@pytest.mark.parametrize(
    ("token", "code"),
    [
        ("DE89370400440532013000", ErrorCode.BANK_DETAILS_REFUSED),
        ("GB82-WEST-1234-5698-7654-32", ErrorCode.BANK_DETAILS_REFUSED),
        ("0532013000", ErrorCode.BANK_DETAILS_REFUSED),
        ("COBADEFFXXX/0532013000", ErrorCode.BANK_DETAILS_REFUSED),
        ("tok_approve", ErrorCode.INVALID_REQUEST),
        ("acct_1NvdFGQ9RKHgCVdK", ErrorCode.INVALID_REQUEST),
    ],
)
async def test_only_tokens_of_the_provider_s_are_kept(world: World, token: str, code: ErrorCode) -> None:
    with pytest.raises(CoatcheckError) as refused:
        await house(world, "s1", token)
    assert refused.value.error is code
    assert token not in str(refused.value)
    assert await world.count("payout_destination") == 0
    assert await world.count("event", f"body::text LIKE '%{token}%'") == 0


async def test_a_provider_that_pays_nobody_out_is_no_destination(store: Store) -> None:
    world = World(store)
    with pytest.raises(CoatcheckError, match="pays nobody out"):
        await house(world, "s1")


async def test_the_events_of_a_payout_hold_its_rows(world: World) -> None:
    """What a rebuild needs: the payout, its operation and every transfer, from the events alone."""
    await seller_with(world, 1000)
    world.provider.acts[PAYOUT] = [paid]
    made = await pay_out(world, 400)
    rows = await world.store.pool.fetch(
        "SELECT kind, body::text FROM event WHERE subject_id = $1 ORDER BY kind", made.payout_id
    )
    bodies = [msgspec.json.decode(row["body"]) for row in rows]
    booked, requested = bodies
    row = await world.store.pool.fetchrow("SELECT * FROM payout WHERE payout_id = $1", made.payout_id)
    assert row is not None
    for name in ("seller_account", "amount_minor", "currency", "provider", "destination", "key"):
        assert requested[name] == row[name], name
    assert bytes.fromhex(requested["request_digest"]) == row["request_digest"]
    assert (booked["status"], booked["provider_reference"]) == ("PAID", row["provider_reference"])
    written = {
        str(each[0])
        for each in await world.store.pool.fetch(
            "SELECT transfer_id FROM transfer WHERE subject_id = $1", made.payout_id
        )
    }
    assert {each["transfer_id"] for body in bodies for each in body["transfers"]} == written


async def test_no_payout_can_be_written_past_its_functions(world: World) -> None:
    for statement in (
        "INSERT INTO payout (payout_id) VALUES (gen_random_uuid())",
        "UPDATE payout SET status = 'PAID'",
        "UPDATE payout_destination SET token = 'dest_mine'",
        "DELETE FROM payout_run_item",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await world.store.pool.execute(statement)


async def test_the_invariants_of_payouts_see_what_they_are_for(world: World, owner: asyncpg.Connection) -> None:
    await seller_with(world, 1000)
    made = await pay_out(world, 400)
    assert await world.violations() == {}
    execute = owner.execute
    await execute("UPDATE payout SET status = 'RETURNED' WHERE payout_id = $1", made.payout_id)
    found = await world.violations()
    assert {"payout_agrees_with_its_operation", "payout_equals_its_transfers"} <= found.keys()
    await execute("UPDATE payout SET status = 'PENDING' WHERE payout_id = $1", made.payout_id)
    assert "payouts_in_transit_are_undecided" in await world.violations()


async def test_a_transfer_past_the_payouts_is_seen(world: World) -> None:
    """Money that leaves the transit account without a payout's status is a broken book."""
    await seller_with(world, 1000)
    world.provider.acts[PAYOUT] = [unknown]
    made = await pay_out(world, 400)
    rows = await world.store.pool.fetch(
        "SELECT account_id, kind FROM account WHERE kind IN ('payouts_in_transit', 'bank')"
    )
    ids = {row["kind"]: row["account_id"] for row in rows}
    stray = Transfer(
        transfer_id=payout_id_of(CALLER.shop_id, CALLER.mode, "stray"),
        kind="payout_paid",
        debit_account_id=ids["payouts_in_transit"],
        credit_account_id=ids["bank"],
        amount_minor=400,
        currency="EUR",
        subject_id=made.payout_id,
    )
    await Ledger(world.store).post([stray], world.clock.now())
    assert {"payout_equals_its_transfers", "payouts_in_transit_are_undecided"} <= (await world.violations()).keys()


async def test_an_unresolved_payout_is_a_dead_letter_that_two_people_resolve(store: Store) -> None:
    world = World(
        store, ScriptedProvider(payout_token="dest_[a-z]+"), settings=replace(SETTINGS, retry_budget_attempts=1)
    )
    await seller_with(world, 1000)
    world.provider.acts[PAYOUT] = [unknown, unknown]
    (paid_one, lost_one) = [await pay_out(world, amount, key=f"p{amount}") for amount in (400, 300)]
    changes = await make_watcher(world.gateway).watch_once()
    assert {(change.alert.kind.value, change.alert.text) for change in changes} == {
        ("operation_unresolved", "The payout waits for a person after attempt 1: read timeout.")
    }
    letters = dead_letters_of(world.gateway)
    found = await letters.find(UndecidedQuery())
    assert {letter.payment_order_id for letter in found} == {
        print_id(PAYOUT_ID, made.payout_id) for made in (paid_one, lost_one)
    }
    for made, finding in (
        (paid_one, Finding(word=Word.DONE, provider_reference="po_9", reason="the dashboard shows it")),
        (lost_one, Finding(word=Word.NOT_DONE, provider_reference=None, reason="the bank has never seen it")),
    ):
        operation_id = operation_id_of(made.payout_id, PAYOUT)
        proposal = await letters.propose(operation_id, UndecidedQuery(), finding, "person ada")
        await letters.confirm(operation_id, proposal.proposal_id, UndecidedQuery(), "person grace")
    assert [(await payout_of(world, made)).status for made in (paid_one, lost_one)] == ["PAID", "FAILED"]
    assert await world.balances() == {"psp_receivable": 1000, "seller_available": 600, "bank": -400}
    assert await world.violations() == {}


async def test_the_story_of_a_payout_is_told_elsewhere_and_explain_says_where(world: World) -> None:
    await seller_with(world, 1000)
    made = await pay_out(world, 400)
    named = print_id(OPERATION, operation_id_of(made.payout_id, PAYOUT))
    with pytest.raises(CoatcheckError, match="it pays out_"):
        await explain(
            world.store,
            world.gateway.operations,
            named,
            shop=None,
            mode=CALLER.mode,
            advise=dead_letters_of(world.gateway).advise,
            at=world.clock.now(),
        )
