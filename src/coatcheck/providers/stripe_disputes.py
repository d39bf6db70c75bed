"""What Stripe's Dispute means in our words, and evidence in Stripe's. Nothing here talks to Stripe.

An event of a dispute shows none of our references and is only taken as a hint: the Dispute is read with its
PaymentIntent, whose metadata has ours. Stripe counts no versions, so a reading's word is as late as the moment when we
asked.

| status | here |
|---|---|
| warning_needs_response, warning_under_review | INQUIRY: no money has moved |
| needs_response, appeal_needs_response | NEEDS_RESPONSE |
| under_review, appeal_under_review | UNDER_REVIEW |
| won; lost | WON; LOST |
| warning_closed, prevented | CLOSED |

Which money moved is in its balance transactions, each with an id of its own, in the currency of the account's balance.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

import msgspec

from coatcheck.providers.disputes import DisputeAnswer, DisputeNews, FundsMovement, Parcel
from coatcheck.providers.outcome import OutcomeKind
from coatcheck.providers.stripe_words import PAGE_KEY, REFERENCE_KEY, from_stripe_amount
from coatcheck.states import DisputeStatus, Mode

PROVIDER: Final = "stripe"
EVIDENCE_KEY: Final = "coatcheck_evidence"
"""On a Dispute: our references of all evidence that it has from us, newest last."""
EVENTS: Final = frozenset(
    f"charge.dispute.{verb}" for verb in ("created", "updated", "funds_withdrawn", "funds_reinstated", "closed")
)
_STATUSES: Final[Mapping[str, DisputeStatus]] = {
    "warning_needs_response": DisputeStatus.INQUIRY,
    "warning_under_review": DisputeStatus.INQUIRY,
    "warning_closed": DisputeStatus.CLOSED,
    "prevented": DisputeStatus.CLOSED,
    "needs_response": DisputeStatus.NEEDS_RESPONSE,
    "appeal_needs_response": DisputeStatus.NEEDS_RESPONSE,
    "under_review": DisputeStatus.UNDER_REVIEW,
    "appeal_under_review": DisputeStatus.UNDER_REVIEW,
    "won": DisputeStatus.WON,
    "lost": DisputeStatus.LOST,
}
# Where Stripe's word for a part differs from ours.
_PARTS: Final = {"explanation": "uncategorized_text", "other_file": "uncategorized_file"}
_METADATA_MOST: Final = 500  # characters of a value, by Stripe's documentation

_Seconds = Annotated[int, msgspec.Meta(ge=0, le=253_402_300_799)]
DisputeId = Annotated[str, msgspec.Meta(pattern=r"\A[a-z]{2,4}_[A-Za-z0-9_]{1,200}\Z")]


class _Movement(msgspec.Struct):
    id: str
    amount: int
    fee: int
    currency: str
    created: _Seconds


class _Payment(msgspec.Struct):
    id: str
    metadata: dict[str, str] | None = None


class _Details(msgspec.Struct):
    due_by: _Seconds | None = None


class Dispute(msgspec.Struct, kw_only=True):
    """A Dispute with its PaymentIntent sent along."""

    id: DisputeId
    object: Literal["dispute"]
    amount: int
    currency: str
    status: str
    reason: str
    livemode: bool
    evidence_details: _Details | None = None
    balance_transactions: list[_Movement] = []
    payment_intent: str | _Payment | None = None
    metadata: dict[str, str] | None = None

    @property
    def evidence(self) -> tuple[str, ...]:
        """Our references of the evidence that Stripe has."""
        return tuple((self.metadata or {}).get(EVIDENCE_KEY, "").split())


class Hint(msgspec.Struct):
    """As much of a Dispute as an event is believed."""

    id: DisputeId
    object: Literal["dispute"]
    livemode: bool


def hint_of(shown: Mapping[str, Any], told: str) -> DisputeNews:
    """Read which dispute an event is about. Raises ValueError."""
    hint = msgspec.convert(shown, Hint)
    mode = Mode.LIVE if hint.livemode else Mode.TEST
    return DisputeNews(provider=PROVIDER, mode=mode, provider_reference=hint.id, type=told, is_hint=True)


def news_of(dispute: Dispute, asked_at: datetime) -> DisputeNews:
    """Put a Dispute into our words. Raises ValueError for what has no place in them."""
    status = _STATUSES.get(dispute.status)
    if status is None:
        raise ValueError(f"a Dispute that is {dispute.status!r}")
    payment = dispute.payment_intent
    metadata = (payment.metadata or {}) if isinstance(payment, _Payment) else {}
    currency = dispute.currency.upper()
    due = dispute.evidence_details.due_by if dispute.evidence_details is not None else None
    return DisputeNews(
        provider=PROVIDER,
        mode=Mode.LIVE if dispute.livemode else Mode.TEST,
        provider_reference=dispute.id,
        type=dispute.status,
        reference=metadata.get(REFERENCE_KEY),
        # Of a page we have stored the page's id, not its PaymentIntent's.
        charge_reference=payment.id if isinstance(payment, _Payment) and PAGE_KEY not in metadata else None,
        status=status,
        reason=dispute.reason[:200],
        amount_minor=_exact(from_stripe_amount(dispute.amount, currency)),
        currency=currency,
        evidence_due_at=datetime.fromtimestamp(due, UTC) if due else None,
        word_no=int(asked_at.timestamp() * 1_000_000),
        movements=tuple(_movement_of(each) for each in dispute.balance_transactions),
    )


def _movement_of(moved: _Movement) -> FundsMovement:
    currency = moved.currency.upper()
    return FundsMovement(
        name=moved.id,
        gross_minor=from_stripe_amount(moved.amount, currency),
        fee_minor=from_stripe_amount(moved.fee, currency),
        currency=currency,
        moved_at=datetime.fromtimestamp(moved.created, UTC),
    )


def _exact(amount_minor: int) -> int:
    if amount_minor < 1:
        raise ValueError("a Dispute about nothing")
    return amount_minor


def answer_of(dispute: Dispute, asked_at: datetime) -> DisputeAnswer:
    """Say what a Dispute that Stripe has shown means."""
    return DisputeAnswer(
        kind=OutcomeKind.APPROVED, news=news_of(dispute, asked_at), evidence=frozenset(dispute.evidence)
    )


def update_of(parcel: Parcel, files: Mapping[str, str], known: tuple[str, ...]) -> dict[str, Any]:
    """Write the update of a Dispute. `files`: Stripe's ids of the uploaded ones by part; `known`: what it has."""
    parts = {**parcel.body.texts, **files}
    references = [*(each for each in known if each != parcel.reference), parcel.reference]
    while len(" ".join(references)) > _METADATA_MOST:
        references.pop(0)
    return {
        "evidence": {_PARTS.get(part, part): said for part, said in sorted(parts.items())},
        "metadata": {EVIDENCE_KEY: " ".join(references)},
        "submit": parcel.ends_it,
        "expand": ["payment_intent"],
    }
