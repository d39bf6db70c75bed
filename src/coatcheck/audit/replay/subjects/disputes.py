"""Disputes: how they stand, which money they moved, and what was said to them."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any
from uuid import UUID

import msgspec

from coatcheck.audit.replay.bodies import Hexadecimal, Minor, Said
from coatcheck.audit.replay.subject import Find, Heard, Subject, newest
from coatcheck.audit.replay.tables import table_of
from coatcheck.events import EventKind


class DisputeTold(Said, frozen=True, kw_only=True):
    """A dispute as it stands after a change. `revision` counts the changes."""

    dispute_id: UUID
    order_id: UUID
    provider: str
    provider_reference: str
    amount_minor: Minor
    currency: str
    reason: str | None
    status: str
    evidence_due_at: datetime | None
    word_no: int | None
    opened_at: datetime
    changed_at: datetime
    revision: int


class FundsMoved(Said, frozen=True, kw_only=True):
    """Money was taken or given back for a dispute."""

    movement_id: UUID
    dispute_id: UUID
    is_taken: bool
    ordinal: int
    name: str | None
    gross_minor: Minor
    fee_minor: Minor
    currency: str
    moved_at: datetime


class FundsNamed(Said, frozen=True, kw_only=True):
    """The PSP told its name of money that a file had shown before."""

    movement_id: UUID
    name: str


class EvidenceRequested(Said, frozen=True, kw_only=True):
    """A dispute was answered."""

    evidence_id: UUID
    dispute_id: UUID
    order_id: UUID
    provider: str
    key: str
    evidence_kind: str
    request_digest: Hexadecimal
    manifest: msgspec.Raw
    ends_it: bool
    by: str


class EvidenceSent(Said, frozen=True, kw_only=True):
    """The PSP has the answer."""

    evidence_id: UUID


class EvidenceRefused(Said, frozen=True, kw_only=True):
    """The PSP does not take the answer."""

    evidence_id: UUID
    refusal_code: str | None


class DisputeRow(msgspec.Struct, frozen=True, kw_only=True):
    """A buyer's claim against a charge. Amounts in minor units."""

    dispute_id: UUID
    order_id: UUID
    payment_id: UUID
    shop_id: UUID
    mode: str
    provider: str
    provider_reference: str
    amount_minor: int
    currency: str
    reason: str | None
    status: str
    evidence_due_at: datetime | None
    word_no: int | None
    opened_at: datetime
    changed_at: datetime
    revision: int


class MovementRow(msgspec.Struct, kw_only=True):
    """Money that a dispute moved, as the PSP's balance with us sees it."""

    movement_id: UUID
    dispute_id: UUID
    is_taken: bool
    ordinal: int
    name: str | None
    gross_minor: int
    fee_minor: int
    currency: str
    moved_at: datetime
    booked_at: datetime


class EvidenceRow(msgspec.Struct, kw_only=True):
    """An answer to a dispute, without its content."""

    evidence_id: UUID
    dispute_id: UUID
    order_id: UUID
    payment_id: UUID
    shop_id: UUID
    mode: str
    provider: str
    key: str
    kind: str
    request_digest: bytes
    manifest: msgspec.Raw
    ends_it: bool
    requested_by: str
    status: str = "PENDING"
    refusal_code: str | None = None
    created_at: datetime
    decided_at: datetime | None = None


def fold_disputes(heard: Sequence[Heard[Any]], find: Find) -> Iterator[msgspec.Struct]:
    """Make the rows of one payment's disputes."""
    told = ((each, _dispute_of(each)) for each in heard if isinstance(each.body, DisputeTold))
    yield from newest(told, find, key=lambda row: row.dispute_id, rank=lambda row: row.revision)
    yield from _movements_of(heard, find)
    yield from _evidence_of(heard, find)


def _dispute_of(heard: Heard[DisputeTold]) -> DisputeRow:
    event, body = heard.event, heard.body
    told = {name: getattr(body, name) for name in DisputeRow.__struct_fields__ if name in body.__struct_fields__}
    return DisputeRow(payment_id=event.subject_id, shop_id=event.shop_id, mode=event.mode, **told)


def _movements_of(heard: Sequence[Heard[Any]], find: Find) -> Iterator[msgspec.Struct]:
    rows: dict[UUID, MovementRow] = {}
    for each in [each for each in heard if isinstance(each.body, FundsMoved)]:
        told = {name: getattr(each.body, name) for name in MovementRow.__struct_fields__ if name != "booked_at"}
        if each.body.movement_id in rows:
            find(each.event, "the money was moved before")
        else:
            rows[each.body.movement_id] = MovementRow(booked_at=each.at, **told)
    for each in [each for each in heard if isinstance(each.body, FundsNamed)]:
        row = rows.get(each.body.movement_id)
        if row is None or row.name is not None:
            find(each.event, "no event says that the money moved" if row is None else "the money was named before")
        else:
            row.name = each.body.name
    yield from rows.values()


def _evidence_of(heard: Sequence[Heard[Any]], find: Find) -> Iterator[msgspec.Struct]:
    asked = [each for each in heard if isinstance(each.body, EvidenceRequested)]
    rows = {each.body.evidence_id: _evidence_row(each) for each in asked}
    for each in [each for each in heard if isinstance(each.body, EvidenceSent | EvidenceRefused)]:
        row = rows.get(each.body.evidence_id)
        if row is None or row.decided_at is not None:
            find(each.event, "no event says that it was asked for" if row is None else "it was decided before")
            continue
        is_sent = isinstance(each.body, EvidenceSent)
        row.status, row.decided_at = "SENT" if is_sent else "REFUSED", each.at
        row.refusal_code = None if is_sent else each.body.refusal_code
    yield from rows.values()


def _evidence_row(heard: Heard[EvidenceRequested]) -> EvidenceRow:
    event, body = heard.event, heard.body
    return EvidenceRow(
        evidence_id=body.evidence_id,
        dispute_id=body.dispute_id,
        order_id=body.order_id,
        payment_id=event.subject_id,
        shop_id=event.shop_id,
        mode=event.mode,
        provider=body.provider,
        key=body.key,
        kind=body.evidence_kind,
        request_digest=bytes.fromhex(body.request_digest),
        manifest=body.manifest,
        ends_it=body.ends_it,
        requested_by=body.by,
        created_at=event.at,
    )


_STANDINGS = (
    *(EventKind.DISPUTE_OPENED, EventKind.DISPUTE_UPDATED, EventKind.DISPUTE_WON, EventKind.DISPUTE_LOST),
    *(EventKind.DISPUTE_CLOSED, EventKind.DISPUTE_REOPENED),
)

SUBJECT = Subject(
    bodies=MappingProxyType(
        {
            **{kind.value: DisputeTold for kind in _STANDINGS},
            EventKind.DISPUTE_FUNDS_WITHDRAWN.value: FundsMoved,
            EventKind.DISPUTE_FUNDS_REINSTATED.value: FundsMoved,
            EventKind.DISPUTE_FUNDS_NAMED.value: FundsNamed,
            EventKind.DISPUTE_EVIDENCE_REQUESTED.value: EvidenceRequested,
            EventKind.DISPUTE_EVIDENCE_SENT.value: EvidenceSent,
            EventKind.DISPUTE_EVIDENCE_REFUSED.value: EvidenceRefused,
        }
    ),
    fold=fold_disputes,
    tables=(
        table_of("dispute", DisputeRow),
        table_of("dispute_movement", MovementRow),
        table_of("dispute_evidence", EvidenceRow, as_text=("manifest",)),
    ),
)
