"""Events that nobody could handle: a person looks at them, has them tried again, or dismisses them.

None of it moves money of its own accord, and nothing that a PSP sent is ever changed or thrown away.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NoReturn
from uuid import UUID

import asyncpg
import msgspec

from coatcheck.clock import Clock
from coatcheck.errors import CoatcheckError, ErrorCode, Problem
from coatcheck.ids import INBOX, print_id
from coatcheck.inbox.hearing import EventOutcome
from coatcheck.logs import redact, redact_text
from coatcheck.pan import contains_card_number, contains_card_number_in
from coatcheck.states import Mode
from coatcheck.store import Store

REPLAY_MOST = 100  # events that one call has handled again

_FIRST = (datetime(1970, 1, 1, tzinfo=UTC), UUID(int=0))
_LATEST = datetime(9999, 1, 1, tzinfo=UTC)
_EVIDENCE_SHOWN = 10
_REASON_MOST, _TYPE_MOST = 500, 200
_NOT_SHOWN = "[not shown: a card number is in it, in a form that cannot be taken out alone]"


class StoredEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event as a person may see it: what looks like a card number or a secret is taken out of headers and body.

    `type`: the PSP's own word, where it can be read. `attempts`: None once the event is handled. `due_at`: when it is
    tried next; None where it waits for a person or is handled.
    """

    inbox_id: UUID
    provider: str
    mode: Mode
    account: str
    event_id: str
    type: str | None
    received_at: datetime
    attempts: int | None
    due_at: datetime | None
    cause: str | None
    outcome: EventOutcome | None
    handled_at: datetime | None
    headers: dict[str, str]
    body: str

    @property
    def is_dead(self) -> bool:
        """Whether it waits for a person."""
        return self.outcome is None and self.due_at is None


class Evidence(msgspec.Struct, frozen=True):
    """One thing that happened to a stored event since it came: an audit event's kind and body."""

    kind: str
    at: datetime
    body: dict[str, object]


class EventQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which events that wait for a person: of a provider, a mode, with a part of a cause in any case, not younger."""

    provider: str | None = None
    cause: str | None = None
    mode: Mode | None = None
    received_until: datetime | None = None


class EventReplay(msgspec.Struct, frozen=True):
    """The events that a bulk retry has handled again or, as a dry run, would; the oldest first."""

    events: list[StoredEvent]
    is_dry_run: bool


class _Named(msgspec.Struct, frozen=True):
    """The word that an event has for itself, at Stripe and the simulator, and at Adyen."""

    type: str | None = None
    event_code: str | None = msgspec.field(name="eventCode", default=None)


async def dead(
    store: Store,
    *,
    provider: str | None = None,
    cause: str | None = None,
    after: tuple[datetime, UUID] | None = None,
    limit: int = 20,
) -> list[StoredEvent]:
    """List the events that wait for a person, oldest first, after a place (`received_at`, `inbox_id`).

    `cause`: a part of it, in any case.
    """
    return await find(store, EventQuery(provider=provider, cause=cause), after=after, limit=limit)


async def find(
    store: Store, query: EventQuery, *, after: tuple[datetime, UUID] | None = None, limit: int = 20
) -> list[StoredEvent]:
    """Find events that wait for a person, oldest first, after a place (`received_at`, `inbox_id`)."""
    rows = await store.pool.fetch(
        store.queries["inbox_dead"],
        *(*(after or _FIRST), limit, query.provider, query.cause),
        *(None if query.mode is None else query.mode.value, query.received_until or _LATEST),
    )
    return [_event_of(row) for row in rows]


async def replay(store: Store, clock: Clock, query: EventQuery, by: str, *, most: int, dry_run: bool) -> EventReplay:
    """Retry the oldest events that a query finds; a dry run only says which (hazard F4).

    Raises CoatcheckError INVALID_REQUEST for more than REPLAY_MOST at once. Locks: their leases.
    """
    if not 1 <= most <= REPLAY_MOST:
        detail = f"Retry 1 to {REPLAY_MOST} at a time, and see what comes of them before the next."
        raise CoatcheckError(ErrorCode.INVALID_REQUEST, detail, [Problem("/limit", detail)])
    events = await find(store, query, limit=most)
    if dry_run or not events:
        return EventReplay(events, is_dry_run=dry_run)
    retried = set(await retry(store, clock, [event.inbox_id for event in events], by))
    return EventReplay([event for event in events if event.inbox_id in retried], is_dry_run=False)


async def read(store: Store, inbox_id: UUID) -> StoredEvent:
    """Show one event, also one that is handled. Raises CoatcheckError NOT_FOUND."""
    row = await store.pool.fetchrow(store.queries["inbox_read"], inbox_id)
    if row is None:
        _not_here(inbox_id)
    return _event_of(row)


async def evidence(store: Store, inbox_id: UUID) -> list[Evidence]:
    """Read what has happened to an event, newest first: alerts, and what people did."""
    rows = await store.pool.fetch(store.queries["inbox_evidence"], inbox_id, _EVIDENCE_SHOWN)
    return [Evidence(row["kind"], row["at"], msgspec.json.decode(row["body"])) for row in rows]


async def retry(store: Store, clock: Clock, inbox_ids: Sequence[UUID], by: str) -> list[UUID]:
    """Make events that wait for a person due now, for one more try by whichever gateway takes them.

    Returns those that were waiting. Idempotent while one is due or being handled. Locks: their leases.
    """
    rows = await store.pool.fetch("SELECT inbox_id FROM retry_events($1, $2, $3)", clock.now(), list(inbox_ids), by)
    return [row["inbox_id"] for row in rows]


async def dismiss(store: Store, clock: Clock, inbox_id: UUID, reason: str, by: str) -> bool:
    """Close an event that waits for a person without handling it. Moves no money, and keeps every byte of it.

    False when it was dismissed before; the first reason stays. Raises CoatcheckError. Locks: its lease.
    """
    reason = " ".join(reason.split())
    if not 1 <= len(reason) <= _REASON_MOST or not reason.isprintable() or contains_card_number(reason):
        detail = f"Say in 1 to {_REASON_MOST} characters why, without any card number."
        raise CoatcheckError(ErrorCode.INVALID_REQUEST, detail, [Problem("/reason", detail)])
    verdict: str | None = await store.pool.fetchval(
        "SELECT dismiss_event($1, $2, $3, $4)", clock.now(), inbox_id, reason, by
    )
    if verdict == "waiting":
        raise CoatcheckError(
            ErrorCode.OPERATION_IN_PROGRESS,
            f"The event {print_id(INBOX, inbox_id)} is due or being handled at this moment. Look again in a minute.",
        )
    if verdict not in ("dismissed", "exists"):
        _not_here(inbox_id, "it is unknown here, or was handled")
    return verdict == "dismissed"


def _event_of(row: asyncpg.Record) -> StoredEvent:
    raw: bytes = row["raw"]
    return StoredEvent(
        inbox_id=row["inbox_id"],
        provider=row["provider"],
        mode=Mode(row["mode"]),
        account=row["account"],
        event_id=row["event_id"],
        type=type_of(raw),
        received_at=row["received_at"],
        attempts=row["attempt"],
        due_at=row["due_at"],
        cause=None if row["cause"] is None else redact_text(row["cause"]),
        outcome=None if row["outcome"] is None else EventOutcome(row["outcome"]),
        handled_at=row["handled_at"],
        headers=dict(redact(None, "", msgspec.json.decode(row["headers"]))),
        body=shown(raw),
    )


def type_of(raw: bytes) -> str | None:
    """Find the PSP's word for an event, also where its reader is not configured or cannot read the rest. Pure."""
    try:
        named = msgspec.json.decode(raw, type=_Named)
    except (ValueError, RecursionError):
        return None
    word = named.type or named.event_code
    return redact_text(word) if word and len(word) <= _TYPE_MOST and word.isprintable() else None


def shown(raw: bytes) -> str:
    """Write a raw body as a person may see it: without what looks like a card number or a secret. Pure.

    One that holds a card number behind an encoding is not shown at all. Bytes that are no UTF-8 are question marks.
    """
    text = redact_text(raw.decode("utf-8", "replace"))
    return _NOT_SHOWN if contains_card_number_in(text.encode()) else text


def _not_here(inbox_id: UUID, why: str = "it is unknown here") -> NoReturn:
    raise CoatcheckError(ErrorCode.NOT_FOUND, f"No such event {print_id(INBOX, inbox_id)}: {why}.")
