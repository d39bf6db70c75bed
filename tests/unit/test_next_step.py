"""The gate: what may be asked of a PSP, for every kind of PSP and every age of the first sending."""

from datetime import UTC, datetime, timedelta
from itertools import product
from uuid import UUID

import msgspec
import pytest

from coatcheck.executor import (
    NOT_FOUND,
    SERVER_ERROR,
    RetryPolicy,
    Step,
    may_send_after,
    next_step,
    window_is_open,
)
from coatcheck.operations import Operation
from coatcheck.providers.outcome import Outcome, OutcomeKind
from coatcheck.providers.protocol import Capabilities, Intent
from coatcheck.states import Mode, OperationStatus

NOW = datetime(2026, 3, 1, tzinfo=UTC)
WINDOW, MARGIN = timedelta(hours=24), timedelta(minutes=5)
ID = UUID(int=1)


def operation(
    *, age: timedelta | None, sent_before: bool = True, cause: str | None = None, reference: str | None = None
) -> Operation:
    intent = Intent(
        operation_id=ID,
        amount_minor=100,
        currency="EUR",
        mode=Mode.TEST,
        body=b"",
        first_sent_at=None if age is None else NOW - age,
        provider_reference=reference,
    )
    return Operation(
        attempt=2,
        order_id=ID,
        payment_id=ID,
        shop_id=ID,
        provider="psp",
        seller_account="s",
        commission_minor=0,
        intent=intent,
        sent_before=sent_before,
        cause=cause,
    )


def capabilities(
    *,
    window: timedelta = WINDOW,
    registers_first: bool = False,
    look_up_before_resend: bool = False,
    replays_errors: bool = False,
) -> Capabilities:
    return Capabilities(
        idempotency_window=window,
        window_margin=MARGIN,
        registers_first=registers_first,
        look_up_before_resend=look_up_before_resend,
        replays_errors=replays_errors,
    )


@pytest.mark.parametrize(
    ("age", "is_open"),
    [
        (None, True),
        (timedelta(0), True),
        (WINDOW - MARGIN - timedelta(seconds=1), True),
        (WINDOW - MARGIN, False),
        (WINDOW, False),
        (timedelta(days=400), False),
    ],
)
def test_A3_the_window_closes_a_margin_early(age: timedelta | None, is_open: bool) -> None:  # noqa: FBT001
    assert window_is_open(operation(age=age).intent, capabilities(), NOW) is is_open


@pytest.mark.parametrize(
    ("age", "asks_first", "replays", "cause"),
    list(
        product(
            (timedelta(hours=1), timedelta(days=2)),
            (False, True),
            (False, True),
            (None, "read timeout", SERVER_ERROR + "500"),
        )
    ),
)
def test_A3_A4_A5_after_a_first_sending(age: timedelta, asks_first: bool, replays: bool, cause: str | None) -> None:  # noqa: FBT001
    step = next_step(
        operation(age=age, cause=cause),
        capabilities(look_up_before_resend=asks_first, replays_errors=replays),
        NOW,
    )
    must_ask = age > WINDOW or asks_first or (replays and cause == SERVER_ERROR + "500")
    assert step is (Step.LOOK_UP if must_ask else Step.SEND)


def test_what_never_left_is_sent_at_any_age() -> None:
    waiting = operation(age=timedelta(days=9), sent_before=False)
    assert next_step(waiting, capabilities(window=timedelta(0), look_up_before_resend=True), NOW) is Step.SEND


def test_what_the_psp_has_accepted_is_looked_up_and_not_sent_again() -> None:
    waiting = msgspec.structs.replace(operation(age=timedelta(hours=1)), status=OperationStatus.PENDING)
    assert next_step(waiting, capabilities(), NOW) is Step.LOOK_UP


def test_a_two_step_provider_is_registered_with_first() -> None:
    two_steps = capabilities(registers_first=True, look_up_before_resend=True)
    assert next_step(operation(age=timedelta(days=9)), two_steps, NOW) is Step.REGISTER
    assert next_step(operation(age=timedelta(days=9), reference="pi_1"), two_steps, NOW) is Step.LOOK_UP
    fresh = operation(age=timedelta(0), reference="pi_1", sent_before=False)
    assert next_step(fresh, two_steps, NOW) is Step.SEND


@pytest.mark.parametrize(
    ("kind", "age", "forgets", "cause"),
    list(product(OutcomeKind, (timedelta(hours=1), timedelta(days=2)), (False, True), (None, NOT_FOUND))),
)
def test_A14_what_a_look_up_allows(kind: OutcomeKind, age: timedelta, forgets: bool, cause: str | None) -> None:  # noqa: FBT001
    allowed = may_send_after(
        operation(age=age, cause=cause), Outcome(kind=kind), capabilities(look_up_before_resend=forgets), NOW
    )
    inside = age < WINDOW
    assert allowed is (
        kind is OutcomeKind.NOT_SENT
        or (kind is OutcomeKind.NOT_FOUND and inside and (not forgets or cause == NOT_FOUND))
    )


def test_F5_back_off_doubles_with_full_jitter_up_to_its_cap() -> None:
    policy = RetryPolicy(budget_attempts=9, base=timedelta(seconds=1), cap=timedelta(seconds=60))
    assert [policy.pause(attempt, 1).total_seconds() for attempt in range(1, 8)] == [2, 4, 8, 16, 32, 60, 60]
    assert policy.pause(10_000, 1) == timedelta(seconds=60)
    assert policy.pause(5, 0) == timedelta(0)
    assert policy.pause(5, 0.5) == timedelta(seconds=16)
    slow = RetryPolicy(budget_attempts=99, base=timedelta(days=11), cap=timedelta(days=30))
    assert [slow.pause(attempt, 1).days for attempt in (1, 2, 31)] == [22, 30, 30]
