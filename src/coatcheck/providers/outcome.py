"""An outcome is a value: what a PSP's answer, or its silence, means for our money."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum

import msgspec


class ToldBy(StrEnum):
    """What an answer came by, where it is not the answer to a sending: on which rung of finding out we were told."""

    LOOK_UP = "look_up"
    WEBHOOK = "webhook"
    FILE = "file"
    PERSON = "person"


class OutcomeKind(StrEnum):
    """APPROVED and DECLINED are the PSP's own word. Everything else is not a decision.

    NOT_SENT: the PSP certainly did nothing (nothing left this machine, or the PSP says it never began).
    UNKNOWN: it may have been done; only asking can tell. PENDING: the PSP accepted it and decides later.
    NOT_FOUND: a look-up's answer only; soon after an unclear send it proves nothing.
    """

    APPROVED = "APPROVED"
    DECLINED = "DECLINED"
    PENDING = "PENDING"
    NOT_SENT = "NOT_SENT"
    UNKNOWN = "UNKNOWN"
    NOT_FOUND = "NOT_FOUND"

    @property
    def is_definite(self) -> bool:
        """Whether the PSP has decided."""
        return self in (OutcomeKind.APPROVED, OutcomeKind.DECLINED)


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What one call to a PSP brought back.

    `amount_minor`, `currency` and `reference` are the PSP's own words, to be compared with what was asked before
    anything is posted. `cause` names a non-decision in a few words; `evidence` is what a person would want to see
    (status line, PSP error code, request id): never a secret, never a card number.
    `is_cancelled` with DECLINED: no refusal of the card, the PSP ended it (the page or the authorization expired, the
    buyer went away, it was voided). `came_back` with DECLINED, of a payout: the money had gone, and was sent back.
    `redirect_url`: where the buyer pays, of a registered hosted page. `expires_at`: until when an authorization or a
    page lives, in the PSP's word.
    `told_by`: None is the answer to the sending itself. `several`: see `more_than_one`.
    """

    kind: OutcomeKind
    provider_reference: str | None = None
    reference: str | None = None
    amount_minor: int | None = None
    currency: str | None = None
    is_live: bool | None = None
    decline_code: str | None = None
    cause: str | None = None
    evidence: str | None = None
    is_server_error: bool = False
    retry_after: timedelta | None = None
    is_cancelled: bool = False
    came_back: bool = False
    redirect_url: str | None = None
    expires_at: datetime | None = None
    told_by: ToldBy | None = None
    several: tuple[str, ...] = ()


def more_than_one(what: str, approved: Sequence[Outcome]) -> Outcome:
    """Say that several objects under our one reference moved money: which of them is ours a person must say (A8).

    `several` are the PSP's ids of them.
    """
    references = tuple(str(outcome.provider_reference) for outcome in approved)
    return Outcome(
        kind=OutcomeKind.UNKNOWN,
        cause=f"more than one {what} moved money",
        evidence=" ".join(references),
        several=references,
    )
