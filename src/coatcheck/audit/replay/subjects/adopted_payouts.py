"""Payouts that were taken over from a PSP, and whether their shops have come again with them."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any
from uuid import UUID

import msgspec

from coatcheck.audit.replay.bodies import Minor, Said
from coatcheck.audit.replay.subject import Find, Heard, Subject
from coatcheck.audit.replay.tables import table_of
from coatcheck.events import EventKind


class TakenOver(Said, frozen=True, kw_only=True):
    """A payout was adopted. `ahead_minor`: what of it came from the seller's pending account."""

    payout_id: UUID
    ahead_minor: Minor
    by: str


class KnownAgain(Said, frozen=True, kw_only=True):
    """The shop came again with its key."""

    payout_id: UUID


class AdoptedPayoutRow(msgspec.Struct):
    """A payout that was taken over, in minor units."""

    payout_id: UUID
    ahead_minor: int
    adopted_at: datetime
    adopted_by: str
    recognised_at: datetime | None = None


def fold_adopted(heard: Sequence[Heard[Any]], find: Find) -> Iterator[msgspec.Struct]:
    """Make the row of one adopted payout."""
    taken = [each for each in heard if isinstance(each.body, TakenOver)]
    again = [each for each in heard if isinstance(each.body, KnownAgain)]
    if taken:
        body: TakenOver = taken[0].body
        row = AdoptedPayoutRow(body.payout_id, body.ahead_minor, taken[0].at, body.by)
        if again:
            row.recognised_at = again[0].at
        yield row
    for needy in (*taken[1:], *(again[1:] if taken else again)):
        find(needy.event, "said before" if taken else "no event says that the payout was adopted")


SUBJECT = Subject(
    bodies=MappingProxyType(
        {
            EventKind.PAYOUT_ADOPTED.value: TakenOver,
            EventKind.PAYOUT_RECOGNISED.value: KnownAgain,
        }
    ),
    fold=fold_adopted,
    tables=(table_of("adopted_payout", AdoptedPayoutRow),),
)
