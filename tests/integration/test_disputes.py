"""Disputes: what the PSP says of them is booked once, in whatever order it comes; no money goes back twice unseen."""

import asyncio
import random
from datetime import datetime, timedelta
from itertools import permutations
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import pytest
from tests.integration.outside import CALLER, START, ScriptedProvider, World, checkout, declined, unknown
from tests.integration.test_inbox import Psp, dispute, reference_of

from coatcheck.api.dead_letters import dead_letters_of
from coatcheck.correspondence import Correspondence
from coatcheck.disputes import DisputeQuery, DisputeView, NewsOutcome
from coatcheck.explain import explain
from coatcheck.ids import (
    DISPUTE,
    OPERATION,
    account_id_of,
    dispute_id_of,
    operation_id_of,
    order_id_of,
    parse_id,
    print_id,
)
from coatcheck.inbox import EventOutcome
from coatcheck.ledger import platform_dispute_fees, psp_receivable, seller_pending
from coatcheck.metrics import Metrics
from coatcheck.providers.disputes import DisputeAnswer, DisputeNews, FundsMovement, Parcel
from coatcheck.providers.outcome import OutcomeKind
from coatcheck.states import Capture, DisputeStatus, Mode, OperationKind
from coatcheck.store import Store
from coatcheck.watcher import AlertKind, Watcher, WatchLimits, acknowledge

TAKEN = {"id": "df_1", "amount": -1000, "fee": 1500, "currency": "EUR", "created": 10}
GIVEN = {"id": "df_2", "amount": 1000, "fee": 0, "currency": "EUR", "created": 20}


def moved(name: str, gross: int, fee: int = 0, currency: str = "EUR", at: datetime | None = START) -> FundsMovement:
    return FundsMovement(name=name, gross_minor=gross, fee_minor=fee, currency=currency, moved_at=at)


def word(
    order: str = "o1",
    status: DisputeStatus | None = DisputeStatus.NEEDS_RESPONSE,
    number: int = 1,
    *movements: FundsMovement,
    **more: Any,
) -> DisputeNews:
    fields: dict[str, Any] = {
        "provider": "simulator",
        "mode": Mode.TEST,
        "provider_reference": "dp_1",
        "type": "told by the test",
        "reference": reference_of(order),
        "status": status,
        "amount_minor": 1000,
        "currency": "EUR",
        "word_no": number,
        "movements": movements,
    }
    return DisputeNews(**fields | more)


async def hear(world: World, *news: DisputeNews) -> list[NewsOutcome]:
    return await world.gateway.disputes.apply(list(news))


async def the_dispute(world: World, name: str = "dp_1") -> DisputeView:
    wanted = dispute_id_of(CALLER.shop_id, CALLER.mode, "simulator", name)
    (view,) = await world.gateway.disputes.read([wanted])
    return view


async def is_frozen(world: World, order: str = "o1") -> bool:
    frozen: bool = await world.store.pool.fetchval(
        "SELECT is_disputed FROM payment_order WHERE payment_order_id = $1", order
    )
    return frozen


async def events(world: World, like: str = "dispute.%") -> list[str]:
    rows = await world.store.pool.fetch("SELECT kind FROM event WHERE kind LIKE $1 ORDER BY event_id", like)
    return sorted(row["kind"] for row in rows)


def watcher_of(world: World, evidence_due: timedelta = timedelta(days=3)) -> Watcher:
    limits = WatchLimits(evidence_due=evidence_due)
    capabilities = {"simulator": world.provider.capabilities}
    return Watcher(world.store, world.clock, capabilities=capabilities, metrics=Metrics(), limits=limits)


@pytest.fixture
async def world(store: Store) -> World:
    made = World(store)
    await made.pay(checkout("c1", "o1"))
    return made


# the life of one


