"""What an event means for one of our operations: compared like an answer, before anything is done about it. Pure."""

from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from coatcheck.executor import mismatch_of
from coatcheck.operations import Operation, Standing
from coatcheck.providers.outcome import Outcome, OutcomeKind
from coatcheck.states import Mode, OperationKind, OperationStatus, OrderStatus, PayoutStatus, RefundStatus

_GIVEN_UP = frozenset({OrderStatus.FAILED, OrderStatus.CANCELLED})
_DECIDED = _GIVEN_UP | {OrderStatus.AUTHORIZED, OrderStatus.SUCCESS}


class EventOutcome(StrEnum):
    """What became of a stored event."""

    APPLIED = "applied"
    NO_EFFECT = "no_effect"
    UNMATCHED = "unmatched"
    UNKNOWN_TYPE = "unknown_type"
    REFUSED = "refused"
    CHARGED_TWICE = "charged_twice"
    DISMISSED = "dismissed"  # by a person: nobody could handle it


class Hearing(StrEnum):
    """What to do about a notice."""

    NOTHING = "nothing"
    BOOK = "book"  # undecided here, decided there: the event's word is as good as an answer's
    ASK = "ask"  # decided here, and the event says otherwise: ask how it stands now
    PARK = "park"  # somebody is asking at this moment
    REFUSE = "refuse"  # authentic, but about something else (A15)
    TWICE = "twice"  # another charge under our reference (A8)


class Sender(NamedTuple):
    """Whose word an event is: the provider and the mode whose secret has proved it."""

    provider: str
    mode: Mode


def stranger_of(operation: Operation, sender: Sender) -> str | None:
    """Say why an operation is none of the sender's; None when it is. A reference alone proves nothing (hazard C10)."""
    ours = Sender(operation.provider, operation.intent.mode)
    if ours == sender:
        return None
    return f"told by {sender.provider} ({sender.mode}) of an operation at {ours.provider} ({ours.mode})"


def hear(standing: Standing, sender: Sender, outcome: Outcome, at: datetime) -> Hearing:
    """Decide about a notice of one of our operations. Pure.

    Source: hazards A8, A9, A15, C2, C10, D5, D6, D10.
    """
    is_strangers = stranger_of(standing.operation, sender) is not None
    return Hearing.REFUSE if is_strangers else _hear_of_ours(standing, outcome, at)


def _hear_of_ours(standing: Standing, outcome: Outcome, at: datetime) -> Hearing:
    operation = standing.operation
    if operation.status is OperationStatus.APPROVED and _is_another_charge(operation, outcome):
        return Hearing.TWICE
    if mismatch_of(operation.intent, outcome) is not None:
        return Hearing.REFUSE
    if operation.status.is_decided:
        if not _contradicts(operation, outcome):
            return Hearing.NOTHING
        # Of a charge it very likely tells of the very capture or void that is under way: that one's answer comes first.
        is_of_the_act = standing.is_acting and operation.intent.kind.starts_an_order
        return Hearing.PARK if is_of_the_act else Hearing.ASK
    if not outcome.kind.is_definite:
        return Hearing.NOTHING
    is_held = standing.holder is not None and standing.due_at is not None and standing.due_at > at
    return Hearing.PARK if is_held or _is_asked_again(operation) else Hearing.BOOK


def _is_another_charge(operation: Operation, outcome: Outcome) -> bool:
    known, told = operation.intent.provider_reference, outcome.provider_reference
    if not operation.intent.kind.starts_an_order or outcome.kind is not OutcomeKind.APPROVED:
        return False
    if known is None or told is None or known == told:
        return False
    # Of a page we may know the page's id and be told the charge's: only two of one kind can be told apart.
    return not operation.intent.is_hosted or _kind_of_id(known) == _kind_of_id(told)


def _kind_of_id(provider_reference: str) -> str:
    return provider_reference.partition("_")[0]


def _is_asked_again(operation: Operation) -> bool:
    """Whether it was decided, and the PSP is being asked because of later news.

    Events come in any order: an old one would end the question with what was true before (hazards C2, D6).
    """
    if operation.status is not OperationStatus.PENDING:
        return False
    if operation.intent.kind is OperationKind.REFUND:
        return operation.refund_status is not RefundStatus.PENDING
    if operation.intent.kind is OperationKind.PAYOUT:
        return operation.payout_status is not PayoutStatus.PENDING
    return operation.intent.kind.starts_an_order and operation.order_status in _DECIDED


def _contradicts(operation: Operation, outcome: Outcome) -> bool:
    """Whether the PSP now says what would change a decision: a late success, a lapse, a refund that came back."""
    was_approved = operation.status is OperationStatus.APPROVED
    if operation.intent.kind is OperationKind.REFUND:
        return was_approved and operation.refund_status is RefundStatus.SUCCEEDED and _declines(outcome)
    if operation.intent.kind is OperationKind.PAYOUT:
        if was_approved:  # it came back; or, below, it was paid after all, though the seller has his balance again
            return operation.payout_status is PayoutStatus.PAID and _declines(outcome)
        return operation.payout_status is PayoutStatus.FAILED and outcome.kind is OutcomeKind.APPROVED
    if not operation.intent.kind.starts_an_order:
        return False
    if was_approved:
        lapses = operation.intent.kind is OperationKind.AUTHORIZE and operation.order_status is OrderStatus.AUTHORIZED
        return lapses and _declines(outcome) and outcome.is_cancelled
    return (
        outcome.kind is OutcomeKind.APPROVED and operation.order_status in _GIVEN_UP and not operation.authorized_minor
    )


def _declines(outcome: Outcome) -> bool:
    return outcome.kind is OutcomeKind.DECLINED
