"""Breaks that somebody was called for."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any
from uuid import UUID

import msgspec

from coatcheck.audit.replay.bodies import Said
from coatcheck.audit.replay.subject import Find, Heard, Subject
from coatcheck.audit.replay.tables import table_of
from coatcheck.events import EventKind


class Escalated(Said, frozen=True, kw_only=True):
    """Somebody was called for a break."""

    break_id: UUID


class EscalatedRow(msgspec.Struct, frozen=True):
    """A break that somebody was called for, once."""

    break_id: UUID
    escalated_at: datetime


def fold_escalations(heard: Sequence[Heard[Any]], find: Find) -> Iterator[msgspec.Struct]:
    """Make the row of one break."""
    yield EscalatedRow(heard[0].body.break_id, heard[0].at)
    for again in heard[1:]:
        find(again.event, "somebody was called for it before")


SUBJECT = Subject(
    bodies=MappingProxyType({EventKind.BREAK_ESCALATED.value: Escalated}),
    fold=fold_escalations,
    tables=(table_of("escalated_break", EscalatedRow),),
)