async def test_a_chargeback_is_the_seller_s_and_its_fee_the_platform_s(world: World) -> None:
    assert await hear(world, word("o1", DisputeStatus.NEEDS_RESPONSE, 1, moved("df_1", -1000, 1500))) == ["applied"]
    assert await world.balances() == {
        "psp_receivable": 1000 - 1000 - 1500,
        "seller_pending": 900 - 1000,
        "platform_commission": 100,
        "platform_dispute_fees": 1500,
    }
    view = await the_dispute(world)
    assert (view.status, view.amount_minor, view.currency, view.payment_order_id) == (
        DisputeStatus.NEEDS_RESPONSE,
        1000,
        "EUR",
        "o1",
    )
    assert await events(world) == ["dispute.funds_withdrawn", "dispute.opened"]
    assert await world.violations() == {}


async def test_D3_refunds_are_frozen_while_a_dispute_is_open_or_lost(world: World) -> None:
    standing = []
    for number, status in enumerate(
        ["INQUIRY", "NEEDS_RESPONSE", "UNDER_REVIEW", "LOST", "NEEDS_RESPONSE", "WON"], start=1
    ):
        await hear(world, word("o1", DisputeStatus(status), number))
        standing.append((status, await is_frozen(world)))
        assert await world.violations() == {}
    assert standing == [
        ("INQUIRY", False),
        ("NEEDS_RESPONSE", True),
        ("UNDER_REVIEW", True),
        ("LOST", True),
        ("NEEDS_RESPONSE", True),
        ("WON", False),
    ]
    assert await events(world, "order.%disputed") == ["order.disputed", "order.undisputed"]
    assert (await world.refund("o1", 100)).verdict == "requested"


async def test_D3_one_dispute_that_is_won_does_not_free_an_order_with_another_open(world: World) -> None:
    await hear(world, word("o1", number=1), word("o1", number=1, provider_reference="dp_2"))
    await hear(world, word("o1", DisputeStatus.WON, 2))
    assert await is_frozen(world)
    assert (await world.refund("o1", 100)).verdict == "disputed"
    await hear(world, word("o1", DisputeStatus.CLOSED, 2, provider_reference="dp_2"))
    assert not await is_frozen(world)
    assert await world.violations() == {}


async def test_C2_every_order_of_events_ends_in_the_same_state(store: Store) -> None:
    """Opened, money taken, under review, won, money back: each event shows what was so then, and some come twice."""
    told: list[tuple[str, dict[str, Any]]] = [
        ("dispute.opened", {"version": 1}),
        ("dispute.funds_withdrawn", {"version": 2, "movements": [TAKEN]}),
        ("dispute.updated", {"version": 3, "status": "under_review", "movements": [TAKEN]}),
        ("dispute.closed", {"version": 4, "status": "won", "movements": [TAKEN, GIVEN]}),
    ]
    world = World(store)
    psp = Psp(world)
    dice, ends = random.Random(7), set()
    for number, order in enumerate(permutations(told)):
        name = f"o{number}"
        await world.pay(checkout(f"c{number}", name), key=f"k{number}")
        for type_, more in [*order, dice.choice(order)]:
            await psp.tell(type_, dispute(name, **{"id": f"dp_{number}", **more}))
        view = await the_dispute(world, f"dp_{number}")
        ends.add((view.status, tuple((each.gross_minor, each.fee_minor) for each in view.movements)))
        assert not await is_frozen(world, name)
    assert ends == {("WON", ((-1000, 1500), (1000, 0)))}
    assert await world.count("transfer", "kind LIKE 'chargeback%' OR kind LIKE 'dispute_fee%'") == 24 * 3
    assert await world.violations() == {}


async def test_C2_a_status_never_goes_back_to_an_older_word(world: World) -> None:
    await hear(world, word("o1", DisputeStatus.LOST, 3))
    assert await hear(world, word("o1", DisputeStatus.UNDER_REVIEW, 2)) == ["no_effect"]
    assert await hear(world, word("o1", DisputeStatus.WON, 3)) == ["no_effect"]
    assert (await the_dispute(world)).status == "LOST"


