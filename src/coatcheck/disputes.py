"""Disputes: what PSPs say of them, booked once in whatever order it comes, and what shops answer. Calls nobody.

Every word passes the order's one row, as every refund does, so that an order cannot be refunded beside a dispute
(hazard D3). docs/disputes.md has the states.
"""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

import asyncpg
import msgspec

from coatcheck.clock import Clock
from coatcheck.ids import OPERATION, evidence_id_of, parse_id, time_ordered_ids
from coatcheck.providers.disputes import DisputeNews, EvidenceBody, Parcel
from coatcheck.states import DisputeStatus, EvidenceKind, EvidenceStatus, Mode
from coatcheck.store import Store

NEWEST = (datetime(9999, 1, 1, tzinfo=UTC), UUID(int=2**128 - 1))
_ASK_AGAIN = timedelta(days=1)
_DISPUTABLE = frozenset({"charge", "authorize", "capture"})
_APPLY = (
    "SELECT place, outcome, dispute_id FROM apply_dispute_news"
    "($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17) ORDER BY place"
)


class NewsOutcome(StrEnum):
    """What became of a PSP's word about a dispute; see 120_disputes.sql. UNMATCHED: its charge is none of ours."""

    APPLIED = "applied"
    NO_EFFECT = "no_effect"
    REFUSED = "refused"
    NOT_CAPTURED = "not_captured"
    UNMATCHED = "unmatched"


class EvidenceVerdict(StrEnum):
    """What the dispute's row said of an answer; the first two are good."""

    REQUESTED = "requested"
    EXISTS = "exists"
    KEY_REUSED = "key_reused"
    UNKNOWN = "unknown"
    NOT_OPEN = "not_open"
    BUSY = "busy"

    @property
    def is_good(self) -> bool:
        """Whether there is such an answer."""
        return self in (EvidenceVerdict.REQUESTED, EvidenceVerdict.EXISTS)


class Movement(msgspec.Struct, frozen=True, kw_only=True):
    """Money that was taken (gross below zero) or given back for a dispute, as booked. `is_settled`: a file has it."""

    gross_minor: int
    fee_minor: int
    currency: str
    moved_at: datetime
    booked_at: datetime
    is_settled: bool


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was said: what it is, how large, and its SHA-256. The content itself is not kept."""

    part: str
    size_bytes: int
    digest: str
    name: str | None = None
    content_type: str | None = None


class EvidenceView(msgspec.Struct, frozen=True, kw_only=True):
    """An answer to a dispute as it stands. `cause`: why it has not arrived yet."""

    evidence_id: UUID
    kind: EvidenceKind
    parts: list[Part]
    ends_it: bool
    requested_by: str
    status: EvidenceStatus
    refusal_code: str | None
    cause: str | None
    created_at: datetime
    decided_at: datetime | None


class DisputeView(msgspec.Struct, frozen=True, kw_only=True):
    """A dispute as it stands: the amount in the PSP's word, and beneath it which money has moved."""

    dispute_id: UUID
    order_id: UUID
    payment_id: UUID
    shop_id: UUID
    mode: Mode
    payment_order_id: str
    seller_account: str
    provider: str
    provider_reference: str
    amount_minor: int
    currency: str
    reason: str | None
    status: DisputeStatus
    evidence_due_at: datetime | None
    opened_at: datetime
    changed_at: datetime
    movements: list[Movement]
    evidence: list[EvidenceView]


class DisputeQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which disputes: of a shop and mode or of all, of one status, of one order."""

    shop_id: UUID | None = None
    mode: Mode | None = None
    status: DisputeStatus | None = None
    order_id: UUID | None = None


class EvidenceRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a shop wants to say. `ends_it`: the PSP is to decide now; an acceptance always ends it."""

    kind: EvidenceKind
    body: EvidenceBody = EvidenceBody()
    ends_it: bool = True

    def digest(self) -> bytes:
        """Name the content: SHA-256, the same for the same request."""
        return hashlib.sha256(msgspec.json.encode((1, self.kind, self.ends_it, self.manifest()))).digest()

    def manifest(self) -> list[Part]:
        """List what is in it, in one order, without saying it."""
        texts = [_text_part(part, text) for part, text in sorted(self.body.texts.items())]
        files = [
            Part(
                part=each.part,
                size_bytes=len(each.content),
                digest=hashlib.sha256(each.content).hexdigest(),
                name=each.name,
                content_type=each.content_type,
            )
            for each in sorted(self.body.files, key=lambda each: each.part)
        ]
        return texts + files


def _text_part(part: str, text: str) -> Part:
    said = text.encode()
    return Part(part=part, size_bytes=len(said), digest=hashlib.sha256(said).hexdigest())


