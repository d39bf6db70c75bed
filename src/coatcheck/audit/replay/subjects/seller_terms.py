"""Sellers' terms: when their money matures, and how much is kept."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any
from uuid import UUID

import msgspec

from coatcheck.audit.replay.bodies import Said
from coatcheck.audit.replay.subject import Find, Heard, Subject, newest
from coatcheck.audit.replay.tables import table_of
from coatcheck.events import EventKind


class TermsSet(Said, frozen=True, kw_only=True):
    """A seller's terms were set. `revision` counts the changes."""

    seller_account: str
    hold_days: int
    reserve_basis_points: int
    reserve_days: int
    by: str
    revision: int


class TermsRow(msgspec.Struct, frozen=True):
    """What a shop has agreed with a seller."""

    shop_id: UUID
    mode: str
    seller_account: str
    hold_days: int
    reserve_basis_points: int
    reserve_days: int
    set_by: str
    set_at: datetime
    revision: int


def fold_terms(heard: Sequence[Heard[Any]], find: Find) -> Iterable[msgspec.Struct]:
    """Make the row of one seller's terms: those of the last revision."""
    told = ((each, _terms_of(each)) for each in heard)
    return newest(told, find, key=lambda row: row.seller_account, rank=lambda row: row.revision)


def _terms_of(heard: Heard[TermsSet]) -> TermsRow:
    event, body = heard.event, heard.body
    return TermsRow(
        *(event.shop_id, event.mode, body.seller_account, body.hold_days, body.reserve_basis_points),
        *(body.reserve_days, body.by, event.at, body.revision),
    )


SUBJECT = Subject(
    bodies=MappingProxyType({EventKind.SELLER_TERMS_SET.value: TermsSet}),
    fold=fold_terms,
    tables=(table_of("seller_terms", TermsRow, keys=3),),
)