async def test_D7_won_then_reopened_takes_the_money_again_and_once(world: World) -> None:
    first, back, again = moved("df_1", -1000, 1500), moved("df_2", 1000, -1500), moved("df_3", -1000, 1500)
    await hear(world, word("o1", DisputeStatus.WON, 2, first, back))
    assert (await world.balances())["seller_pending"] == 900
    assert "platform_dispute_fees" not in await world.balances()
    await hear(world, word("o1", DisputeStatus.NEEDS_RESPONSE, 3, first, back, again))
    await hear(world, word("o1", DisputeStatus.NEEDS_RESPONSE, 3, first, back, again))
    assert (await world.balances())["seller_pending"] == -100
    assert (await world.balances())["platform_dispute_fees"] == 1500
    assert "dispute.reopened" in await events(world)
    assert await is_frozen(world)
    assert await world.violations() == {}


async def test_nothing_becomes_an_inquiry_again(world: World) -> None:
    await hear(world, word("o1", DisputeStatus.NEEDS_RESPONSE, 1))
    assert await hear(world, word("o1", DisputeStatus.INQUIRY, 2)) == ["refused"]
    assert (await the_dispute(world)).status == "NEEDS_RESPONSE"


@pytest.mark.parametrize(("amount", "currency"), [(400, "EUR"), (1200, "EUR"), (1085, "USD"), (150_000, "JPY")])
async def test_D7_amount_and_currency_are_the_psp_s(world: World, amount: int, currency: str) -> None:
    taken = moved("df_1", -amount, 15, currency)
    news = word("o1", DisputeStatus.NEEDS_RESPONSE, 1, taken, amount_minor=amount, currency=currency)
    assert await hear(world, news) == ["applied"]
    rows = await world.store.pool.fetch(
        "SELECT name, credits_posted_minor - debits_posted_minor AS balance FROM account WHERE currency = $1", currency
    )
    books = {row["name"]: row["balance"] for row in rows}
    assert books["seller:seller-o1:pending"] == (900 if currency == "EUR" else 0) - amount
    assert books["platform:dispute_fees"] == -15
    assert await world.violations() == {}


async def test_D7_several_disputes_of_an_order_are_each_booked(world: World) -> None:
    await hear(
        world,
        word("o1", DisputeStatus.NEEDS_RESPONSE, 1, moved("df_1", -300)),
        word("o1", DisputeStatus.NEEDS_RESPONSE, 1, moved("df_1", -700), provider_reference="dp_2"),
    )
    assert (await world.balances())["seller_pending"] == -100
    found = await world.gateway.disputes.find(
        DisputeQuery(order_id=order_id_of(CALLER.shop_id, CALLER.mode, "o1"), status=DisputeStatus.NEEDS_RESPONSE)
    )
    assert {view.provider_reference for view in found} == {"dp_1", "dp_2"}
    assert await world.violations() == {}


async def test_D12_32_at_once_have_one_effect(world: World) -> None:
    taken = moved("df_1", -1000, 1500)
    outcomes = await asyncio.gather(
        *[hear(world, word("o1", DisputeStatus.NEEDS_RESPONSE, 1, taken)) for _ in range(32)]
    )
    assert sorted(outcome for (outcome,) in outcomes) == ["applied"] + ["no_effect"] * 31
    assert await world.count("transfer", "kind IN ('chargeback', 'dispute_fee')") == 2
    assert await world.count("event", "kind LIKE 'dispute.%'") == 2
    assert await world.violations() == {}


async def test_D12_movements_that_come_at_once_are_each_booked(world: World) -> None:
    """Each has its place among those of its dispute; two that took the same place would be one."""
    await hear(world, word("o1", DisputeStatus.NEEDS_RESPONSE, 1))
    news = [word("o1", DisputeStatus.NEEDS_RESPONSE, 1, moved(f"df_{place}", -10 - place)) for place in range(16)]
    outcomes = await asyncio.gather(*[hear(world, each) for each in news])
    assert outcomes == [["applied"]] * 16
    assert await world.count("dispute_movement") == 16
    assert await world.count("transfer", "kind = 'chargeback'") == 16
    assert await world.violations() == {}


