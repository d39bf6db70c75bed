"""Stripe's webhooks: each event shows an object as it was then, and the object's status decides, not the event's name.

What a PaymentIntent, a Refund or a Checkout Session means is read as in a look-up (stripe_answers.py), with these
differences, since an event may be late and shows less:

| object | outcome |
|---|---|
| PaymentIntent where a look-up says NOT_SENT | UNKNOWN: the confirmation may have come after the event |
| PaymentIntent of a page, its card refused | PENDING: the buyer may try another card until the page ends |
| Checkout Session complete, paid | APPROVED: the look-up sees the PaymentIntent, the event only this |
| Checkout Session complete, unpaid | PENDING: authorized or on its way; its PaymentIntent's event says which |

An event of a dispute (charge.dispute.*) is a hint: the Dispute is asked for (stripe_disputes.py).

A PaymentIntent with manual capture speaks about an authorization. Objects that do not carry our reference in their
metadata are none of ours, whatever they look like.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Final

import msgspec

from coatcheck.ids import OPERATION, parse_id
from coatcheck.providers.outcome import Outcome, OutcomeKind
from coatcheck.providers.protocol import Notice, ReceivedEvent
from coatcheck.providers.signatures import SignedEvent, SignedEvents, notice_about, read_document
from coatcheck.providers.stripe_answers import (
    CheckoutSession,
    PaymentIntent,
    Refund,
    Transfer,
    outcome_of_page,
    outcome_of_payment,
    outcome_of_refund,
    outcome_of_transfer,
)
from coatcheck.providers.stripe_disputes import EVENTS as DISPUTE_EVENTS
from coatcheck.providers.stripe_disputes import hint_of
from coatcheck.providers.stripe_words import PAGE_KEY, REFERENCE_KEY
from coatcheck.states import Mode, OperationKind

SIGNATURE_HEADER: Final = "stripe-signature"

# (status, payment_status) of a page that its status alone does not decide.
_PAID_PAGES: Final = {
    ("complete", "paid"): (OutcomeKind.APPROVED, None),
    ("complete", "unpaid"): (OutcomeKind.PENDING, "the page is done, the money is not here"),
}


class StripeWebhooks:
    """Webhooks of one endpoint at Stripe, in one mode. Any of `secrets` (whsec_...) proves.

    `account`: the connected account whose events these are; None for the platform's own, which name none.
    """

    name = "stripe"

    def __init__(self, secrets: Sequence[str], mode: Mode, account: str | None = None) -> None:
        self._events = SignedEvents(SIGNATURE_HEADER, secrets, account=account, mode=mode)

    def receive(self, headers: Mapping[str, str], body: bytes, at: datetime) -> list[ReceivedEvent]:
        """Prove the body by its signature; it holds one event. Raises WebhookRefusedError."""
        return self._events.receive(headers, body, at)

    def parse(self, raw: bytes) -> list[Notice]:
        """Read what the event says of our operation. Raises ValueError when it cannot be read."""
        event = read_document(raw, SignedEvent)
        if event.type in DISPUTE_EVENTS:
            # It shows none of our references, and perhaps not the newest: what is so is asked for.
            return [Notice(type=event.type, dispute=hint_of(event.subject, event.type))]
        outcome_of = _READERS.get(event.type)
        reference = None if outcome_of is None else _our_reference_in(event.subject)
        if outcome_of is None or reference is None:
            return [Notice(type=event.type)]
        outcome = outcome_of(event)
        told = msgspec.structs.replace(outcome, evidence=f"event {event.id}: {outcome.evidence}")
        return [notice_about(event.type, reference, told)]


def _our_reference_in(shown: dict[str, object]) -> str | None:
    """Find our reference before anything else is read: what others make at this account may have any shape."""
    metadata = shown.get("metadata")
    reference = metadata.get(REFERENCE_KEY) if isinstance(metadata, dict) else None
    return reference if isinstance(reference, str) and parse_id(OPERATION, reference) is not None else None


def _of_payment(event: SignedEvent) -> Outcome:
    payment = msgspec.convert(event.subject, PaymentIntent)
    outcome = outcome_of_payment(payment, _kind_of(payment))
    if payment.status == "requires_payment_method" and PAGE_KEY in (payment.metadata or {}):
        return msgspec.structs.replace(
            outcome, kind=OutcomeKind.PENDING, decline_code=None, cause="a card was refused; the buyer may try another"
        )
    if outcome.kind is OutcomeKind.NOT_SENT:
        return msgspec.structs.replace(outcome, kind=OutcomeKind.UNKNOWN)
    return outcome


def _kind_of(payment: PaymentIntent) -> OperationKind:
    return OperationKind.AUTHORIZE if payment.capture_method == "manual" else OperationKind.CHARGE


def _of_refund(event: SignedEvent) -> Outcome:
    outcome = outcome_of_refund(msgspec.convert(event.subject, Refund))
    # A Refund has no mode of its own; its event has.
    return msgspec.structs.replace(outcome, is_live=event.livemode)


def _of_transfer(event: SignedEvent) -> Outcome:
    return outcome_of_transfer(msgspec.convert(event.subject, Transfer), None)


def _of_page(event: SignedEvent) -> Outcome:
    session = msgspec.convert(event.subject, CheckoutSession)
    outcome = outcome_of_page(session, OperationKind.CHARGE)
    known = _PAID_PAGES.get((session.status, str(event.subject.get("payment_status"))))
    if known is None or outcome.amount_minor is None:
        return outcome
    kind, cause = known
    return msgspec.structs.replace(outcome, kind=kind, cause=cause)


_READERS: Final[Mapping[str, Callable[[SignedEvent], Outcome]]] = {
    "payment_intent.succeeded": _of_payment,
    "payment_intent.payment_failed": _of_payment,
    "payment_intent.canceled": _of_payment,
    "payment_intent.processing": _of_payment,
    "payment_intent.amount_capturable_updated": _of_payment,
    "payment_intent.requires_action": _of_payment,
    "refund.created": _of_refund,
    "refund.updated": _of_refund,
    "refund.failed": _of_refund,
    "charge.refund.updated": _of_refund,
    "transfer.created": _of_transfer,
    "transfer.updated": _of_transfer,
    "transfer.reversed": _of_transfer,
    "checkout.session.completed": _of_page,
    "checkout.session.expired": _of_page,
}
