"""Files of PSPs and banks that were taken, and what the books have of their batches."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any
from uuid import UUID

import msgspec

from coatcheck.audit.replay.bodies import Hexadecimal, Minor, Said
from coatcheck.audit.replay.subject import Find, Heard, Subject
from coatcheck.audit.replay.tables import Place, place_of, table_of
from coatcheck.events import EventKind


class BookedBatch(msgspec.Struct, frozen=True):
    """What the books have of a batch and currency since a file."""

    batch: str
    currency: str
    version: int
    fee_minor: Minor
    payout_minor: Minor
    converted_minor: Minor


class FileBooked(Said, frozen=True, kw_only=True):
    """A file was taken."""

    file_id: UUID
    provider: str
    format: str
    name: str
    content_digest: Hexadecimal
    lines: int
    received_at: datetime
    by: str
    batches: list[BookedBatch]


class FileRow(msgspec.Struct, frozen=True):
    """A file that was taken."""

    file_id: UUID
    shop_id: UUID
    mode: str
    provider: str
    format: str
    name: str
    content_digest: bytes
    lines: int
    received_at: datetime
    received_by: str


class BatchTold(msgspec.Struct, frozen=True):
    """A batch and currency as one file has left it."""

    shop_id: UUID
    mode: str
    provider: str
    batch: str
    currency: str
    version: int
    file_id: UUID
    fee_minor: int
    payout_minor: int
    converted_minor: int


class BatchRow(BatchTold, frozen=True):
    """A batch and currency by now, with what of it is unexplained."""

    unexplained_minor: int


def fold_files(heard: Sequence[Heard[Any]], find: Find) -> Iterator[msgspec.Struct]:
    """Make the rows of one file."""
    event, body = heard[0].event, heard[0].body
    yield FileRow(
        *(body.file_id, event.shop_id, event.mode, body.provider, body.format, body.name),
        *(bytes.fromhex(body.content_digest), body.lines, body.received_at, body.by),
    )
    for batch in body.batches:
        yield BatchTold(
            *(event.shop_id, event.mode, body.provider, batch.batch, batch.currency, batch.version, body.file_id),
            *(batch.fee_minor, batch.payout_minor, batch.converted_minor),
        )
    for again in heard[1:]:
        find(again.event, "the file was taken before")


_BATCH = table_of("settlement_batch", BatchRow, keys=5, is_folded=False)
_TOLD = Place(
    name="settlement_batch_told",
    like="SELECT shop_id, mode, provider, batch, currency, version, file_id, fee_minor, payout_minor, "
    "converted_minor "
    "FROM public.settlement_batch",
    row=BatchTold,
)
# The last version counts; unexplained is what of it stands in suspense for breaks that are open.
_BATCHES = f"""
    INSERT INTO pg_temp.{place_of("settlement_batch")} ({", ".join(_BATCH.every_column)})
    SELECT DISTINCT ON (t.shop_id, t.mode, t.provider, t.batch, t.currency) t.*, coalesce(k.unexplained, 0)
      FROM pg_temp.{place_of(_TOLD.name)} AS t
      LEFT JOIN (SELECT file_id, batch, currency, sum(suspense_minor) AS unexplained
                   FROM pg_temp.{place_of("reconciliation_break")} WHERE closed_at IS NULL GROUP BY 1, 2, 3) AS k
        ON (k.file_id, k.batch, k.currency) = (t.file_id, t.batch, t.currency)
     ORDER BY t.shop_id, t.mode, t.provider, t.batch, t.currency, t.version DESC
"""

SUBJECT = Subject(
    bodies=MappingProxyType({EventKind.SETTLEMENT_BOOKED.value: FileBooked}),
    fold=fold_files,
    tables=(table_of("settlement_file", FileRow), _BATCH),
    places=(_TOLD,),
    sums=(_BATCHES,),
)