async def test_C3_one_batch_that_says_it_twice_has_one_effect(world: World) -> None:
    taken = moved("df_1", -1000, 1500)
    same = word("o1", DisputeStatus.NEEDS_RESPONSE, 1, taken)
    await hear(world, same, word("o1", DisputeStatus.UNDER_REVIEW, 2, taken), same)
    assert (await the_dispute(world)).status == "UNDER_REVIEW"
    assert await world.count("transfer", "kind IN ('chargeback', 'dispute_fee')") == 2
    assert await world.violations() == {}


# what is not believed


@pytest.mark.parametrize(
    "wrong",
    [{"charge_reference": "ch_of_somebody"}, {"mode": Mode.LIVE}, {"provider": "stripe"}],
    ids=["charge", "mode", "provider"],
)
async def test_C10_a_word_about_something_else_takes_nothing(world: World, wrong: dict[str, Any]) -> None:
    assert await hear(world, word("o1", DisputeStatus.LOST, 1, moved("df_1", -1000), **wrong)) == ["refused"]
    assert await world.count("dispute") == 0
    assert not await is_frozen(world)


async def test_C6_an_event_about_another_charge_is_told_and_books_nothing(world: World) -> None:
    psp = Psp(world)
    await psp.tell("dispute.opened", dispute("o1", charge="ch_of_somebody", movements=[TAKEN]))
    assert await psp.outcomes() == [EventOutcome.REFUSED]
    assert await world.count("event", "kind = 'webhook.refused'") == 1
    assert await world.count("dispute") == 0


async def test_one_dispute_is_of_one_order(world: World) -> None:
    await world.pay(checkout("c2", "o2"), key="k2")
    await hear(world, word("o1"))
    assert await hear(world, word("o2", DisputeStatus.LOST, 2, moved("df_1", -1000))) == ["refused"]
    assert await world.count("dispute_movement") == 0
    assert not await is_frozen(world, "o2")


async def test_a_dispute_of_a_charge_that_is_not_ours_changes_nothing(world: World) -> None:
    stranger = print_id(OPERATION, operation_id_of(UUID(int=1), "charge"))
    assert await hear(world, word("o1", reference=stranger)) == ["unmatched"]
    assert await hear(world, word("o1", reference=None)) == ["unmatched"]


async def test_A9_a_dispute_of_a_charge_that_we_gave_up_waits_until_the_psp_was_asked(store: Store) -> None:
    world = World(store)
    psp = Psp(world)
    world.provider.charges = [declined]
    await world.pay(checkout("c1", "o1"))
    await psp.tell("dispute.opened", dispute("o1", movements=[TAKEN]))
    assert await psp.outcomes() == [None]
    assert "look_up" in world.provider.asked
    assert await world.count("dispute") == 0
    assert await world.violations() == {}


async def test_C1_a_dispute_before_the_answer_waits_for_it(store: Store) -> None:
    world = World(store)
    psp = Psp(world)
    world.provider.charges = [unknown]
    await world.pay(checkout("c1", "o1"))
    await psp.tell("dispute.opened", dispute("o1", movements=[TAKEN]))
    assert await psp.outcomes() == [None]
    await world.recover()
    world.clock.advance(timedelta(minutes=5))
    await psp.handle()
    assert await psp.outcomes() == [EventOutcome.APPLIED]
    assert (await the_dispute(world)).movements[0].gross_minor == -1000
    assert await world.violations() == {}


async def test_a_capture_s_authorization_can_be_disputed(store: Store) -> None:
    world = World(store)
    view = await world.pay(checkout("c1", "o1", capture=Capture.MANUAL))
    named = reference_of("o1", OperationKind.AUTHORIZE)
    assert await hear(world, word("o1", reference=named)) == ["not_captured"]
    await world.capture(view, o1=600)
    assert await hear(world, word("o1", DisputeStatus.LOST, 1, moved("df_1", -600), reference=named)) == ["applied"]
    assert await world.violations() == {}


# refunds beside it