class Disputes:
    """Books what PSPs say, and commits what shops answer."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def apply(self, news: Sequence[DisputeNews]) -> list[NewsOutcome]:
        """Book what PSPs say of disputes: how they stand, and which money moved. One commit; an outcome for each.

        Each must say all of it (`is_whole`). Posts what was taken or given back, with its fees. Idempotent; any order
        and any repetition ends in the same state (hazards C2, C3, D12). Locks: the orders, in id order; accounts.
        """
        matched = await self._match(news)
        outcomes = [each if isinstance(each, NewsOutcome) else NewsOutcome.NO_EFFECT for each in matched]
        known = [(place, each) for place, each in enumerate(matched) if isinstance(each, _Matched)]
        if known:
            columns = _columns(self._clock.now(), [each for _, each in known])
            rows = await self._store.pool.fetch(_APPLY, *columns)
            for (place, _), row in zip(known, rows, strict=True):
                outcomes[place] = NewsOutcome(row["outcome"])
        return outcomes

    async def _match(self, news: Sequence[DisputeNews]) -> list["_Matched | NewsOutcome"]:
        """Find the order that each is about, by our reference; authentic is not valid (hazards A15, C10)."""
        wanted = [parse_id(OPERATION, each.reference or "") for each in news]
        rows = await self._store.pool.fetch(
            self._store.queries["dispute_order"], [each for each in wanted if each is not None]
        )
        found = {row["operation_id"]: row for row in rows}
        return [
            _matched(each, None if name is None else found.get(name)) for each, name in zip(news, wanted, strict=True)
        ]

    async def read(self, dispute_ids: Sequence[UUID]) -> list[DisputeView]:
        """Show disputes as they stand, newest first; those that are not there are left out."""
        rows = await self._store.pool.fetch(self._store.queries["dispute_read"], list(dispute_ids))
        return await self._views(rows)

    async def find(
        self, query: DisputeQuery, *, after: tuple[datetime, UUID] | None = None, limit: int = 20
    ) -> list[DisputeView]:
        """List disputes, newest first, after a place (`opened_at`, `dispute_id`)."""
        rows = await self._store.pool.fetch(
            self._store.queries["dispute_list"],
            *(query.shop_id, query.mode, *(after or NEWEST), limit, query.status, query.order_id),
        )
        return await self._views(rows)

    async def _views(self, rows: Sequence[asyncpg.Record]) -> list[DisputeView]:
        ids = [row["dispute_id"] for row in rows]
        moved: dict[UUID, list[Movement]] = {each: [] for each in ids}
        for row in await self._store.pool.fetch(self._store.queries["dispute_movements"], ids):
            moved[row["dispute_id"]].append(_movement_of(row))
        said: dict[UUID, list[EvidenceView]] = {each: [] for each in ids}
        for row in await self._store.pool.fetch(self._store.queries["evidence_list"], ids):
            said[row["dispute_id"]].append(_evidence_of(row))
        return [_view_of(row, moved[row["dispute_id"]], said[row["dispute_id"]]) for row in rows]

    async def request(
        self, dispute_id: UUID, asked: EvidenceRequest, *, key: str, by: str, lease: timedelta
    ) -> tuple[EvidenceVerdict, UUID]:
        """Commit an answer with all that will be sent, before the PSP hears of it; this process has it for `lease`.

        Moves no money. Idempotent on the key, for ever. Locks: the dispute.
        """
        at, evidence_id = self._clock.now(), evidence_id_of(dispute_id, key)
        verdict = await self._store.pool.fetchval(
            "SELECT request_evidence($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
            *(at, at + lease, dispute_id, evidence_id, key, asked.kind.value, asked.digest()),
            *(msgspec.json.encode(asked.manifest()).decode(), asked.ends_it, by),
            *(msgspec.msgpack.encode(asked.body), time_ordered_ids(at, 1)[0]),
        )
        return EvidenceVerdict(verdict), evidence_id

    async def parcels(self, evidence_ids: Sequence[UUID]) -> list[Parcel]:
        """Read answers that are still to be passed on, with their content."""
        rows = await self._store.pool.fetch(self._store.queries["evidence_parcel"], list(evidence_ids))
        return [_parcel_of(row) for row in rows]

    async def claim_parcels(self, lease: timedelta, providers: Sequence[str], most: int) -> list[Parcel]:
        """Take over answers that nobody passes on at the moment; their attempt numbers go up."""
        at = self._clock.now()
        rows = await self._store.pool.fetch(
            "SELECT evidence_id FROM claim_parcels($1, $2, $3, $4)", at, at + lease, list(providers), most
        )
        return await self.parcels([row["evidence_id"] for row in rows]) if rows else []

    async def settle_parcel(self, parcel: Parcel, status: EvidenceStatus, refusal_code: str | None = None) -> bool:
        """Note that the PSP has an answer, or refuses it, and throw its content away. False for who comes late."""
        at = self._clock.now()
        settled: bool = await self._store.pool.fetchval(
            "SELECT settle_parcel($1, $2, $3, $4, $5, $6)",
            *(at, parcel.evidence_id, parcel.attempt, status.value, refusal_code, time_ordered_ids(at, 1)[0]),
        )
        return settled

    async def postpone_parcel(self, parcel: Parcel, due_at: datetime, cause: str) -> None:
        """Put an answer back that may or may not have arrived."""
        await self._store.pool.execute(
            "SELECT postpone_parcel($1, $2, $3, $4)", parcel.evidence_id, parcel.attempt, due_at, cause
        )

    async def claim_due(self, providers: Sequence[str], most: int) -> list[UUID]:
        """Take open disputes that are to be asked about now; they come again in a day."""
        at = self._clock.now()
        rows = await self._store.pool.fetch(
            "SELECT dispute_id FROM claim_disputes($1, $2, $3, $4)", at, at + _ASK_AGAIN, list(providers), most
        )
        return [row["dispute_id"] for row in rows]


class _Matched(NamedTuple):
    """A word and its order. Of a page we may have stored the page's id: no charge's id to compare."""

    order_id: UUID
    charge_reference: str | None
    news: DisputeNews


def _matched(news: DisputeNews, row: asyncpg.Record | None) -> _Matched | NewsOutcome:
    if row is None or row["kind"] not in _DISPUTABLE or not news.is_whole:
        return NewsOutcome.UNMATCHED
    if (row["provider"], row["mode"]) != (news.provider, news.mode.value):
        return NewsOutcome.REFUSED
    return _Matched(row["order_id"], None if row["is_hosted"] else news.charge_reference, news)


def _columns(at: datetime, told: Sequence[_Matched]) -> tuple[object, ...]:
    words = [each.news for each in told]
    moved = [(place, each) for place, news in enumerate(words, 1) for each in news.movements]
    return (
        at,
        [each.order_id for each in told],
        [news.provider_reference for news in words],
        [each.charge_reference for each in told],
        [None if news.status is None else news.status.value for news in words],
        [news.reason for news in words],
        [news.amount_minor for news in words],
        [news.currency for news in words],
        [news.evidence_due_at for news in words],
        [news.word_no for news in words],
        [news.type for news in words],
        [place for place, _ in moved],
        [each.name for _, each in moved],
        [each.gross_minor for _, each in moved],
        [each.fee_minor for _, each in moved],
        [each.currency for _, each in moved],
        [each.moved_at or at for _, each in moved],
    )


def _movement_of(row: asyncpg.Record) -> Movement:
    return Movement(
        gross_minor=row["gross_minor"],
        fee_minor=row["fee_minor"],
        currency=row["currency"],
        moved_at=row["moved_at"],
        booked_at=row["booked_at"],
        is_settled=row["is_settled"],
    )


def _evidence_of(row: asyncpg.Record) -> EvidenceView:
    return EvidenceView(
        evidence_id=row["evidence_id"],
        kind=EvidenceKind(row["kind"]),
        parts=msgspec.json.decode(row["manifest"], type=list[Part]),
        ends_it=row["ends_it"],
        requested_by=row["requested_by"],
        status=EvidenceStatus(row["status"]),
        refusal_code=row["refusal_code"],
        cause=row["cause"],
        created_at=row["created_at"],
        decided_at=row["decided_at"],
    )


def _view_of(row: asyncpg.Record, moved: list[Movement], said: list[EvidenceView]) -> DisputeView:
    return DisputeView(
        dispute_id=row["dispute_id"],
        order_id=row["order_id"],
        payment_id=row["payment_id"],
        shop_id=row["shop_id"],
        mode=Mode(row["mode"]),
        payment_order_id=row["payment_order_id"],
        seller_account=row["seller_account"],
        provider=row["provider"],
        provider_reference=row["provider_reference"],
        amount_minor=row["amount_minor"],
        currency=row["currency"],
        reason=row["reason"],
        status=DisputeStatus(row["status"]),
        evidence_due_at=row["evidence_due_at"],
        opened_at=row["opened_at"],
        changed_at=row["changed_at"],
        movements=moved,
        evidence=said,
    )


def _parcel_of(row: asyncpg.Record) -> Parcel:
    return Parcel(
        evidence_id=row["evidence_id"],
        dispute_id=row["dispute_id"],
        order_id=row["order_id"],
        kind=EvidenceKind(row["kind"]),
        provider=row["provider"],
        provider_reference=row["provider_reference"],
        mode=Mode(row["mode"]),
        attempt=row["attempt"],
        first_sent_at=row["first_sent_at"],
        ends_it=row["ends_it"],
        body=msgspec.msgpack.decode(row["body"], type=EvidenceBody),
    )
