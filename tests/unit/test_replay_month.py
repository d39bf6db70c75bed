"""What the month's events come to, in whatever order: payouts, adoptions, disputes, breaks and wallets."""

from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any
from uuid import UUID

import msgspec
import pytest

from coatcheck.audit.replay.bodies import Event
from coatcheck.audit.replay.fold import Told, fold
from coatcheck.audit.replay.rows import AdoptedPaymentRow, OperationRow, OrderRow, PaymentRow, PayoutRow
from coatcheck.audit.replay.subjects.adopted_payouts import AdoptedPayoutRow
from coatcheck.audit.replay.subjects.breaks import BreakRow
from coatcheck.audit.replay.subjects.disputes import DisputeRow
from coatcheck.audit.replay.subjects.payees import ItemRow, RunRow, ScheduleMoved
from coatcheck.audit.replay.subjects.wallets import PartTold, ReadingRow, WalletTold
from coatcheck.events import EventKind

SHOP, SUBJECT, ONE, OTHER, ACT = (UUID(int=number) for number in range(1, 6))
START = datetime(2026, 3, 1, 12, tzinfo=UTC)
_ids = iter(range(1000, 10**9))


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def event(kind: EventKind, when: datetime = START, /, **body: Any) -> Event:
    return Event(SUBJECT, UUID(int=next(_ids)), kind, SHOP, "test", when, msgspec.json.encode(body).decode())


def told(*events: Event) -> Told:
    """Fold events in every order; it must not matter."""
    results = [fold(order) for order in permutations(events)]
    for result in results:
        assert sorted(map(repr, result.rows)) == sorted(map(repr, results[0].rows))
        assert len(result.findings) == len(results[0].findings)
    return results[0]


def the(result: Told, kind: type[Any]) -> Any:
    (row,) = [row for row in result.rows if type(row) is kind]
    return row


def requested() -> Event:
    body = {"payout_id": SUBJECT, "operation_id": ACT, "seller_account": "s1", "amount_minor": 400, "currency": "EUR"}
    more = {"provider": "simulator", "destination": "dest_ok", "key": "p1", "request_digest": "0102", "run_id": None}
    return event(EventKind.PAYOUT_REQUESTED, at(9), **body, **more, first_sent_at=None)


def decision(kind: EventKind, when: datetime, attempt: int, code: str | None = None) -> Event:
    outcome, status = "DECLINED" if code else "APPROVED", kind.removeprefix("payout.").upper()
    body = {"operation_id": ACT, "order_id": SUBJECT, "attempt": attempt, "outcome": outcome, "status": status}
    return event(kind, when, **body, provider_reference="po_1", decline_code=code)


def test_a_payout_goes_the_way_of_its_operation_s_attempts() -> None:
    claimed = event(
        EventKind.OPERATION_CLAIMED,
        at(1),
        operation_id=ACT,
        order_id=SUBJECT,
        attempt=2,
        forgets_cause=False,
        first_sent_at=at(0),
    )
    reopened = event(
        EventKind.OPERATION_REOPENED,
        at(8),
        operation_id=ACT,
        order_id=SUBJECT,
        attempt=3,
        why="news",
        first_sent_at=at(0),
    )
    paid = decision(EventKind.PAYOUT_PAID, at(5), 2)
    back = decision(EventKind.PAYOUT_RETURNED, at(2), 3, "bank_returned")
    result = told(requested(), claimed, paid, reopened, back)
    payout, operation = the(result, PayoutRow), the(result, OperationRow)
    assert (payout.status, payout.decided_at, payout.decline_code) == ("RETURNED", at(2), "bank_returned")
    assert (payout.provider_reference, payout.request_digest, payout.created_at) == ("po_1", b"\x01\x02", at(9))
    assert (operation.kind, operation.order_id, operation.payment_id) == ("payout", SUBJECT, SUBJECT)
    assert (operation.status, operation.attempt, operation.target_reference) == ("DECLINED", 3, "dest_ok")
    assert result.findings == []


def test_what_the_states_of_a_payout_do_not_allow_was_not_taken() -> None:
    failed = decision(EventKind.PAYOUT_FAILED, at(5), 1, "closed")
    late = decision(EventKind.PAYOUT_PAID, at(6), 2)
    assert the(told(requested(), failed, late), PayoutRow).status == "FAILED"
    assert len(told(failed).findings) == 1
    assert [finding.why for finding in told(requested(), requested()).findings] == ["the payment was accepted before"]


