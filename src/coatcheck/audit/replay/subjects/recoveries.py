"""Recoveries after a restore from a backup. `since` only goes back, and the end is the last word."""

from datetime import datetime
from uuid import UUID

from coatcheck.audit.replay.bodies import Said
from coatcheck.audit.replay.subject import of_whole_rows
from coatcheck.events import EventKind


class RecoveryRow(Said, frozen=True, kw_only=True):
    """A restore and the work that makes the books whole after it."""

    recovery_id: UUID
    since: datetime
    begun_at: datetime
    begun_by: str
    finished_at: datetime | None


SUBJECT = of_whole_rows(
    "recovery",
    RecoveryRow,
    [EventKind.RECOVERY_BEGUN, EventKind.RECOVERY_FINISHED],
    rank=lambda row: (row.finished_at is not None, -row.since.timestamp()),
)