async def test_D3_a_refund_and_a_dispute_at_once_never_both_pass_unseen(store: Store) -> None:
    world = World(store)
    seen = set()
    for number in range(12):
        name = f"o{number}"
        await world.pay(checkout(f"c{number}", name), key=f"k{number}")
        taken = word(name, DisputeStatus.NEEDS_RESPONSE, 1, moved("df_1", -1000), provider_reference=f"dp_{number}")
        first = [world.refund(name, key=f"r{number}"), hear(world, taken)]
        answers: list[Any] = await asyncio.gather(*(first if number % 2 else reversed(first)))
        refund = next(each for each in answers if not isinstance(each, list))
        seen.add(refund.verdict)
        assert refund.verdict in ("requested", "disputed")
        assert await is_frozen(world, name)
        changes = await watcher_of(world).watch_once()
        alerts = [change.alert.kind for change in changes if change.alert.kind is AlertKind.REFUNDED_AND_DISPUTED]
        assert len(alerts) == (refund.verdict == "requested")
    assert seen
    assert await world.violations() == {}


async def test_D3_money_that_went_back_twice_is_told_until_a_person_has_seen_to_it(world: World) -> None:
    await world.refund("o1", 600)
    await hear(world, word("o1", DisputeStatus.NEEDS_RESPONSE, 1, moved("df_1", -400), amount_minor=400))
    watcher = watcher_of(world)
    assert await watcher.watch_once() == []  # no more than was captured
    await hear(world, word("o1", DisputeStatus.LOST, 1, moved("df_1", -500), provider_reference="dp_2"))
    (opened,) = await watcher.watch_once()
    assert opened.alert.kind is AlertKind.REFUNDED_AND_DISPUTED
    assert "6.00 EUR by refunds and 9.00 EUR by disputes, of 10.00 EUR" in opened.alert.text
    order_id = order_id_of(CALLER.shop_id, CALLER.mode, "o1")
    assert await acknowledge(world.store, world.clock, order_id, by="ada", reason="recovered")
    (closed,) = await watcher.watch_once()
    assert not closed.is_opened
    world.clock.advance(timedelta(seconds=1))
    await hear(world, word("o1", DisputeStatus.LOST, 2, moved("df_2", -100), provider_reference="dp_2"))
    assert [change.is_opened for change in await watcher.watch_once()] == [True]
    assert await world.violations() == {}


# the watch


async def test_a_dispute_whose_time_runs_out_is_an_alert_until_it_is_answered(world: World) -> None:
    due = START + timedelta(days=7)
    await hear(world, word("o1", evidence_due_at=due, reason="fraudulent"))
    watcher = watcher_of(world)
    assert await watcher.watch_once() == []
    world.clock.advance(timedelta(days=4))
    (opened,) = await watcher.watch_once()
    assert opened.alert.kind is AlertKind.DISPUTE_EVIDENCE_DUE
    assert opened.alert.subject.startswith("dsp_")
    assert "must be answered by 2026-03-08 12:00:00 UTC" in opened.alert.text
    await hear(world, word("o1", DisputeStatus.UNDER_REVIEW, 2, evidence_due_at=due))
    assert [change.is_opened for change in await watcher.watch_once()] == [False]


async def test_only_open_disputes_are_asked_about_and_each_by_one(world: World) -> None:
    await world.pay(checkout("c2", "o2"), key="k2")
    await hear(world, word("o1"), word("o2", DisputeStatus.WON, 1, provider_reference="dp_2"))
    assert await world.gateway.disputes.claim_due(["simulator"], 10) == []
    world.clock.advance(timedelta(days=1))
    claims = await asyncio.gather(*[world.gateway.disputes.claim_due(["simulator"], 10) for _ in range(4)])
    assert sorted(len(each) for each in claims) == [0, 0, 0, 1]


