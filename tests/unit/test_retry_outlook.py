"""What is said of an operation that goes on by itself: what comes next, when, and when it ends."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec
import pytest

from coatcheck.executor import NOT_FOUND, SERVER_ERROR, Step
from coatcheck.operations import Operation, Standing
from coatcheck.providers.protocol import Capabilities, Intent
from coatcheck.retry_queue import Outlook, foresee
from coatcheck.states import Mode, OperationStatus

SENT_AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
WINDOW = timedelta(hours=24)
DAY = Capabilities(idempotency_window=WINDOW)
REPLAYS = Capabilities(idempotency_window=WINDOW, replays_errors=True)
NO_KEYS = Capabilities(idempotency_window=timedelta(0))
TWO_STEPS = Capabilities(idempotency_window=WINDOW, registers_first=True)
HOUR = timedelta(hours=1)
NOBODY = UUID(int=1)


def standing(
    *,
    cause: str | None = "read timeout",
    sent: bool = True,
    status: OperationStatus = OperationStatus.OPEN,
    tries: int = 3,
    due: timedelta = HOUR,
    holder: UUID | None = None,
    **fields: object,
) -> Standing:
    """An operation that was first sent at SENT_AT, and goes on so long after it."""
    intent = Intent(
        operation_id=UUID(int=7),
        amount_minor=1000,
        currency="EUR",
        mode=Mode.TEST,
        body=b"",
        first_sent_at=SENT_AT if sent else None,
    )
    operation = Operation(
        attempt=4,
        tries=tries,
        order_id=NOBODY,
        payment_id=NOBODY,
        shop_id=NOBODY,
        provider="simulator",
        seller_account="seller-1",
        commission_minor=0,
        intent=msgspec.structs.replace(intent, **fields),
        sent_before=sent,
        status=status,
        cause=cause,
    )
    return Standing(operation=operation, created_at=SENT_AT, has_lease=True, holder=holder, due_at=SENT_AT + due)


def seen(
    found: Standing,
    capabilities: Capabilities | None = DAY,
    *,
    at: timedelta = timedelta(0),
    is_recovering: bool = False,
) -> Outlook:
    return foresee(found, capabilities, retry_budget=12, is_recovering=is_recovering, at=SENT_AT + at)


PENDING = OperationStatus.PENDING


AT_ONE = "at 2026-03-01 13:00:00 UTC"
NINE_LEFT = "After 9 tries that decide nothing it waits for a person."


@pytest.mark.parametrize(
    ("found", "capabilities", "step", "text"),
    [
        (
            *(standing(), DAY, Step.SEND),
            f"It is sent again under the same key {AT_ONE}. Until 2026-03-02 11:55:00 UTC that cannot be done twice. "
            + NINE_LEFT,
        ),
        (
            *(standing(sent=False, tries=11), DAY, Step.SEND),
            f"It never left for simulator. It is sent {AT_ONE}. If that decides nothing, it waits for a person.",
        ),
        (
            *(standing(cause=f"{SERVER_ERROR}500"), REPLAYS, Step.LOOK_UP),
            (
                f"It is looked up {AT_ONE}, which moves no money. It is sent again only if simulator has nothing, and "
                f"not after 2026-03-02 11:55:00 UTC. {NINE_LEFT}"
            ),
        ),
        (
            *(standing(cause=NOT_FOUND, due=timedelta(days=2)), DAY, Step.LOOK_UP),
            (
                "It is looked up at 2026-03-03 12:00:00 UTC, which moves no money. It is not sent again, unless "
                f"simulator itself says that it did nothing. {NINE_LEFT}"
            ),
        ),
        (
            *(standing(status=PENDING, tries=12), DAY, Step.LOOK_UP),
            f"simulator has it and decides later. It is looked up {AT_ONE}, and is never sent again.",
        ),
        (
            *(standing(), TWO_STEPS, Step.REGISTER),
            f"It is registered, then sent, at simulator {AT_ONE}. {NINE_LEFT}",
        ),
        (
            *(standing(is_hosted=True), DAY, Step.REGISTER),
            f"The page on which the buyer pays is made at simulator {AT_ONE}. {NINE_LEFT}",
        ),
        (
            *(standing(is_hosted=True, provider_reference="cs_1"), DAY, Step.LOOK_UP),
            f"It is looked up {AT_ONE}, which moves no money. Only the buyer can pay it. {NINE_LEFT}",
        ),
        (
            *(standing(), None, None),
            (
                f"This gateway has no settings for simulator: one that has goes on {AT_ONE}, one that has not uses up "
                f"a try. Give them back and start it again. {NINE_LEFT}"
            ),
        ),
    ],
)
def test_what_comes_next_is_what_the_gate_would_allow_at_its_time(
    found: Standing, capabilities: Capabilities | None, step: Step | None, text: str
) -> None:
    outlook = seen(found, capabilities)
    assert (outlook.step, outlook.text, outlook.is_running) == (step, text, False)
    assert outlook.at == found.due_at


def test_what_is_due_is_taken_by_the_next_gateway_and_judged_as_of_now() -> None:
    outlook = seen(standing(), at=timedelta(days=1))
    assert (outlook.at, outlook.step) == (SENT_AT + HOUR, Step.LOOK_UP)
    assert outlook.text.startswith(
        "It is looked up by the next gateway that looks, which moves no money. It is not sent"
    )


def test_what_a_gateway_works_on_says_when_another_takes_over() -> None:
    outlook = seen(standing(holder=NOBODY), at=timedelta(minutes=59))
    assert outlook.is_running
    assert outlook.text == (
        "A gateway is asking simulator at this moment. If that one dies, another takes over at 2026-03-01 13:00:00 UTC."
    )
    assert not seen(standing(holder=NOBODY), at=HOUR).is_running  # its lease has run out


def test_while_the_books_are_made_whole_nothing_goes_on() -> None:
    assert seen(standing(), is_recovering=True).text.startswith("The books are being made whole after a restore.")


def test_A3_the_age_is_told_against_the_window_until_nothing_of_it_is_left() -> None:
    outlook = seen(standing(), at=timedelta(hours=3))
    assert (outlook.age, outlook.window) == (timedelta(hours=3), WINDOW)
    assert outlook.safe_until == SENT_AT + timedelta(hours=23, minutes=55)
    assert outlook.safe_for == timedelta(hours=20, minutes=55)
    assert seen(standing(), at=timedelta(days=9)).safe_for == timedelta(0)
    for unknown in (seen(standing(sent=False)), seen(standing(), NO_KEYS), seen(standing(), None)):
        assert (unknown.safe_until, unknown.safe_for) == (None, None)
