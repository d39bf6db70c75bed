"""The simulated PSP's webhooks: each event shows a charge, an action, a payout or a page, and its status decides.

| object | status | outcome of the operation it names |
|---|---|---|
| charge | succeeded, authorized | APPROVED with the charge's whole amount, also after a part of it was captured |
| charge | pending | PENDING |
| charge | declined | DECLINED, its decline_code |
| charge | voided, expired | DECLINED, is_cancelled |
| charge.voided, charge.expired | succeeded (a part was captured) | DECLINED, is_cancelled: the rest is let go |
| capture, void, refund | succeeded, pending | APPROVED, PENDING |
| capture, void, refund | failed | DECLINED, its failure_code |
| payout | paid, pending | APPROVED, PENDING |
| payout | failed, returned | DECLINED, its failure_code |
| session | expired, cancelled | of each entry without charge: DECLINED, is_cancelled, page_expired or page_cancelled |
| session | completed | of each entry: its charge's outcome |

The events of a dispute (dispute.opened, .updated, .funds_withdrawn, .funds_reinstated, .closed) show the dispute as it
was then: how it stands by its version, and all money that had moved for it.

An event that shows any other status, or another object than its type says, cannot be read.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final, Literal

import msgspec

from coatcheck.ids import OPERATION, parse_id
from coatcheck.providers.outcome import Outcome, OutcomeKind
from coatcheck.providers.protocol import Notice, ReceivedEvent
from coatcheck.providers.signatures import SignedEvent, SignedEvents, notice_about, read_document
from coatcheck.providers.simulated_answers import (
    ActionAnswer,
    ChargeAnswer,
    PageEntry,
    PayoutAnswer,
    as_released,
    outcome_of_charge,
    outcome_of_payout,
)
from coatcheck.providers.simulated_disputes import Shown, news_of
from coatcheck.states import Mode

SIGNATURE_HEADER: Final = "simulator-signature"

_DISPUTE_EVENTS: Final = frozenset(
    f"dispute.{verb}" for verb in ("opened", "updated", "funds_withdrawn", "funds_reinstated", "closed")
)

# What a look-up of the operation would find, whether it asked for a charge or for an authorization.
_CHARGES: Final = {
    "succeeded": OutcomeKind.APPROVED,
    "authorized": OutcomeKind.APPROVED,
    "pending": OutcomeKind.PENDING,
    "declined": OutcomeKind.DECLINED,
    "voided": OutcomeKind.DECLINED,
    "expired": OutcomeKind.DECLINED,
}
_ACTIONS: Final = {
    "succeeded": OutcomeKind.APPROVED,
    "pending": OutcomeKind.PENDING,
    "failed": OutcomeKind.DECLINED,
}


class _EndedPage(msgspec.Struct, frozen=True):
    id: str
    object: Literal["session"]
    status: Literal["completed", "cancelled", "expired"]
    livemode: bool
    charges: list[PageEntry]


class SimulatedWebhooks:
    """Webhooks of one account of the simulated PSP, in one mode. Any of `secrets` proves."""

    name = "simulator"

    def __init__(self, secrets: Sequence[str], account: str, mode: Mode) -> None:
        if not account:
            raise ValueError("the simulator's events name an account; say which is ours")
        self._events = SignedEvents(SIGNATURE_HEADER, secrets, account=account, mode=mode)

    def receive(self, headers: Mapping[str, str], body: bytes, at: datetime) -> list[ReceivedEvent]:
        """Prove the body by its signature; it holds one event. Raises WebhookRefusedError."""
        return self._events.receive(headers, body, at)

    def parse(self, raw: bytes) -> list[Notice]:
        """Read what the event says of our operations. Raises ValueError when it cannot be read."""
        event = read_document(raw, SignedEvent)
        if event.type in _DISPUTE_EVENTS:
            return [_of_dispute(event)]
        outcomes_of = _READERS.get(event.type)
        if outcomes_of is None:
            return [Notice(type=event.type)]
        return [notice_about(event.type, outcome.reference, outcome) for outcome in outcomes_of(event.subject)]


def _of_charge(shown: dict[str, object]) -> Iterator[Outcome]:
    # A charge does not say that it is one; everything else says what it is.
    if shown.get("object", "charge") != "charge":
        raise ValueError("a charge's event that shows no charge")
    yield outcome_of_charge(msgspec.convert(shown, ChargeAnswer), _CHARGES)


def _of_dispute(event: SignedEvent) -> Notice:
    """Read a dispute; one of a charge that carries no reference of ours is none of ours."""
    news = news_of(msgspec.convert(event.subject, Shown), event.type)
    if parse_id(OPERATION, news.reference or "") is None:
        return Notice(type=event.type)
    return Notice(type=event.type, reference=news.reference, dispute=news)


def _of_end(shown: dict[str, object]) -> Iterator[Outcome]:
    """Read the end of an authorization: also of one whose captured part makes the charge a success."""
    for outcome in _of_charge(shown):
        yield as_released(outcome) if outcome.kind is OutcomeKind.APPROVED else outcome


def _of_action(shown: dict[str, object]) -> Iterator[Outcome]:
    action = msgspec.convert(shown, ActionAnswer)
    kind = _ACTIONS[action.status]
    is_declined = kind is OutcomeKind.DECLINED
    yield Outcome(
        kind=kind,
        provider_reference=action.id,
        reference=action.reference,
        amount_minor=action.amount,
        currency=action.currency,
        is_live=action.livemode,
        decline_code=(action.failure_code or f"{action.object}_failed") if is_declined else None,
    )


def _of_payout(shown: dict[str, object]) -> Iterator[Outcome]:
    yield outcome_of_payout(msgspec.convert(shown, PayoutAnswer), None)


def _of_page(shown: dict[str, object]) -> Iterator[Outcome]:
    page = msgspec.convert(shown, _EndedPage)
    for entry in page.charges:
        if page.status != "completed" and entry.charge is None:
            yield _unpaid(page, entry)
        elif page.status == "completed" and entry.charge is not None:
            yield outcome_of_charge(entry.charge, _CHARGES)


def _unpaid(page: _EndedPage, entry: PageEntry) -> Outcome:
    return Outcome(
        kind=OutcomeKind.DECLINED,
        provider_reference=page.id,
        reference=entry.reference,
        amount_minor=entry.amount,
        currency=entry.currency,
        is_live=page.livemode,
        decline_code=f"page_{page.status}",
        is_cancelled=True,
    )


_READERS: Final[Mapping[str, Callable[[dict[str, object]], Iterator[Outcome]]]] = {
    "charge.succeeded": _of_charge,
    "charge.authorized": _of_charge,
    "charge.captured": _of_charge,
    "charge.pending": _of_charge,
    "charge.declined": _of_charge,
    "charge.voided": _of_end,
    "charge.expired": _of_end,
    "capture.succeeded": _of_action,
    "capture.failed": _of_action,
    "void.succeeded": _of_action,
    "refund.succeeded": _of_action,
    "refund.pending": _of_action,
    "refund.failed": _of_action,
    "payout.pending": _of_payout,
    "payout.paid": _of_payout,
    "payout.failed": _of_payout,
    "payout.returned": _of_payout,
    "session.completed": _of_page,
    "session.cancelled": _of_page,
    "session.expired": _of_page,
}
