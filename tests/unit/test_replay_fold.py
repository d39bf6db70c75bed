"""What the events of one payment come to, case by case; and that docs/replay.md speaks of every table and column."""

import re
from datetime import UTC, datetime, timedelta
from itertools import permutations
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest

from coatcheck.audit.replay.bodies import KINDS, Event
from coatcheck.audit.replay.books import TABLES
from coatcheck.audit.replay.fold import Told, fold, read
from coatcheck.audit.replay.rows import AccountRow, CheckoutDecisionRow, OperationRow, OrderRow, PaymentRow, RefundRow
from coatcheck.audit.replay.subjects import SUBJECTS
from coatcheck.audit.replay.tables import BALANCE
from coatcheck.events import EventKind
from coatcheck.store.sql_files import sql_files

PAGE = Path(__file__).parents[2] / "docs/replay.md"
SHOP, PAYMENT, ORDER, FIRST, VOID, REFUND, ACT = (UUID(int=number) for number in range(1, 8))
START = datetime(2026, 3, 1, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


_ids = iter(range(1000, 10**9))


def event(kind: EventKind | str, when: datetime = START, /, **body: Any) -> Event:
    text = msgspec.json.encode(body).decode()
    return Event(PAYMENT, UUID(int=next(_ids)), str(kind), SHOP, "test", when, text)


def accepted(when: datetime = START, *, is_blocked: bool = False, **more: Any) -> Event:
    operation = None if is_blocked else {"operation_id": FIRST, "body": b"the body"}
    order = {
        "order_id": ORDER,
        "payment_order_id": "o1",
        "seller_account": "acme",
        "amount_minor": 1000,
        "commission_minor": 100,
        "currency": "EUR",
        "provider": "psp",
        "status": "FAILED" if is_blocked else "EXECUTING",
        "decline_code": "risk_blocked" if is_blocked else None,
        "operation": operation,
    }
    body = {
        "payment_id": PAYMENT,
        "checkout_id": "c1",
        "request_digest": b"\x01\x02",
        "buyer_id": UUID(int=30),
        "metadata": None,
        "capture": "automatic",
        "on_failure": "keep",
        "return_url": None,
        "risk": {"decision": "ALLOW", "signals": [], "subjects": [UUID(int=31)]},
        "orders": [order],
    }
    return event(EventKind.PAYMENT_ACCEPTED, when, **body | more)


def decided(kind: EventKind, when: datetime, **more: Any) -> Event:
    body = {
        "operation_id": FIRST,
        "order_id": ORDER,
        "attempt": 1,
        "outcome": "APPROVED",
        "status": None,
        "provider_reference": None,
        "decline_code": None,
        "transfers": [],
    }
    return event(kind, when, **body | more)


def changes(**counts: int) -> dict[str, int]:
    names = ("authorized_minor", "captured_minor", "reserved_minor", "refunded_minor", "commission_minor")
    return dict.fromkeys(names, 0) | counts


def postponed(attempt: int, when: datetime, **more: Any) -> Event:
    body = {
        "operation_id": FIRST,
        "order_id": ORDER,
        "attempt": attempt,
        "outcome": "UNKNOWN",
        "status": "OPEN",
        "order_status": None,
        "costs": True,
        "provider_reference": None,
        "redirect_url": None,
        "cause": f"cause {attempt}",
        "first_sent_at": START,
    }
    return event(EventKind.OPERATION_RESCHEDULED, when, **body | more)


def claimed(attempt: int, when: datetime, *, first_sent_at: datetime | None = START, forgets: bool = False) -> Event:
    body = {"operation_id": FIRST, "order_id": ORDER, "attempt": attempt, "holder": UUID(int=40)}
    return event(EventKind.OPERATION_CLAIMED, when, **body, forgets_cause=forgets, first_sent_at=first_sent_at)


def reopened(attempt: int, when: datetime, operation_id: UUID = FIRST) -> Event:
    body = {"operation_id": operation_id, "order_id": ORDER, "attempt": attempt, "kind": "charge", "why": "news"}
    return event(EventKind.OPERATION_REOPENED, when, **body, first_sent_at=START)


def void_requested(when: datetime) -> Event:
    made = {
        "operation_id": VOID,
        "order_id": ORDER,
        "kind": "void",
        "amount_minor": 1000,
        "is_final": True,
        "target_reference": "ch_1",
        "first_sent_at": when,
    }
    return event(EventKind.CANCEL_REQUESTED, when, payment_id=PAYMENT, key="v1", operations=[made])


def void_ends(when: datetime, attempt: int | None) -> Event:
    """The void's answer; `attempt`: of the charge that it has ended, None where that was decided already."""
    more = {} if attempt is None else {"ended_attempt": attempt}
    return decided(
        EventKind.ORDER_CANCELLED, when, operation_id=VOID, status="CANCELLED", changes=changes(), ends=FIRST, **more
    )


def told(*events: Event) -> Told:
    """Fold events in every order, or in many; it must not matter."""
    results = [fold(order) for order, _ in zip(permutations(events), range(200), strict=False)]
    for result in results:
        assert sorted(map(repr, result.rows)) == sorted(map(repr, results[0].rows))
    return results[0]


def first_of(result: Told) -> OperationRow:
    (row,) = [row for row in result.rows if isinstance(row, OperationRow) and row.operation_id == FIRST]
    return row


def order_of(result: Told) -> OrderRow:
    (row,) = [row for row in result.rows if isinstance(row, OrderRow)]
    return row


def test_a_charge_takes_the_whole_amount() -> None:
    done = decided(EventKind.ORDER_SUCCEEDED, at(2), status="SUCCESS", provider_reference="ch_1")
    result = told(accepted(), done)
    order, operation = order_of(result), first_of(result)
    assert (order.status, order.authorized_minor, order.captured_minor) == ("SUCCESS", 1000, 1000)
    assert (order.provider_reference, order.decided_at, order.decline_code) == ("ch_1", at(2), None)
    assert (operation.status, operation.decided_at, operation.kind) == ("APPROVED", at(2), "charge")
    assert (operation.body, operation.first_sent_at, operation.attempt) == (b"the body", START, 1)
    assert result.findings == []


def test_a_blocked_order_is_failed_from_the_start_and_has_no_operation() -> None:
    result = told(accepted(is_blocked=True))
    order = order_of(result)
    assert (order.status, order.decline_code, order.decided_at) == ("FAILED", "risk_blocked", START)
    assert not [row for row in result.rows if isinstance(row, OperationRow)]


@pytest.mark.parametrize(("capture", "on_failure"), [("manual", "keep"), ("automatic", "all_or_nothing")])
def test_what_is_not_taken_at_once_is_authorized_first(capture: str, on_failure: str) -> None:
    assert first_of(told(accepted(capture=capture, on_failure=on_failure))).kind == "authorize"


def test_json_is_kept_as_it_was_written() -> None:
    text = '{"b":1.0,"a":"\\u00fc"}'
    (row,) = [row for row in told(accepted(metadata=msgspec.Raw(text.encode()))).rows if isinstance(row, PaymentRow)]
    assert row.metadata == text
    (row,) = [row for row in told(accepted()).rows if isinstance(row, PaymentRow)]
    assert (row.metadata, row.risk_signals, row.request_digest) == (None, "[]", b"\x01\x02")


def test_attempts_are_in_the_order_of_their_numbers_whatever_the_clocks_say() -> None:
    """The second process's clock is a minute behind: its whole attempt seems to lie before the first one's end."""
    result = told(
        accepted(at(0)),
        postponed(1, at(1), provider_reference="first"),
        claimed(2, at(-59)),
        postponed(2, at(-58), provider_reference=None),
        claimed(3, at(5)),
        postponed(3, at(6), costs=False, status="UNRESOLVED"),
    )
    operation = first_of(result)
    assert (operation.attempt, operation.tries, operation.cause) == (3, 2, "cause 3")
    assert (operation.status, operation.provider_reference) == ("UNRESOLVED", "first")


def test_a_claim_keeps_or_forgets_why_nothing_was_decided() -> None:
    for forgets, cause in ((False, "cause 1"), (True, None)):
        operation = first_of(told(accepted(), postponed(1, at(1)), claimed(2, at(2), forgets=forgets)))
        assert (operation.cause, operation.status) == (cause, "OPEN")


def test_the_window_is_what_the_last_event_says_of_it() -> None:
    unsent = [accepted(), postponed(1, at(1), first_sent_at=None)]
    assert first_of(told(*unsent)).first_sent_at is None
    under_way = [*unsent, claimed(2, at(2), first_sent_at=None)]
    assert first_of(told(*under_way)).first_sent_at is None
    named = {"operation_id": FIRST, "order_id": ORDER, "attempt": 2}
    sending = event(EventKind.OPERATION_SENDING, at(2.5), **named, first_sent_at=at(2.5), found=None)
    leaving = first_of(told(sending, *under_way))
    assert (leaving.first_sent_at, leaving.cause) == (at(2.5), None)
    ended = first_of(told(*under_way, postponed(2, at(3), first_sent_at=None), sending))
    assert (ended.first_sent_at, ended.cause) == (None, "cause 2")


def test_an_object_of_the_provider_s_is_known_before_the_charge_is_decided() -> None:
    made = {"operation_id": FIRST, "order_id": ORDER, "attempt": 1, "provider_reference": "pi_1"}
    registered = event(EventKind.OPERATION_REGISTERED, at(9), **made)
    assert first_of(told(accepted(), registered)).provider_reference == "pi_1"
    result = told(accepted(), registered, postponed(1, at(1), provider_reference="pi_2"))
    assert first_of(result).provider_reference == "pi_2"
    assert order_of(result).provider_reference is None


def test_a_page_waits_for_the_buyer() -> None:
    waits = postponed(1, at(1), order_status="PENDING", status="PENDING", redirect_url="https://psp.example/1")
    again = postponed(2, at(0), order_status="PENDING", status="PENDING", redirect_url=None)
    order = order_of(told(accepted(return_url="https://shop.example"), waits, claimed(2, at(0)), again))
    assert (order.status, order.redirect_url) == ("PENDING", "https://psp.example/1")
    done = decided(EventKind.ORDER_FAILED, at(-5), attempt=3, outcome="DECLINED", status="FAILED", decline_code="no")
    order = order_of(told(accepted(), waits, again, done))
    assert (order.status, order.decline_code, order.decided_at) == ("FAILED", "no", at(-5))


@pytest.mark.parametrize("void_at", [-60, 60])
def test_a_void_ends_a_charge_that_nobody_has_decided(void_at: float) -> None:
    waits = postponed(1, at(1), status="PENDING", order_status="PENDING", provider_reference="ch_1")
    result = told(accepted(), waits, void_requested(at(2)), claimed(2, at(3)), void_ends(at(void_at), 2))
    operation, order = first_of(result), order_of(result)
    assert (operation.status, operation.decline_code, operation.cause) == ("DECLINED", "cancelled", None)
    assert (operation.decided_at, operation.attempt) == (at(void_at), 2)
    assert (order.status, order.decided_at, order.acting) == ("CANCELLED", at(void_at), None)


@pytest.mark.parametrize("void_at", [-60, 60])
def test_what_a_void_has_ended_may_be_taken_all_the_same(void_at: float) -> None:
    ended = [accepted(), void_requested(at(2)), void_ends(at(void_at), 1), reopened(2, at(10))]
    operation = first_of(told(*ended))
    assert (operation.status, operation.decline_code, operation.cause) == ("PENDING", "cancelled", "news")
    late = decided(EventKind.ORDER_SUCCEEDED_LATE, at(5), attempt=2, status="SUCCESS", provider_reference="ch_1")
    result = told(*ended, late)
    assert first_of(result).status == "APPROVED"
    assert (order_of(result).status, order_of(result).decided_at) == ("SUCCESS", at(5))


@pytest.mark.parametrize("void_at", [-60, 60])
def test_a_void_that_is_answered_after_the_page_had_expired_ends_nothing(void_at: float) -> None:
    expired = decided(
        EventKind.ORDER_CANCELLED, at(5), outcome="DECLINED", status="CANCELLED", decline_code="page_expired"
    )
    result = told(accepted(), void_requested(at(2)), expired, void_ends(at(void_at), None))
    operation, order = first_of(result), order_of(result)
    assert (operation.decline_code, operation.decided_at) == ("page_expired", at(5))
    assert (order.status, order.decline_code, order.decided_at) == ("CANCELLED", None, at(void_at))
    again = [accepted(), void_requested(at(2)), expired, reopened(2, at(9))]
    operation = first_of(told(*again, void_ends(at(void_at), None)))
    assert (operation.status, operation.decline_code, operation.decided_at) == ("PENDING", "page_expired", at(5))
    operation = first_of(
        told(*again, void_ends(at(void_at), 2))
    )  # a file had it asked about while the void was under way
    assert (operation.status, operation.decline_code, operation.attempt) == ("DECLINED", "cancelled", 2)


def test_an_authorization_after_the_end_keeps_when_it_had_ended() -> None:
    given_up = decided(EventKind.ORDER_FAILED, at(9), outcome="DECLINED", status="FAILED", decline_code="no")
    late = decided(
        EventKind.ORDER_AUTHORIZED,
        at(1),
        attempt=2,
        status="AUTHORIZED",
        changes=changes(authorized_minor=1000),
        expires_at=at(1000),
    )
    order = order_of(told(accepted(capture="manual"), given_up, reopened(2, at(0)), late))
    assert (order.status, order.decided_at, order.decline_code) == ("AUTHORIZED", at(9), None)
    assert (order.authorized_minor, order.captured_minor, order.expires_at) == (1000, 0, at(1000))


def test_the_end_of_an_authorization_is_the_end_whenever_it_says_it_was() -> None:
    transfer = {
        "transfer_id": UUID(int=50),
        "kind": "charge",
        "debit_account_id": UUID(int=51),
        "credit_account_id": UUID(int=52),
        "amount_minor": 1000,
        "currency": "EUR",
        "phase": "released",
        "hold_id": UUID(int=53),
    }
    authorized = decided(EventKind.ORDER_AUTHORIZED, at(5), status="AUTHORIZED", changes=changes(authorized_minor=1000))
    lapsed = decided(
        EventKind.ORDER_CANCELLED,
        at(1),
        attempt=2,
        outcome="DECLINED",
        status="CANCELLED",
        decline_code="expired",
        changes=changes(),
        transfers=[transfer],
    )
    confirmed = decided(
        EventKind.OPERATION_CONFIRMED,
        at(0),
        attempt=3,
        outcome="DECLINED",
        provider_reference="ch_9",
        changes=changes(),
    )
    result = told(accepted(capture="manual"), authorized, reopened(2, at(2)), lapsed, reopened(3, at(0)), confirmed)
    order = order_of(result)
    assert (order.status, order.decline_code, order.decided_at) == ("CANCELLED", "expired", at(1))
    assert order.provider_reference == "ch_9"
    assert first_of(result).attempt == 3


def refund_requested() -> Event:
    body = {
        "refund_id": REFUND,
        "order_id": ORDER,
        "operation_id": ACT,
        "key": "r1",
        "request_digest": "0102",
        "amount_minor": 600,
        "commission_minor": 60,
        "currency": "EUR",
        "reason": None,
        "target_reference": "ch_1",
        "first_sent_at": None,
    }
    return event(EventKind.REFUND_REQUESTED, at(5), **body)


def refund_decided(kind: EventKind, when: datetime, attempt: int, status: str, **counts: int) -> Event:
    return decided(
        kind,
        when,
        operation_id=ACT,
        attempt=attempt,
        outcome="APPROVED" if status == "SUCCEEDED" else "DECLINED",
        refund_id=REFUND,
        refund_status=status,
        provider_reference="re_1" if status == "SUCCEEDED" else None,
        decline_code=None if status == "SUCCEEDED" else f"code {attempt}",
        changes=changes(**counts),
    )


def refund_of(result: Told) -> RefundRow:
    (row,) = [row for row in result.rows if isinstance(row, RefundRow)]
    return row


def test_a_refund_reserves_arrives_and_comes_back() -> None:
    paid = [accepted(), decided(EventKind.ORDER_SUCCEEDED, at(2), status="SUCCESS"), refund_requested()]
    order, refund = order_of(told(*paid)), refund_of(told(*paid))
    assert (order.refund_reserved_minor, order.refund_commission_minor, order.refunded_minor) == (600, 60, 0)
    assert (refund.status, refund.request_digest, refund.decided_at) == ("PENDING", b"\x01\x02", None)
    arrived = refund_decided(EventKind.REFUND_SUCCEEDED, at(9), 1, "SUCCEEDED", refunded_minor=600)
    back = refund_decided(
        EventKind.REFUND_RETURNED,
        at(1),
        2,
        "FAILED",
        refunded_minor=-600,
        reserved_minor=-600,
        commission_minor=-60,
    )
    assert refund_of(told(*paid, arrived)).status == "SUCCEEDED"
    result = told(*paid, arrived, back)
    refund, order = refund_of(result), order_of(result)
    assert (refund.status, refund.decided_at) == ("FAILED", at(1))
    assert (refund.decline_code, refund.provider_reference) == ("code 2", "re_1")
    assert (order.refund_reserved_minor, order.refund_commission_minor, order.refunded_minor) == (0, 0, 0)


def test_a_refund_that_has_failed_does_not_fail_again() -> None:
    once = refund_decided(EventKind.REFUND_FAILED, at(3), 1, "FAILED")
    again = refund_decided(EventKind.REFUND_FAILED, at(1), 2, "FAILED")
    refund = refund_of(told(accepted(), refund_requested(), once, again))
    assert (refund.decided_at, refund.decline_code) == (at(3), "code 1")


def test_the_act_under_way_is_the_one_that_is_undecided() -> None:
    assert order_of(told(accepted(), void_requested(at(2)))).acting == VOID
    refused = decided(
        EventKind.VOID_DECLINED, at(1), operation_id=VOID, outcome="DECLINED", decline_code="no", changes=changes()
    )
    order = order_of(told(accepted(), void_requested(at(2)), refused))
    assert (order.acting, order.status, order.decline_code) == (None, "EXECUTING", None)
    again = reopened(2, at(0), operation_id=VOID)
    assert order_of(told(accepted(), void_requested(at(2)), refused, again)).acting is None


def test_an_undo_is_the_later_word_and_told_again_is_the_same() -> None:
    both = [
        event(EventKind.CHECKOUT_DECIDED, at(1), decision="capture", decided_at=at(9), operations=[]),
        event(EventKind.CHECKOUT_DECIDED, at(2), decision="undo", decided_at=at(3), operations=[]),
        event(EventKind.CHECKOUT_DECIDED, at(8), decision="undo", decided_at=at(3), operations=[]),
    ]
    rows = [row for row in told(accepted(), *both).rows if isinstance(row, CheckoutDecisionRow)]
    assert rows == [CheckoutDecisionRow(PAYMENT, "undo", at(3))]


def test_an_account_is_what_its_event_says() -> None:
    opened = event(EventKind.ACCOUNT_OPENED, at(1), name="bank:main", kind="bank", currency="EUR")
    assert told(opened).rows == [AccountRow(PAYMENT, SHOP, "test", "bank:main", "bank", "EUR", at(1))]


def test_what_cannot_be_told_is_a_finding_and_the_rest_is_told() -> None:
    strange = decided(EventKind.ORDER_SUCCEEDED, at(1), operation_id=UUID(int=99), status="SUCCESS")
    unreadable = event(EventKind.OPERATION_CLAIMED, at(2), operation_id=FIRST)
    too_much = decided(EventKind.ORDER_SUCCEEDED, at(1), status="SUCCESS", changes=changes(captured_minor=2**60))
    digest = refund_requested()
    digest = digest._replace(body=digest.body.replace('"0102"', '"no hexadecimal"'))
    second = accepted(at(3))
    result = fold([accepted(), strange, unreadable, too_much, digest, second])
    assert [row for row in result.rows if isinstance(row, PaymentRow)]
    assert {finding.event_id for finding in result.findings} == {
        each.event_id for each in (strange, unreadable, too_much, digest, second)
    }
    assert all(finding.why for finding in result.findings)


def test_events_without_their_payment_are_findings() -> None:
    alone = [claimed(2, at(1)), refund_requested(), event(EventKind.ORDER_DISPUTED, at(1), order_id=ORDER)]
    alert = event(EventKind.ALERT_OPENED, at(1), alert="order_stuck", subject="x", since=at(0), detail={})
    result = fold([*alone, alert])
    assert result.rows == []
    assert {finding.event_id for finding in result.findings} == {each.event_id for each in alone}


def test_only_events_that_there_are_have_a_reader_and_any_other_may_move_money() -> None:
    assert set(KINDS) <= {kind.value for kind in EventKind}
    assert {kind for subject in SUBJECTS for kind in subject.bodies} <= {kind.value for kind in EventKind}
    (said,) = read(event("something.new", subject="x"))
    assert said.transfers == []


# The page


def rows_of_table(last_column: str) -> list[tuple[str, str]]:
    """The first two cells of each row of the page's table that ends in such a column."""
    rows, is_wanted = [], False
    for line in PAGE.read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if not cells:
            is_wanted = False
        elif cells[-1] == last_column:
            is_wanted = True
        elif is_wanted and not set(line) <= set("|- "):
            assert all(cells), line
            rows.append((cells[0].strip("`"), cells[1]))
    assert rows
    return rows


def columns_of_schema() -> dict[str, set[str]]:
    text = "\n".join(sql_files("schema").values())
    tables = re.findall(r"^CREATE TABLE (\w+) \((.*?)^\)", text, flags=re.MULTILINE | re.DOTALL)
    not_columns = {"CONSTRAINT", "PRIMARY", "CHECK", "UNIQUE"}
    return {name: set(re.findall(r"^    (\w+) ", body, flags=re.MULTILINE)) - not_columns for name, body in tables} | {
        "schema_version": set()
    }


def test_the_page_lists_what_is_compared_column_by_column() -> None:
    listed: dict[str, list[str]] = {}
    for table, columns in rows_of_table("rebuilt from"):
        listed.setdefault(table, []).extend(re.findall(r"`(\w+)`", columns))
    assert {table: sorted(columns) for table, columns in listed.items()} == {
        table.name: sorted(table.every_column) for table in TABLES
    }


def test_every_table_and_column_of_the_schema_is_compared_or_left_out_with_a_reason() -> None:
    left_out = dict(rows_of_table("why not"))
    compared = {table.name: set(table.every_column) for table in TABLES if table is not BALANCE}
    schema = columns_of_schema()
    assert len(schema["payment_order"]) > 20
    for table, columns in schema.items():
        names = left_out.get(table, "")
        assert (names == "all") is (table not in compared), f"docs/replay.md says nothing of {table}"
        if table in compared:
            assert columns == compared[table] | set(re.findall(r"`(\w+)`", names)), table
    assert {*compared, *left_out} == set(schema)