class Desk:
    """A PSP that can be asked about disputes: it says what the test has put there."""

    name = "simulator"

    def __init__(self, provider: ScriptedProvider) -> None:
        self.capabilities = provider.capabilities
        self.says: list[DisputeAnswer] = []
        self.asked = 0

    async def read_dispute(self, provider_reference: str, mode: Mode, at: datetime) -> DisputeAnswer:  # noqa: ARG002
        self.asked += 1
        return self.says.pop(0)

    async def submit_evidence(self, parcel: Parcel, at: datetime) -> DisputeAnswer:
        raise NotImplementedError


def asked_about(world: World, *says: DisputeAnswer) -> tuple[Correspondence, Desk]:
    desk = Desk(ScriptedProvider(disputes=True))
    desk.says = list(says)
    providers: Any = {"simulator": desk}
    return (
        Correspondence(world.gateway.disputes, world.clock, providers=providers, lease=timedelta(seconds=30)),
        desk,
    )


async def test_C2_a_psp_that_can_be_asked_is_asked_whatever_its_event_says(world: World) -> None:
    """An old event, or one with a wrong amount, books what is so now."""
    truth = word("o1", DisputeStatus.WON, 9, moved("df_1", -1000), moved("df_2", 1000))
    line, desk = asked_about(world, DisputeAnswer(kind=OutcomeKind.APPROVED, news=truth))
    told = word("o1", DisputeStatus.LOST, 1, moved("df_9", -9999), amount_minor=9999)
    assert await line.hear(told) == "applied"
    view = await the_dispute(world)
    assert (view.status, view.amount_minor, len(view.movements)) == ("WON", 1000, 2)
    assert desk.asked == 1


async def test_a_psp_that_is_silent_keeps_the_event_waiting(world: World) -> None:
    line, _ = asked_about(world, DisputeAnswer(kind=OutcomeKind.UNKNOWN, cause="no answer in time"))
    assert await line.hear(word("o1", DisputeStatus.LOST, 1)) is None
    assert await world.count("dispute") == 0


async def test_A15_an_answer_about_another_dispute_is_refused(world: World) -> None:
    other = DisputeAnswer(kind=OutcomeKind.APPROVED, news=word("o1", provider_reference="dp_2"))
    line, _ = asked_about(world, other)
    assert await line.hear(word("o1")) == "refused"
    assert await world.count("dispute") == 0


async def test_C14_what_no_event_tells_of_is_found_by_asking(world: World) -> None:
    await hear(world, word("o1"))
    lost = word("o1", DisputeStatus.LOST, 5, moved("df_1", -1000))
    line, desk = asked_about(world, DisputeAnswer(kind=OutcomeKind.APPROVED, news=lost))
    assert await line.tend_once(10) == 0
    world.clock.advance(timedelta(days=1))
    assert await line.tend_once(10) == 1
    assert desk.asked == 1
    assert (await the_dispute(world)).status == "LOST"
    assert await world.violations() == {}


# the books' own words


async def test_sql_names_accounts_and_disputes_as_python_does(world: World) -> None:
    await hear(world, word("o1", DisputeStatus.LOST, 1, moved("df_1", -1000, 1500)))
    names = [seller_pending("seller-o1"), psp_receivable("simulator"), platform_dispute_fees()]
    for name in names:
        account_id = account_id_of(CALLER.shop_id, CALLER.mode, name.name, "EUR")
        row = await world.store.pool.fetchrow("SELECT name, kind FROM account WHERE account_id = $1", account_id)
        assert row is not None
        assert (row["name"], row["kind"]) == (name.name, name.kind)
    view = await the_dispute(world)
    assert view.dispute_id == dispute_id_of(CALLER.shop_id, CALLER.mode, "simulator", "dp_1")


