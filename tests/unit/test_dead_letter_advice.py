"""What a person is told to do about a dead letter: never what the gate would refuse."""

from datetime import UTC, datetime, timedelta
from itertools import product
from uuid import UUID

import msgspec
import pytest

from coatcheck.dead_letters import Advice, Proposal, SafeAction, Word, advise, outcome_by_hand, person_named
from coatcheck.errors import CoatcheckError
from coatcheck.executor import ANSWER_REFUSED, NOT_FOUND, SERVER_ERROR, Step, mismatch_of, window_is_open
from coatcheck.operations import Operation
from coatcheck.providers.outcome import OutcomeKind
from coatcheck.providers.protocol import Capabilities, Intent
from coatcheck.states import Mode, OperationKind, OperationStatus

SENT_AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
WINDOW = timedelta(hours=24)
DAY = Capabilities(idempotency_window=WINDOW)
NOBODY = UUID(int=1)


def operation(
    *, cause: str | None = "read timeout", sent: bool = True, mode: Mode = Mode.TEST, **fields: object
) -> Operation:
    intent = Intent(
        operation_id=UUID(int=7),
        amount_minor=1000,
        currency="EUR",
        mode=mode,
        body=b"",
        first_sent_at=SENT_AT if sent else None,
    )
    return Operation(
        attempt=12,
        order_id=NOBODY,
        payment_id=NOBODY,
        shop_id=NOBODY,
        provider="simulator",
        seller_account="seller-1",
        commission_minor=0,
        intent=msgspec.structs.replace(intent, **fields),
        sent_before=sent,
        status=OperationStatus.UNRESOLVED,
        cause=cause,
    )


def after(age: timedelta, asked: Operation | None = None, capabilities: Capabilities | None = DAY) -> Advice:
    return advise(asked or operation(), capabilities, SENT_AT + age)


@pytest.mark.parametrize(
    ("asked", "age", "capabilities", "action", "step"),
    [
        (operation(), timedelta(hours=1), DAY, SafeAction.SEND_AGAIN, Step.SEND),
        (operation(), timedelta(hours=23, minutes=56), DAY, SafeAction.LOOK_UP, Step.LOOK_UP),
        (operation(), timedelta(days=9), DAY, SafeAction.LOOK_UP, Step.LOOK_UP),
        (operation(cause=NOT_FOUND), timedelta(days=9), DAY, SafeAction.ASK_PROVIDER, Step.LOOK_UP),
        (operation(cause=NOT_FOUND), timedelta(hours=1), DAY, SafeAction.SEND_AGAIN, Step.SEND),
        (operation(sent=False), timedelta(days=9), DAY, SafeAction.SEND, Step.SEND),
        (operation(cause=f"{ANSWER_REFUSED}amount"), timedelta(hours=1), DAY, SafeAction.COMPARE, Step.SEND),
        (operation(), timedelta(hours=1), None, SafeAction.CONFIGURE, None),
        (
            operation(cause=f"{SERVER_ERROR}500"),
            timedelta(hours=1),
            Capabilities(idempotency_window=WINDOW, replays_errors=True),
            SafeAction.LOOK_UP,
            Step.LOOK_UP,
        ),
        (operation(), timedelta(0), Capabilities(idempotency_window=timedelta(0)), SafeAction.LOOK_UP, Step.LOOK_UP),
        (operation(is_hosted=True, provider_reference="cs_1"), timedelta(0), DAY, SafeAction.LOOK_UP, Step.LOOK_UP),
    ],
)
def test_the_action_fits_the_gate(
    asked: Operation, age: timedelta, capabilities: Capabilities | None, action: SafeAction, step: Step | None
) -> None:
    advice = after(age, asked, capabilities)
    assert (advice.action, advice.step) == (action, step)
    assert advice.text.endswith(".")


def test_A3_no_advice_to_send_again_outside_the_window_whatever_else_is_so() -> None:
    causes = (None, "read timeout", NOT_FOUND, f"{SERVER_ERROR}500", f"{ANSWER_REFUSED}amount")
    ages = (timedelta(0), timedelta(hours=23, minutes=54), timedelta(hours=23, minutes=55), timedelta(days=40))
    providers = [
        Capabilities(idempotency_window=window, look_up_before_resend=asks, replays_errors=replays)
        for window, asks, replays in product((timedelta(0), WINDOW), (False, True), (False, True))
    ]
    for cause, age, capabilities in product(causes, ages, providers):
        asked = operation(cause=cause)
        advice = after(age, asked, capabilities)
        if not window_is_open(asked.intent, capabilities, SENT_AT + age):
            assert advice.step is Step.LOOK_UP
            assert advice.action not in (SafeAction.SEND, SafeAction.SEND_AGAIN)


def test_the_age_stands_beside_the_window() -> None:
    advice = after(timedelta(hours=3))
    assert (advice.age, advice.window) == (timedelta(hours=3), WINDOW)
    assert advice.safe_until == SENT_AT + timedelta(hours=23, minutes=55)
    assert "safe until 2026-03-02 11:55:00 UTC" in advice.text
    assert after(timedelta(0), operation(sent=False)).age is None
    assert after(timedelta(0), None, Capabilities(idempotency_window=timedelta(0))).safe_until is None


def test_a_look_up_inside_the_window_says_until_when_it_may_be_sent() -> None:
    careful = Capabilities(idempotency_window=WINDOW, look_up_before_resend=True)
    assert "not after 2026-03-02 11:55:00 UTC" in after(timedelta(hours=1), None, careful).text
    assert "It is not sent again" in after(timedelta(days=2), None, careful).text


@pytest.mark.parametrize(("kind", "mode"), list(product(OperationKind, Mode)))
def test_A15_what_people_say_is_about_exactly_what_was_asked(kind: OperationKind, mode: Mode) -> None:
    asked = operation(kind=kind, mode=mode, provider_reference="ch_1")
    said = Proposal(
        proposal_id=NOBODY,
        word=Word.CHARGED,
        provider_reference=None,
        reason="seen",
        proposed_by="person ada",
        proposed_at=SENT_AT,
        expires_at=SENT_AT,
    )
    for word in (Word.CHARGED, Word.DONE):
        outcome = outcome_by_hand(asked, msgspec.structs.replace(said, word=word), "person bob")
        assert (outcome.kind, outcome.provider_reference) == (OutcomeKind.APPROVED, "ch_1")
        assert mismatch_of(asked.intent, outcome) is None
    for word in (Word.NOT_CHARGED, Word.NOT_DONE):
        outcome = outcome_by_hand(asked, msgspec.structs.replace(said, word=word), "person bob")
        assert (outcome.kind, outcome.decline_code) == (OutcomeKind.DECLINED, "resolved_by_hand")
        assert outcome.evidence == "by hand: person ada proposed, person bob confirmed: seen"
        assert mismatch_of(asked.intent, outcome) is None


@pytest.mark.parametrize("name", ["Ada Lovelace", " ada  LOVELACE", "\uff21da Lovelace", "ADA\tlovelace"])
def test_I1_one_person_is_one_person_however_the_name_is_written(name: str) -> None:
    assert person_named(name) == "person ada lovelace"


@pytest.mark.parametrize("name", ["", "  ", "a\x00b", "x" * 101])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(CoatcheckError):
        person_named(name)
