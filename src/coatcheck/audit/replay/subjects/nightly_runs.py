"""Nightly reconciliations: how often each day's was taken up, and what it took."""

from collections.abc import Iterator, Sequence
from datetime import date, datetime
from types import MappingProxyType
from typing import Any
from uuid import UUID

import msgspec

from coatcheck.audit.replay.bodies import Attempt, Said
from coatcheck.audit.replay.subject import Find, Heard, Subject
from coatcheck.audit.replay.tables import table_of
from coatcheck.events import EventKind


class NightlyBegun(Said, frozen=True, kw_only=True):
    """A gateway took the turn of a day."""

    day: date
    attempt: Attempt


class NightlyEnded(Said, frozen=True, kw_only=True):
    """Nothing was left to take."""

    taken: int
    refused: int


class NightlyRow(msgspec.Struct, kw_only=True):
    """The run of a day."""

    shop_id: UUID
    mode: str
    day: date
    attempt: int
    ended_at: datetime | None = None
    taken: int | None = None
    refused: int | None = None


def fold_nightly(heard: Sequence[Heard[Any]], find: Find) -> Iterator[msgspec.Struct]:
    """Make the row of one day's run."""
    begun = [each for each in heard if isinstance(each.body, NightlyBegun)]
    ended = [each for each in heard if isinstance(each.body, NightlyEnded)]
    if begun:
        event, last = begun[0].event, max(each.body.attempt for each in begun)
        row = NightlyRow(shop_id=event.shop_id, mode=event.mode, day=begun[0].body.day, attempt=last)
        if ended:
            row.ended_at, row.taken, row.refused = ended[0].at, ended[0].body.taken, ended[0].body.refused
        yield row
    for wrong in ended[1:] if begun else ended:
        find(wrong.event, "the run had ended before" if begun else "no event says that the run began")


SUBJECT = Subject(
    bodies=MappingProxyType({EventKind.NIGHTLY_BEGUN.value: NightlyBegun, EventKind.NIGHTLY_ENDED.value: NightlyEnded}),
    fold=fold_nightly,
    tables=(table_of("nightly_run", NightlyRow, keys=3),),
)