async def test_a_replay_of_the_events_alone_makes_the_same_rows(world: World) -> None:
    """What 120_disputes.sql wrote can be made again from what it told."""
    taken, back = moved("df_1", -1000, 1500), moved("df_2", 1000)
    await hear(world, word("o1", evidence_due_at=START + timedelta(days=7), reason="fraudulent"))
    await hear(world, word("o1", DisputeStatus.UNDER_REVIEW, 2, taken))
    await hear(world, word("o1", DisputeStatus.WON, 3, taken, back))
    rows = await world.store.pool.fetch(
        "SELECT kind, payment.shop_id, payment.mode, payment_id, body::text AS body FROM event "
        "JOIN payment ON payment_id = subject_id WHERE kind LIKE 'dispute.%' "
        "ORDER BY (body ->> 'revision')::integer, event_id"
    )
    disputes: dict[str, dict[str, Any]] = {}
    movements: dict[str, dict[str, Any]] = {}
    for row in rows:
        body = msgspec.json.decode(row["body"])
        if row["kind"].startswith("dispute.funds"):
            movements[body["movement_id"]] = body
        else:
            disputes[body["dispute_id"]] = body
    stored = await world.store.pool.fetch("SELECT to_json(d)::text AS row FROM dispute AS d")
    for each in stored:
        row = msgspec.json.decode(each["row"])
        told = disputes.pop(row["dispute_id"])
        assert {name: told[name] for name in row if name in told} | {
            name: row[name] for name in ("payment_id", "shop_id", "mode")
        } == row
    stored = await world.store.pool.fetch("SELECT to_json(m)::text AS row FROM dispute_movement AS m")
    for each in stored:
        row = msgspec.json.decode(each["row"])
        told = movements.pop(row["movement_id"])
        assert {name: told[name] for name in row if name in told} | {"booked_at": row["booked_at"]} == row
    assert (disputes, movements) == ({}, {})


async def test_the_story_of_a_disputed_order_is_told_in_sentences(world: World) -> None:
    due = START + timedelta(days=7)
    taken = moved("df_1", -1085, 1500, "USD")
    await hear(world, word("o1", evidence_due_at=due, reason="fraudulent"))
    await hear(world, word("o1", DisputeStatus.LOST, 2, taken))
    view = await the_dispute(world)
    story = await explain(
        world.store,
        world.gateway.operations,
        print_id(DISPUTE, view.dispute_id),
        shop=None,
        mode=Mode.TEST,
        advise=dead_letters_of(world.gateway).advise,
        at=world.clock.now(),
    )
    told = {moment.text for moment in story.moments}
    answer_by = " It must be answered by 2026-03-08 12:00:00 UTC."
    assert told >= {
        f"simulator opened the dispute dp_1 about 10.00 EUR of order o1 (fraudulent): NEEDS_RESPONSE.{answer_by}",
        "simulator took 10.85 USD for the dispute dp_1 of order o1. The fee is 15.00 USD. The books have it.",
        "The dispute dp_1 of order o1 is lost: the buyer keeps the money.",
    }


async def test_the_application_role_writes_disputes_only_through_functions(world: World) -> None:
    await hear(world, word("o1"))
    for statement in (
        "UPDATE dispute SET status = 'WON'",
        "DELETE FROM dispute_movement",
        "INSERT INTO settled_movement VALUES (gen_random_uuid(), gen_random_uuid(), 1, '2026-01-01')",
        "UPDATE payment_order SET is_disputed = false",
        "SELECT take_named_movements('2026-01-01', '{}', '{}', '{}', '{}', '{}', '{}')",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await world.store.pool.execute(statement)


async def test_the_invariants_see_a_dispute_that_was_tampered_with(world: World, owner: asyncpg.Connection) -> None:
    await hear(world, word("o1", DisputeStatus.NEEDS_RESPONSE, 1, moved("df_1", -1000, 1500)))
    assert await world.violations() == {}
    for change, broken in (
        ("UPDATE dispute_movement SET gross_minor = -999", "dispute_money_equals_transfers"),
        ("UPDATE payment_order SET is_disputed = false", "disputed_orders_have_a_dispute"),
        ("DELETE FROM dispute_watch", "disputes_are_watched_while_open"),
    ):
        transaction = owner.transaction()
        await transaction.start()
        await owner.execute(change)
        assert await owner.fetch(world.store.invariants[broken]) != []
        await transaction.rollback()


def test_a_reference_of_the_tests_is_one() -> None:
    assert parse_id(OPERATION, reference_of("o1")) is not None