def taken_over(when: datetime = START, **more: Any) -> Event:
    body = msgspec.json.decode(requested().body) | {"request_digest": "", "provider_reference": "po_1", "by": "ada"}
    body |= {"ahead_minor": 300, "created_at": at(-90), "first_sent_at": at(-90), "why": "after a restore"}
    return event(EventKind.PAYOUT_ADOPTED, when, **(body | more))


def test_an_adopted_payout_is_what_the_psp_has_had_since_then() -> None:
    again = event(EventKind.PAYOUT_RECOGNISED, at(-5), payout_id=SUBJECT, request_digest="0a0b")
    for events in ((taken_over(), again), (again, taken_over())):
        result = told(*events)
        payout, operation, row = (the(result, kind) for kind in (PayoutRow, OperationRow, AdoptedPayoutRow))
        assert result.findings == []
        assert (payout.status, payout.created_at, payout.request_digest) == ("PENDING", at(-90), b"\x0a\x0b")
        assert (operation.status, operation.cause, operation.created_at) == ("PENDING", "after a restore", at(-90))
        assert (operation.first_sent_at, operation.provider_reference) == (at(-90), "po_1")
        assert row == AdoptedPayoutRow(SUBJECT, 300, START, "ada", at(-5))
    assert len(told(again).findings) == 1
    assert [finding.why for finding in told(requested(), taken_over()).findings] == ["the payment was accepted before"]
    assert the(told(taken_over()), AdoptedPayoutRow).recognised_at is None


def adopted(order: UUID, *order_ids: UUID, when: datetime = START) -> Event:
    operation = {"operation_id": UUID(int=order.int + 100), "kind": "charge", "provider_reference": "ch_1"}
    told_order = {"order_id": order, "payment_order_id": "o", "seller_account": "s1", "amount_minor": 1000}
    told_order |= {"commission_minor": 0, "currency": "EUR", "provider": "simulator", "status": "PENDING"}
    told_order |= {"created_at": at(-90), "operation": operation | {"first_sent_at": at(-90)}}
    body = {"payment_id": SUBJECT, "checkout_id": "c1", "by": "ada", "why": "a file has it", "capture": "automatic"}
    more = {"on_failure": "keep", "created_at": at(-90), "order_ids": order_ids, "orders": [told_order]}
    return event(EventKind.PAYMENT_ADOPTED, when, **body, **more)


@pytest.mark.parametrize("second_at", [-5, 5])
def test_an_adopted_payment_is_all_that_its_adoptions_have_told(second_at: float) -> None:
    result = told(adopted(OTHER, OTHER), adopted(ONE, OTHER, ONE, when=at(second_at)))
    payment = the(result, PaymentRow)
    assert (payment.order_ids, payment.created_at, payment.request_digest) == ([OTHER, ONE], at(-90), b"")
    assert the(result, AdoptedPaymentRow) == AdoptedPaymentRow(SUBJECT, START, "ada", None)
    operations = [row for row in result.rows if isinstance(row, OperationRow)]
    assert {(row.status, row.cause, row.body) for row in operations} == {("PENDING", "a file has it", b"")}


def test_a_doubted_operation_may_have_been_sent() -> None:
    doubted = {"operation_id": UUID(int=ONE.int + 100), "order_id": ONE, "attempt": 2, "first_sent_at": at(-3)}
    claimed = {"operation_id": UUID(int=ONE.int + 100), "order_id": ONE, "attempt": 2, "forgets_cause": False}
    claim = event(EventKind.OPERATION_CLAIMED, at(1), **claimed, first_sent_at=None)
    result = told(adopted(ONE, ONE), claim, event(EventKind.OPERATION_DOUBTED, at(0), **doubted))
    assert the(result, OperationRow).first_sent_at == at(-3)


def test_disputes_and_their_ends_take_turns() -> None:
    accepted = adopted(ONE, ONE)
    begins = [event(EventKind.ORDER_DISPUTED, at(n), order_id=ONE) for n in (3, 1)]
    ends = [event(EventKind.ORDER_UNDISPUTED, at(n), order_id=ONE) for n in (2, 0)]
    assert the(told(accepted, *begins, ends[0]), OrderRow).is_disputed is True
    assert the(told(accepted, *begins, *ends), OrderRow).is_disputed is False


