"""The judge of the drill: it proves a true story, and finds each lie that is planted in it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from coatcheck.drill.evidence import PspAction, PspBooks, PspCharge, PspDispute, PspPayout, Rows, printed
from coatcheck.drill.journal import Asked, AskedPayout, Told
from coatcheck.drill.judge import Evidence, judge, judge_adopted
from coatcheck.drill.plan import Dispute, GivesBack, Order
from coatcheck.drill.rebuild import Rebuilt
from coatcheck.drill.verdict import Verdict
from coatcheck.ids import OPERATION, print_id

RECEIVABLE, PENDING, COMMISSION, AVAILABLE, TRANSIT, PAID_FROM, FEES, DISPUTE_FEES, ON_ITS_WAY, BANK = (
    UUID(int=number) for number in range(91, 101)
)
PAYOUT, PAYOUT_OPERATION = UUID(int=21), UUID(int=22)
PAID, HELD, REFUSED = UUID(int=1), UUID(int=2), UUID(int=3)
REFUND, REFUND_OPERATION = UUID(int=11), UUID(int=12)
NAMES = {
    RECEIVABLE: ("psp:simulator:receivable", "psp_receivable"),
    PENDING: ("seller:s1:pending", "seller_pending"),
    COMMISSION: ("platform:commission", "platform_commission"),
    AVAILABLE: ("seller:s1:available", "seller_available"),
    TRANSIT: ("payouts:in_transit:s1", "payouts_in_transit"),
    PAID_FROM: ("bank:simulator", "bank"),
    FEES: ("platform:psp_fees", "platform_psp_fees"),
    DISPUTE_FEES: ("platform:dispute_fees", "platform_dispute_fees"),
    ON_ITS_WAY: ("psp:simulator:payouts_in_transit", "psp_payouts_in_transit"),
    BANK: ("bank:DRILLEUR", "bank"),
}


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
    (
        "dispute.funds_withdrawn",
        {
            "order_id": str(PAID),
            "transfers": [transfer(10, PENDING, RECEIVABLE), transfer(3, DISPUTE_FEES, RECEIVABLE)],
        },
    ),
    ("settlement.booked", {"transfers": [transfer(2, FEES, RECEIVABLE), transfer(45, ON_ITS_WAY, RECEIVABLE)]}),
    ("settlement.booked", {"transfers": [transfer(45, BANK, ON_ITS_WAY)]}),
    ("wallet.released", {"transfers": [transfer(30, PENDING, AVAILABLE)]}),
    ("payout.requested", {"payout_id": str(PAYOUT), "transfers": [transfer(30, AVAILABLE, TRANSIT)]}),
    ("operation.rescheduled", {"order_id": str(PAYOUT), "order_status": None, "status": "OPEN"}),
    ("payout.paid", decided(PAYOUT, "PAID", transfer(30, TRANSIT, PAID_FROM), payout_id=str(PAYOUT))),
]
ACCOUNTS = {
    RECEIVABLE: (100, 100, 200, 0),
    PENDING: (76, 90, 0, 180),
    COMMISSION: (4, 10, 0, 20),
    AVAILABLE: (30, 30, 0, 0),
    TRANSIT: (30, 30, 0, 0),
    PAID_FROM: (0, 30, 0, 0),
    FEES: (2, 0, 0, 0),
    DISPUTE_FEES: (3, 0, 0, 0),
    ON_ITS_WAY: (45, 45, 0, 0),
    BANK: (45, 0, 0, 0),
}


def account_row(account_id: UUID, *counters: int) -> dict[str, Any]:
    names = ("debits_posted_minor", "credits_posted_minor", "debits_pending_minor", "credits_pending_minor")
    moved = {"moved_debit_minor": counters[0], "moved_credit_minor": counters[1]}
    name, kind = NAMES[account_id]
    about = {"account_id": account_id, "name": name, "kind": kind, "currency": "EUR"}
    return about | dict(zip(names, counters, strict=True)) | moved


def rebuilt_of(events: list[tuple[str, dict[str, Any]]]) -> Rebuilt:
    rebuilt = Rebuilt()
    for kind, body in events:
        rebuilt.hear(kind, body)
    return rebuilt


def orders_asked() -> tuple[Order, ...]:
    return tuple(
        Order(f"o{order_id.int}", "s1", amount, amount // 10, "EUR", GivesBack.NOTHING, Dispute.NONE)
        for order_id, amount in ((PAID, 100), (HELD, 200), (REFUSED, 300))
    )


def payout_row() -> dict[str, Any]:
    whose = {"payout_id": PAYOUT, "operation_id": PAYOUT_OPERATION, "key": "k1", "seller_account": "s1"}
    return whose | {"currency": "EUR", "amount_minor": 30, "status": "PAID"}


def dispute_row() -> dict[str, Any]:
    about = {"dispute_id": UUID(int=31), "order_id": PAID, "provider_reference": "dp_1"}
    return about | {"status": "LOST", "taken_minor": 10, "fee_minor": 3}


def story() -> Evidence:
    """A story in which everything is true: one order paid, partly refunded and disputed, one held, one refused.

    The PSP has settled with us, the bank has said so, and the seller was paid what had matured.
    """
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
        payouts=[payout_row()],
        disputes=[dispute_row()],
        breaks=[],
        evidence_waiting=0,
        undecided=[],
        accounts=[account_row(account_id, *counters) for account_id, counters in ACCOUNTS.items()],
        rebuilt=rebuilt_of(EVENTS),
    )
    books = PspBooks(
        charges=[
            PspCharge("ch_1", "op_1", "succeeded", "EUR", 100, 100, 40),
            PspCharge("ch_2", "op_2", "authorized", "EUR", 200, 0, 0),
            PspCharge("ch_3", "op_3", "declined", "EUR", 300, 0, 0),
        ],
        actions=[PspAction("re_1", "refund", "ch_1", printed("op", REFUND_OPERATION), "succeeded", 40)],
        disputes=[PspDispute("dp_1", "ch_1", "EUR", "lost", 10, 3)],
        payouts=[PspPayout("po_1", printed("op", PAYOUT_OPERATION), "dest_ok.s1", "EUR", 30, "paid")],
        fees={"EUR": 2},
        paid_out={"EUR": 45},
        wrongs={"charged_twice": [], "done_twice": [], "over_captured": [], "over_refunded": [], "paid_out_twice": []},
        faults={},
    )
    asked_payouts = {"k1": AskedPayout("s1", "EUR", {printed("out", PAYOUT)})}
    return Evidence(asked={"c1": asked}, asked_payouts=asked_payouts, rows=rows, books=books)


def test_a_true_story_is_proved() -> None:
    verdict = judge(story())
    assert verdict.findings == []
    assert verdict.is_ok
    assert verdict.proof(faults=5, kills=2) == (
        "PROOF payments=1 faults=5 kills=2 charged_twice=0 lost=0 over_refunded=0 overdrawn=0 unresolved=0 "
        "ledger_difference=0 replay_difference=0 payouts_twice=0 breaks_open=0 clearing_open=0 payouts=1 disputes=1 "
        "adopted=0 ok=true"
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


def one_more_payout(**changes: Any) -> Change:
    def change(told: Evidence) -> Evidence:
        (payout,) = told.books.payouts
        return replace(told, books=replace(told.books, payouts=[payout, replace(payout, payout_id="po_9", **changes)]))

    return change


def with_payout(**changes: Any) -> Change:
    def change(told: Evidence) -> Evidence:
        return replace(told, books=replace(told.books, payouts=[replace(told.books.payouts[0], **changes)]))

    return change


def with_dispute(**changes: Any) -> Change:
    def change(told: Evidence) -> Evidence:
        return replace(told, books=replace(told.books, disputes=[replace(told.books.disputes[0], **changes)]))

    return change


def payout_told_as(told_id: str) -> Change:
    return lambda told: replace(told, asked_payouts={"k1": AskedPayout("s1", "EUR", {told_id})})


UNDECIDED = {"operation_id": UUID(int=5), "order_id": HELD, "kind": "capture", "status": "OPEN", "cause": None}

LIES: list[tuple[str, Change]] = [
    # the same order charged again under another name, which the PSP's own books cannot know
    ("charged_twice", one_more_charge("succeeded", "EUR", 100, 100, 0)),
    ("charged_twice", one_more_charge("authorized", "EUR", 200, 0, 0)),
    ("charged_twice", wrong("charged_twice")),
    ("charged_twice", wrong("done_twice")),
    ("payouts_twice", wrong("paid_out_twice")),
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
    ("unresolved", with_rows(evidence_waiting=1)),
    # a payout made twice, under its own name or another; of another sum; to somebody else; forgotten on one side
    ("payouts_twice", one_more_payout()),
    ("lost", one_more_payout(reference="op_of_nobody")),
    ("lost", with_payout(amount_minor=31)),
    ("lost", with_payout(destination="dest_ok.s2")),
    ("lost", with_payout(status="failed")),
    ("lost", with_payout(status="returned")),
    ("lost", with_books(payouts=[])),
    ("lost", with_row("payouts", 0, status="FAILED")),
    ("lost", payout_told_as("out_nobody_knows")),
    ("ledger_difference", one_more_payout(reference="op_of_nobody")),
    # a dispute that one side does not know, or of another sum, or that ended otherwise
    ("lost", with_rows(disputes=[])),
    ("lost", with_books(disputes=[])),
    ("lost", with_dispute(taken_minor=11)),
    ("lost", with_dispute(fee_minor=4)),
    ("lost", with_dispute(status="won")),
    ("ledger_difference", with_books(disputes=[])),
    # files: another fee or payout than the books have, and what nobody has explained
    ("ledger_difference", with_books(fees={"EUR": 3})),
    ("ledger_difference", with_books(paid_out={"EUR": 44})),
    ("breaks_open", with_rows(breaks=[{"kind": "status", "batch": "st_1", "line_no": 3, "detail": "charge ch_1"}])),
    ("clearing_open", with_row("accounts", 0, credits_posted_minor=99, moved_credit_minor=99)),
    ("clearing_open", with_row("accounts", 8, credits_posted_minor=44, moved_credit_minor=44)),
    ("ledger_difference", with_row("accounts", 2, credits_posted_minor=11)),
    ("ledger_difference", with_row("accounts", 0, debits_pending_minor=199)),
    ("ledger_difference", with_row("accounts", 1, name="seller:another:pending")),
    ("ledger_difference", with_row("refunds", 0, commission_minor=5)),
    ("replay_difference", with_events(EVENTS[:-1])),
    ("replay_difference", with_events([each for each in EVENTS if each[0] != "wallet.released"])),
    ("replay_difference", with_events([each for each in EVENTS if each[0] != "payout.requested"])),
    ("replay_difference", with_row("payouts", 0, status="FAILED")),
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


@pytest.mark.parametrize("forgotten", ["orders", "refunds", "payouts"])
def test_G16_what_restored_books_have_not_adopted_is_lost(forgotten: str) -> None:
    told = story()
    assert judge_adopted(told.rows, told.books).findings == []
    nothing: dict[str, Any] = {forgotten: []}
    assert judge_adopted(replace(told.rows, **nothing), told.books).counts["lost"] > 0


def test_what_is_found_later_is_told_with_when() -> None:
    verdict, later = judge(story()), judge(with_books(payouts=[])(story()))
    verdict.add_later(later, "after the amnesia")
    assert not verdict.is_ok
    assert verdict.counts["lost"] == 1
    assert verdict.payments == 1
    assert any(finding.startswith("after the amnesia: lost: ") for finding in verdict.findings)


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
    settled = {"transfers": [transfer(40, ON_ITS_WAY, RECEIVABLE), transfer(40, BANK, ON_ITS_WAY)]}
    told = with_events([*EVENTS, ("refund.returned", returned), ("settlement.booked", settled)])(story())
    none = {"refund_reserved_minor": 0, "refunded_minor": 0, "refund_commission_minor": 0}
    told = with_row("orders", 0, **none)(with_row("refunds", 0, status="FAILED")(told))
    counters = ACCOUNTS | {
        RECEIVABLE: (140, 140, 200, 0),
        PENDING: (76, 126, 0, 180),
        COMMISSION: (4, 14, 0, 20),
        ON_ITS_WAY: (85, 85, 0, 0),
        BANK: (85, 0, 0, 0),
    }
    accounts = [account_row(account_id, *moved) for account_id, moved in counters.items()]
    actions = [replace(told.books.actions[0], status="failed")]
    paid_back = with_books(actions=actions, paid_out={"EUR": 85})
    told = with_charge(0, refunded_minor=0)(paid_back(with_rows(accounts=accounts)(told)))
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
    first = [each for each in events if each[0] in ("payment.accepted", "payout.requested")]
    backwards = rebuilt_of([*first, *[each for each in reversed(events) if each not in first]])
    assert backwards.orders == rebuilt_of(events).orders
    assert backwards.accounts == rebuilt_of(events).accounts
    assert backwards.refunds == rebuilt_of(events).refunds
    assert backwards.payouts == rebuilt_of(events).payouts
    assert backwards.orders[str(HELD)].status == "SUCCESS"


def test_two_installations_are_judged_as_one() -> None:
    verdict = judge(story())
    verdict.add(judge(wrong("charged_twice")(story())))
    assert (verdict.payments, verdict.counts["charged_twice"], verdict.findings_in_all) == (2, 1, 1)
    assert not verdict.is_ok
