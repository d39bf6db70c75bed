"""What a PSP says of a dispute, and what can be said to it. No PSP is called here.

A dispute has two halves that come in any order: how it stands, where a later word takes the place of an earlier one,
and which money moved, where each movement is booked once, whatever the status suggests.
"""

from datetime import datetime
from typing import Annotated, Protocol, runtime_checkable
from uuid import UUID

import msgspec

from coatcheck.ids import EVIDENCE, print_id
from coatcheck.providers.outcome import OutcomeKind
from coatcheck.states import DisputeStatus, EvidenceKind, Mode

_EXACT = 2**53 - 1
_Signed = Annotated[int, msgspec.Meta(ge=-_EXACT, le=_EXACT)]


class FundsMovement(msgspec.Struct, frozen=True, kw_only=True):
    """Money that the PSP took or gave back for a dispute; minor units of `currency`, which need not be the charge's.

    Signs are those of the PSP's balance with us: a chargeback's gross is below zero, its fee above. `name` tells it
    from the dispute's other movements, and is the same however often it is told. `moved_at` None: the PSP does not say.
    """

    name: str
    gross_minor: _Signed
    fee_minor: _Signed
    currency: str
    moved_at: datetime | None = None


class DisputeNews(msgspec.Struct, frozen=True, kw_only=True):
    """What a PSP says of one dispute. Amounts as it says them: they need not be the order's (hazard D7).

    `reference` is our operation's printed id, `charge_reference` the PSP's own id of the charge, where it gives them.
    `word_no`: how late in the dispute's life this word is, by the PSP's own count or clock; only a higher one takes the
    place of a lower one. `type` is the PSP's own word for the event. `is_hint`: an event that does not show all of it;
    whoever can asks.
    """

    provider: str
    mode: Mode
    provider_reference: str
    type: str
    reference: str | None = None
    charge_reference: str | None = None
    status: DisputeStatus | None = None
    reason: str | None = None
    amount_minor: Annotated[int, msgspec.Meta(ge=1, le=_EXACT)] | None = None
    currency: str | None = None
    evidence_due_at: datetime | None = None
    word_no: int = 0
    movements: tuple[FundsMovement, ...] = ()
    is_hint: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether this alone says how the dispute stands."""
        return None not in (self.status, self.amount_minor, self.currency) and not self.is_hint


class EvidenceFile(msgspec.Struct, frozen=True, kw_only=True):
    """A document that speaks for the shop. `part` says what it is: one of FILE_PARTS."""

    part: str
    name: str
    content_type: str
    content: bytes


class EvidenceBody(msgspec.Struct, frozen=True, kw_only=True):
    """What is passed on, frozen when it was asked for. `texts` by part: some of TEXT_PARTS."""

    texts: dict[str, str] = {}
    files: tuple[EvidenceFile, ...] = ()


class Parcel(msgspec.Struct, frozen=True, kw_only=True):
    """An answer to a dispute on its way to the PSP. `ends_it`: the PSP is to decide now; else more may be added."""

    evidence_id: UUID
    dispute_id: UUID
    order_id: UUID
    kind: EvidenceKind
    provider: str
    provider_reference: str
    mode: Mode
    attempt: int
    first_sent_at: datetime
    ends_it: bool
    body: EvidenceBody

    @property
    def reference(self) -> str:
        """Our name of it, and the idempotency key: the evidence's printed id."""
        return print_id(EVIDENCE, self.evidence_id)


class DisputeAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What one call about a dispute brought back.

    APPROVED: the PSP has done it, or shows the dispute; DECLINED: it will not, `refusal_code` says why; everything else
    decides nothing. `evidence`: our references of what the PSP has from us.
    """

    kind: OutcomeKind
    news: DisputeNews | None = None
    evidence: frozenset[str] = frozenset()
    refusal_code: str | None = None
    cause: str | None = None


TEXT_PARTS = frozenset(
    {
        "access_activity_log",
        "cancellation_rebuttal",
        "duplicate_charge_explanation",
        "explanation",
        "product_description",
        "refund_policy_disclosure",
        "refund_refusal_explanation",
        "service_date",
        "shipping_carrier",
        "shipping_date",
        "shipping_tracking_number",
    }
)
FILE_PARTS = frozenset(
    {
        "cancellation_policy",
        "customer_communication",
        "customer_signature",
        "duplicate_charge_documentation",
        "other_file",
        "receipt",
        "refund_policy",
        "service_documentation",
        "shipping_documentation",
    }
)


class DisputePage(msgspec.Struct, frozen=True):
    """A part of a PSP's list of disputes; `following` is the place of the next part, None at the end."""

    news: list[DisputeNews]
    following: str | None = None


@runtime_checkable
class DisputeRegistry(Protocol):
    """A PSP that lists the disputes it has, for books that may have forgotten some (hazard G16)."""

    async def list_disputes_since(self, since: datetime, at: datetime, following: str | None = None) -> DisputePage:
        """List the disputes opened since a time, as they stand; `at` is when we ask. Raises NotListedError."""
        ...


@runtime_checkable
class DisputeProvider(Protocol):
    """A PSP that can be asked about disputes and answered. Calls never raise for what the outside world does."""

    async def read_dispute(self, provider_reference: str, mode: Mode, at: datetime) -> DisputeAnswer:
        """Ask how a dispute stands; `at` is when we ask. Moves no money. NOT_FOUND: the PSP knows of none."""
        ...

    async def submit_evidence(self, parcel: Parcel, at: datetime) -> DisputeAnswer:
        """Pass an answer on. Idempotent at the PSP on `parcel.reference` inside its window."""
        ...