def dispute(kind: EventKind, revision: int, status: str) -> Event:
    body = {"dispute_id": ONE, "order_id": OTHER, "provider": "simulator", "provider_reference": "dp_1"}
    more = {"amount_minor": 1000, "currency": "EUR", "reason": None, "evidence_due_at": None, "word_no": None}
    times = {"opened_at": START, "changed_at": at(-revision)}
    return event(kind, at(-revision), **body, **more, **times, status=status, revision=revision)


def test_a_dispute_is_what_its_last_revision_says() -> None:
    opened, won = dispute(EventKind.DISPUTE_OPENED, 1, "NEEDS_RESPONSE"), dispute(EventKind.DISPUTE_WON, 2, "WON")
    again = dispute(EventKind.DISPUTE_REOPENED, 3, "NEEDS_RESPONSE")
    row = the(told(opened, won, again), DisputeRow)
    assert (row.revision, row.status, row.payment_id, row.mode) == (3, "NEEDS_RESPONSE", SUBJECT, "test")
    assert len(told(opened, dispute(EventKind.DISPUTE_LOST, 1, "LOST")).findings) == 1


def test_a_break_goes_along_with_its_batch_and_then_closes() -> None:
    body: dict[str, Any] = dict.fromkeys(("line_no", "operation_id", "expected_minor", "stated_minor"))
    body |= {"break_id": SUBJECT, "shop_id": SHOP, "mode": "test", "provider": "simulator", "kind": "unexplained"}
    body |= {"batch": "st_1", "currency": "EUR", "suspense_minor": 5, "detail": "x", "opened_at": START}
    is_open: dict[str, Any] = dict.fromkeys(("closed_at", "closed_by", "reason"))
    is_closed = {"closed_at": at(-9), "closed_by": "ada and grace", "reason": "found"}
    versions = [(ONE, 0, is_open), (OTHER, 1, is_open), (OTHER, 1, is_closed)]
    events = [
        event(EventKind.BREAK_RECORDED, at(-n), **body, file_id=file_id, moved=moved, **state)
        for n, (file_id, moved, state) in enumerate(versions)
    ]
    row = the(told(*events), BreakRow)
    assert (row.file_id, row.moved, row.closed_by) == (OTHER, 1, "ada and grace")


def test_a_run_is_proposed_approved_and_finished() -> None:
    item = {"seller_account": "s1", "payout_id": OTHER, "planned_minor": 810}
    body = {"run_id": SUBJECT, "schedule": "0 6 * * *", "currency": "EUR", "period": at(-60), "following": at(1380)}
    more = {"sellers": ["s1", "s2"], "total_minor": 810, "usual_minor": None, "status": "WAITING", "by": "gateway"}
    proposed = event(EventKind.PAYOUT_RUN_PROPOSED, at(0), **body, **more, items=[item])
    approved = event(EventKind.PAYOUT_RUN_APPROVED, at(9), status="APPROVED", by="grace")
    finished = event(EventKind.PAYOUT_RUN_FINISHED, at(5), run_id=SUBJECT)
    late = event(EventKind.PAYOUT_RUN_SKIPPED, at(6), seller_account="s3", outcome="too_late", next_at=at(1380))
    result = told(proposed, approved, finished, late)
    row = the(result, RunRow)
    assert (row.status, row.decided_by, row.decided_at, row.finished_at) == ("FINISHED", "grace", at(9), at(5))
    assert the(result, ItemRow).outcome is None
    moved = [row.seller_account for row in result.rows if isinstance(row, ScheduleMoved)]
    assert sorted(moved) == ["s1", "s2", "s3"]
    assert len(told(approved, finished).findings) == 2


def test_a_part_that_was_settled_before_it_was_decided_gets_its_amount() -> None:
    part = {"operation_id": ONE, "pending_id": OTHER, "available_id": ACT, "reserve_id": SHOP, "seller_account": "s1"}
    part |= {
        "currency": "EUR",
        "settled_at": START,
        "due_at": at(9),
        "reserve_basis_points": 0,
        "reserve_due_at": at(9),
    }
    read = {"file_id": SUBJECT, "read_to": 7}
    first = event(EventKind.WALLET_SETTLED, at(1), **read, is_done=False, parts=[part | {"amount_minor": None}])
    later = event(EventKind.WALLET_SETTLED, at(0), **read, is_done=True, parts=[part | {"amount_minor": 900}])
    result = told(first, later)
    assert the(result, PartTold).amount_minor == 900
    assert the(result, ReadingRow) == ReadingRow(SUBJECT, 7, True)
    assert the(result, WalletTold).seller_account == "s1"
