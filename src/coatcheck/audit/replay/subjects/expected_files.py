"""Files that are waited for, day by day."""

from collections.abc import Iterator, Sequence
from datetime import date, datetime
from types import MappingProxyType
from typing import Any
from uuid import UUID

import msgspec

from coatcheck.audit.replay.bodies import Said
from coatcheck.audit.replay.subject import Find, Heard, Subject
from coatcheck.audit.replay.tables import table_of
from coatcheck.events import EventKind


class Expected(Said, frozen=True, kw_only=True):
    """A day's file is waited for."""

    provider: str
    day: date
    due_at: datetime


class Arrived(Said, frozen=True, kw_only=True):
    """It was taken."""

    file_id: UUID


class ExpectedRow(msgspec.Struct, kw_only=True):
    """A day's file that must be here until a time."""

    shop_id: UUID
    mode: str
    provider: str
    day: date
    due_at: datetime
    file_id: UUID | None = None
    arrived_at: datetime | None = None


def fold_expected(heard: Sequence[Heard[Any]], find: Find) -> Iterator[msgspec.Struct]:
    """Make the row of one day's file."""
    expected = [each for each in heard if isinstance(each.body, Expected)]
    arrived = [each for each in heard if isinstance(each.body, Arrived)]
    if expected:
        event, body = expected[0].event, expected[0].body
        row = ExpectedRow(
            shop_id=event.shop_id, mode=event.mode, provider=body.provider, day=body.day, due_at=body.due_at
        )
        if arrived:
            row.file_id, row.arrived_at = arrived[0].body.file_id, arrived[0].at
        yield row
    for wrong in (*expected[1:], *(arrived[1:] if expected else arrived)):
        find(wrong.event, "it was told before" if expected else "no event says that the file was waited for")


SUBJECT = Subject(
    bodies=MappingProxyType({EventKind.FILE_EXPECTED.value: Expected, EventKind.FILE_ARRIVED.value: Arrived}),
    fold=fold_expected,
    tables=(table_of("expected_file", ExpectedRow, keys=4),),
)
