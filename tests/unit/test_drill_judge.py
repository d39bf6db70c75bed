"""The judge of the drill: it proves a true story, and finds each lie that is planted in it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from coatcheck.drill.evidence import PspAction, PspBooks, PspCharge, Rows, printed
from coatcheck.drill.journal import Asked, Told
from coatcheck.drill.judge import Evidence, Verdict, judge
from coatcheck.drill.plan import GivesBack, Order
from coatcheck.drill.rebuild import Rebuilt
from coatcheck.ids import OPERATION, print_id

RECEIVABLE, PENDING, COMMISSION = UUID(int=91), UUID(int=92), UUID(int=93)
PAID, HELD, REFUSED = UUID(int=1), UUID(int=2), UUID(int=3)
REFUND, REFUND_OPERATION = UUID(int=11), UUID(int=12)
KINDS = {RECEIVABLE: "psp_receivable", PENDING: "seller_pending", COMMISSION: "platform_commission"}
NAMES = {RECEIVABLE: "psp:simulator:receivable", PENDING: "seller:s1:pending", COMMISSION: "platform:commission"}


def order_row(order_id: UUID, amount: int, status: str, **counts: int) -> dict[str, Any]:
    names = ("authorized_minor", "captured_minor", "refund_reserved_minor", "refunded_minor", "refund_commission_minor")
    return {
        "order_id": order_id,
        "payment_order_id": f"o{order_id.int}",
        "checkout_id": "c1",
        "on_failure": "keep",
        "seller_account": "s1",
        "currency": "EUR",
        "amount_minor": amount,
        "commission_minor": amount // 10,
        "status": status,
        "provider_reference": f"ch_{order_id.int}",
    } | {name: counts.get(name, 0) for name in names}


def transfer(amount: int, debit: UUID, credit: UUID, phase: str = "posted") -> dict[str, Any]:
    named = {"debit_account_id": str(debit), "credit_account_id": str(credit)}
    return {"amount_minor": amount, "phase": phase} | named


def accepted(order_id: UUID, amount: int) -> dict[str, Any]:
    return {"order_id": str(order_id), "amount_minor": amount, "status": "EXECUTING"}


def decided(order_id: UUID, status: str | None, *transfers: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"order_id": str(order_id), "status": status, "transfers": list(transfers)} | more


HELD_CHANGES = {"authorized_minor": 200, "captured_minor": 0, "reserved_minor": 0}
EVENTS: list[tuple[str, dict[str, Any]]] = [
    ("payment.accepted", {"orders": [accepted(PAID, 100), accepted(HELD, 200), accepted(REFUSED, 300)]}),
    (
        "order.succeeded",
        decided(PAID, "SUCCESS", transfer(90, RECEIVABLE, PENDING), transfer(10, RECEIVABLE, COMMISSION)),
    ),
    (
        "order.authorized",
        decided(
            HELD,
            "AUTHORIZED",
            transfer(180, RECEIVABLE, PENDING, "held"),
            transfer(20, RECEIVABLE, COMMISSION, "held"),
            changes=HELD_CHANGES,
        ),
    ),
    ("operation.rescheduled", {"order_id": str(REFUSED), "order_status": None, "status": "OPEN"}),
    ("order.failed", decided(REFUSED, "FAILED")),
    (
        "refund.requested",
        {"order_id": str(PAID), "refund_id": str(REFUND), "amount_minor": 40, "commission_minor": 4},
    ),
    (
        "refund.succeeded",
        decided(
            PAID,
            None,
            transfer(36, PENDING, RECEIVABLE),
            transfer(4, COMMISSION, RECEIVABLE),
            changes={"refunded_minor": 40},
            refund_id=str(REFUND),
            refund_status="SUCCEEDED",
        ),
    ),
]


def account_row(account_id: UUID, *counters: int) -> dict[str, Any]:
    names = ("debits_posted_minor", "credits_posted_minor", "debits_pending_minor", "credits_pending_minor")
    moved = {"moved_debit_minor": counters[0], "moved_credit_minor": counters[1]}
    about = {"account_id": account_id, "name": NAMES[account_id], "kind": KINDS[account_id], "currency": "EUR"}
    return about | dict(zip(names, counters, strict=True)) | moved


def rebuilt_of(events: list[tuple[str, dict[str, Any]]]) -> Rebuilt:
    rebuilt = Rebuilt()
    for kind, body in events:
        rebuilt.hear(kind, body)
    return rebuilt


def orders_asked() -> tuple[Order, ...]:
    return tuple(
        Order(f"o{order_id.int}", "s1", amount, amount // 10, "EUR", GivesBack.NOTHING)
        for order_id, amount in ((PAID, 100), (HELD, 200), (REFUSED, 300))
    )


def story() -> Evidence:
    """A story in which everything is true: one order paid and partly refunded, one held, one refused."""
    asked = Asked("c1", orders_asked(), "pay_1", {"o1": Told(["SUCCESS"]), "o3": Told(["FAILED"])}, is_answered=True)
    asked.refunds[printed("rf", REFUND)] = "SUCCEEDED"
    refund = {
        "refund_id": REFUND,
        "order_id": PAID,
        "amount_minor": 40,
        "commission_minor": 4,
        "status": "SUCCEEDED",
        "operation_id": REFUND_OPERATION,
    }
    counts = {"refund_reserved_minor": 40, "refunded_minor": 40, "refund_commission_minor": 4}
    rows = Rows(
        payments=1,
        orders=[
            order_row(PAID, 100, "SUCCESS", authorized_minor=100, captured_minor=100, **counts),
            order_row(HELD, 200, "AUTHORIZED", authorized_minor=200),
            order_row(REFUSED, 300, "FAILED"),
        ],
        refunds=[refund],
        undecided=[],
        accounts=[
            account_row(RECEIVABLE, 100, 40, 200, 0),
            account_row(PENDING, 36, 90, 0, 180),
            account_row(COMMISSION, 4, 10, 0, 20),
        ],
        rebuilt=rebuilt_of(EVENTS),
    )
    books = PspBooks(
        charges=[
            PspCharge("ch_1", "op_1", "succeeded", "EUR", 100, 100, 40),
            PspCharge("ch_2", "op_2", "authorized", "EUR", 200, 0, 0),
            PspCharge("ch_3", "op_3", "declined", "EUR", 300, 0, 0),
        ],
        actions=[PspAction("re_1", "refund", "ch_1", printed("op", REFUND_OPERATION), "succeeded", 40)],
        wrongs={"charged_twice": [], "done_twice": [], "over_captured": [], "over_refunded": []},
        faults={},
    )
    return Evidence(asked={"c1": asked}, rows=rows, books=books)


def test_a_true_story_is_proved() -> None:
    verdict = judge(story())
    assert verdict.findings == []
    assert verdict.is_ok
    assert verdict.proof(faults=5, kills=2) == (
        "PROOF payments=1 faults=5 kills=2 charged_twice=0 lost=0 over_refunded=0 overdrawn=0 unresolved=0 "
        "ledger_difference=0 replay_difference=0 ok=true"
    )


def test_a_drill_in_which_nothing_was_paid_proves_nothing() -> None:
    assert not Verdict().is_ok


def test_ids_are_printed_as_the_gateway_prints_them() -> None:
    some = UUID("0123456789abcdef0123456789abcdef")
    assert printed("op", some) == print_id(OPERATION, some)


Change = Callable[[Evidence], Evidence]


def with_books(**changes: Any) -> Change:
    return lambda told: replace(told, books=replace(told.books, **changes))


def with_rows(**changes: Any) -> Change:
    return lambda told: replace(told, rows=replace(told.rows, **changes))


def with_charge(place: int, **changes: Any) -> Change:
    def change(told: Evidence) -> Evidence:
        charges = list(told.books.charges)
        charges[place] = replace(charges[place], **changes)
        return replace(told, books=replace(told.books, charges=charges))

    return change


def one_more_charge(*columns: Any) -> Change:
    return lambda told: replace(
        told, books=replace(told.books, charges=[*told.books.charges, PspCharge("ch_9", "op_9", *columns)])
    )


def with_row(table: str, place: int, **changes: Any) -> Change:
    def change(told: Evidence) -> Evidence:
        rows = [dict(row) for row in getattr(told.rows, table)]
        rows[place] |= changes
        changed: dict[str, Any] = {table: rows}
        return replace(told, rows=replace(told.rows, **changed))

    return change


def told_as(name: str, *statuses: str) -> Change:
    def change(told: Evidence) -> Evidence:
        told.asked["c1"].told[name] = Told(list(statuses))
        return told

    return change


def refund_told_as(refund_id: str, status: str) -> Change:
    def change(told: Evidence) -> Evidence:
        told.asked["c1"].refunds[refund_id] = status
        return told

    return change


def never_answered(told: Evidence) -> Evidence:
    told.asked["c1"].is_answered = False
    return told


def with_events(events: list[tuple[str, dict[str, Any]]]) -> Change:
    return with_rows(rebuilt=rebuilt_of(events))


def wrong(name: str) -> Change:
    return with_books(wrongs={"charged_twice": [], "done_twice": [], "over_refunded": [], name: ["op_1"]})


UNDECIDED = {"operation_id": UUID(int=5), "order_id": HELD, "kind": "capture", "status": "OPEN", "cause": None}

LIES: list[tuple[str, Change]] = [
    # the same order charged again under another name, which the PSP's own books cannot know
    ("charged_twice", one_more_charge("succeeded", "EUR", 100, 100, 0)),
    ("charged_twice", one_more_charge("authorized", "EUR", 200, 0, 0)),
    ("charged_twice", wrong("charged_twice")),
    ("charged_twice", wrong("done_twice")),
    # SUCCESS here, nothing there; money there, none here; another sum there
    ("lost", with_charge(0, status="declined", captured_minor=0, refunded_minor=0)),
    ("lost", with_charge(2, status="succeeded", captured_minor=300)),
    ("lost", with_charge(2, status="authorized")),
    ("lost", with_charge(0, captured_minor=99)),
    ("lost", with_charge(0, refunded_minor=41)),
    ("lost", one_more_charge("succeeded", "EUR", 777, 777, 0)),
    ("lost", told_as("o1", "SUCCESS", "FAILED")),
    ("lost", told_as("o7", "SUCCESS")),
    ("lost", with_books(actions=[])),
    ("lost", refund_told_as("rf_nobody_knows", "SUCCEEDED")),
    ("over_refunded", wrong("over_refunded")),
    ("over_refunded", with_row("refunds", 0, amount_minor=101)),
    ("overdrawn", with_row("accounts", 1, kind="seller_available", credits_posted_minor=35, moved_credit_minor=35)),
    ("unresolved", with_rows(undecided=[UNDECIDED])),
    ("unresolved", with_row("orders", 2, status="EXECUTING")),
    ("unresolved", with_row("orders", 1, on_failure="all_or_nothing")),
    ("unresolved", with_charge(1, status="expired")),
    ("unresolved", never_answered),
    ("ledger_difference", with_row("accounts", 2, credits_posted_minor=11)),
    ("ledger_difference", with_row("accounts", 0, debits_pending_minor=199)),
    ("ledger_difference", with_row("accounts", 1, name="seller:another:pending")),
    ("ledger_difference", with_row("refunds", 0, commission_minor=5)),
    ("replay_difference", with_events(EVENTS[:-1])),
    ("replay_difference", with_events([EVENTS[0], *EVENTS[2:]])),
    ("replay_difference", with_events([*EVENTS, ("order.cancelled", decided(UUID(int=77), "CANCELLED"))])),
    ("replay_difference", with_row("orders", 1, authorized_minor=199)),
    ("replay_difference", with_row("refunds", 0, status="PENDING")),
]


@pytest.mark.parametrize(("name", "lie"), LIES, ids=[f"{name}-{place}" for place, (name, _) in enumerate(LIES)])
def test_each_planted_lie_is_counted_under_its_name(name: str, lie: Change) -> None:
    verdict = judge(lie(story()))
    assert verdict.counts[name] > 0, verdict
    assert not verdict.is_ok
    assert "ok=false" in verdict.proof(faults=0, kills=0)


@pytest.mark.parametrize(
    "lie",
    [
        with_row("orders", 0, seller_account="another"),
        with_row("orders", 0, commission_minor=11),
        with_books(faults={"webhook_forged_accepted": 1}),
        told_as("o3", "CANCELLED"),
        wrong("over_captured"),
    ],
)
def test_what_has_no_count_of_its_own_is_found_all_the_same(lie: Change) -> None:
    verdict = judge(lie(story()))
    assert verdict.findings_in_all > 0
    assert not verdict.is_ok


def test_an_all_or_nothing_checkout_that_kept_a_part_is_found() -> None:
    told = story()
    for place in range(3):
        told = with_row("orders", place, on_failure="all_or_nothing")(told)
    assert any("keeps the money of some" in finding for finding in judge(told).findings)


def test_A9_a_success_that_came_late_may_follow_a_failure() -> None:
    late = [(kind if kind != "order.succeeded" else "order.succeeded_late", body) for kind, body in EVENTS]
    told = told_as("o1", "FAILED", "SUCCESS")
    assert judge(with_events(late)(told(story()))).is_ok
    assert not judge(told(story())).is_ok


def test_D6_a_refund_that_came_back_may_follow_one_that_succeeded() -> None:
    returned = decided(
        PAID,
        None,
        transfer(36, RECEIVABLE, PENDING),
        transfer(4, RECEIVABLE, COMMISSION),
        changes={"refunded_minor": -40, "reserved_minor": -40, "commission_minor": -4},
        refund_id=str(REFUND),
        refund_status="FAILED",
    )
    told = with_events([*EVENTS, ("refund.returned", returned)])(story())
    none = {"refund_reserved_minor": 0, "refunded_minor": 0, "refund_commission_minor": 0}
    told = with_row("orders", 0, **none)(with_row("refunds", 0, status="FAILED")(told))
    accounts = [
        account_row(RECEIVABLE, 140, 40, 200, 0),
        account_row(PENDING, 36, 126, 0, 180),
        account_row(COMMISSION, 4, 14, 0, 20),
    ]
    actions = [replace(told.books.actions[0], status="failed")]
    told = with_charge(0, refunded_minor=0)(with_books(actions=actions)(with_rows(accounts=accounts)(told)))
    assert judge(told).findings == []


def test_a_rebuild_does_not_mind_in_which_order_clocks_put_the_events() -> None:
    captured = decided(
        HELD,
        "SUCCESS",
        transfer(180, RECEIVABLE, PENDING, "captured"),
        transfer(20, RECEIVABLE, COMMISSION, "captured"),
        changes={"captured_minor": 200},
    )
    events = [*EVENTS, ("order.succeeded", captured)]
    backwards = rebuilt_of([events[0], *reversed(events[1:])])
    assert backwards.orders == rebuilt_of(events).orders
    assert backwards.accounts == rebuilt_of(events).accounts
    assert backwards.refunds == rebuilt_of(events).refunds
    assert backwards.orders[str(HELD)].status == "SUCCESS"


def test_two_installations_are_judged_as_one() -> None:
    verdict = judge(story())
    verdict.add(judge(wrong("charged_twice")(story())))
    assert (verdict.payments, verdict.counts["charged_twice"], verdict.findings_in_all) == (2, 1, 1)
    assert not verdict.is_ok
