"""Breaks: where a file and the books differ. An open one goes along with its batch; a closed one may open again."""

from datetime import datetime
from uuid import UUID

from coatcheck.audit.replay.bodies import Minor, Said
from coatcheck.audit.replay.subject import of_whole_rows
from coatcheck.events import EventKind


class BreakRow(Said, frozen=True, kw_only=True):
    """A break, in minor units."""

    break_id: UUID
    shop_id: UUID
    mode: str
    provider: str
    kind: str
    file_id: UUID | None
    line_no: int | None
    batch: str | None
    operation_id: UUID | None
    currency: str | None
    expected_minor: Minor | None
    stated_minor: Minor | None
    suspense_minor: Minor
    detail: str
    opened_at: datetime
    closed_at: datetime | None
    closed_by: str | None
    reason: str | None
    moved: int


SUBJECT = of_whole_rows(
    "reconciliation_break",
    BreakRow,
    [EventKind.BREAK_RECORDED],
    rank=lambda row: (
        row.moved,
        row.closed_at is not None,
    ),  # only an open one moves, and one that opens again has moved
)
