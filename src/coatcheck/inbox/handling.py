"""Handling what PSPs tell us unasked: stored first, raw and whole; handled afterwards, by any process."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

import asyncpg
import msgspec
import structlog

from coatcheck.clock import Clock
from coatcheck.correspondence import Correspondence
from coatcheck.disputes import NewsOutcome
from coatcheck.events import EventKind
from coatcheck.executor import Executor, mismatch_of
from coatcheck.failpoints import CALM, Failpoint, Failpoints
from coatcheck.ids import INBOX, OPERATION, derive_id, parse_id, time_ordered_ids
from coatcheck.inbox.hearing import EventOutcome, Hearing, Sender, hear, stranger_of
from coatcheck.logs import redact_text
from coatcheck.loops import log_trouble, pause
from coatcheck.metrics import Metrics
from coatcheck.operations import Operation, Operations, Standing
from coatcheck.providers.disputes import DisputeNews
from coatcheck.providers.outcome import Outcome
from coatcheck.providers.protocol import Notice, ReceivedEvent, WebhookReader
from coatcheck.states import Mode, OperationStatus
from coatcheck.store import Batcher, Store, is_away

_TRIES = 12  # of an event that names an operation nobody knows, or that cannot be handled; then a person's turn
_PARK_FIRST = timedelta(seconds=1)
_PARK_CAP = timedelta(minutes=10)
_TOGETHER = timedelta(milliseconds=100)

# Trouble of the database's that says nothing about the event, besides being away: another was faster, it is read-only
# or being made whole, its disk fails.
_PASSING = (
    asyncpg.TransactionRollbackError,
    asyncpg.ObjectNotInPrerequisiteStateError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.PostgresSystemError,
)

log = structlog.get_logger("coatcheck.inbox")


class Wait(StrEnum):
    """Why an event comes again: the cause that is kept beside it."""

    NOT_KNOWN = "its operation is not known here"
    UNDECIDED = "its operation is being worked on"
    ACTING = "a capture or void of its order is under way"
    DISPUTE = "the provider does not say how its dispute stands, or its charge is not captured here"

    @property
    def costs(self) -> bool:
        """Whether it uses up a try: what ends by itself may take as long as it takes."""
        return self in (Wait.NOT_KNOWN, Wait.DISPUTE)


class Heard(NamedTuple):
    """A stored event on its way: the row's id, its claim's number, its failed tries, whose word it is, what it says."""

    inbox_id: UUID
    attempt: int
    tries: int
    sender: Sender
    notices: Sequence[Notice]


class Settled(NamedTuple):
    """What is written back: an outcome, or a time for the next try (None: a person's turn) and why.

    `costs`: it used up one of its tries.
    """

    inbox_id: UUID
    attempt: int
    outcome: EventOutcome | None
    due_at: datetime | None = None
    cause: str | None = None
    costs: bool = False


class Prospect(StrEnum):
    """What one more try of a stored event would come to."""

    COMPARE = "compare"
    WAIT = "wait"


class Foresight(NamedTuple):
    """What one more try would come to, and where it would wait again, why."""

    prospect: Prospect
    why: str | None = None


class Desk(NamedTuple):
    """What a batch of events is handled with: how their operations stood at `at`, and those taken to be booked."""

    at: datetime
    standing: Mapping[UUID, Standing]
    held: dict[UUID, Operation]


class Inbox:
    """Stores what PSPs tell us, and handles it."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        readers: Mapping[tuple[str, Mode], WebhookReader],
        operations: Operations,
        executor: Executor,
        correspondence: Correspondence,
        metrics: Metrics,
        batch_size: int,
        failpoints: Failpoints = CALM,
    ) -> None:
        self._store = store
        self._failpoints = failpoints
        self._clock = clock
        self._readers = readers
        self._operations = operations
        self._executor = executor
        self._correspondence = correspondence
        self._metrics = metrics
        self._most = max(batch_size, 1)
        self._arrived = asyncio.Event()
        self._store_batch = Batcher(
            self._write, size=batch_size, lanes=1 if batch_size > 1 else 4, observe=metrics.batch_observer("inbox")
        )

    async def store(
        self, provider: str, mode: Mode, headers: Mapping[str, str], events: Sequence[ReceivedEvent]
    ) -> int:
        """Commit authentic events before anybody is told that they arrived. Returns how many were new.

        Idempotent on provider, mode, account and the PSP's event id, for ever.
        """
        kept = msgspec.json.encode({name: value for name, value in headers.items() if name != "authorization"}).decode()
        await self._failpoints.reach(Failpoint.INBOX_BEFORE_STORE)
        stored = await asyncio.gather(
            *[self._store_batch.submit((provider, mode.value, kept, event)) for event in events]
        )
        await self._failpoints.reach(Failpoint.INBOX_AFTER_STORE)
        self._arrived.set()
        return sum(stored)

    async def _write(self, items: Sequence[tuple[str, str, str, ReceivedEvent]]) -> list[bool]:
        at = self._clock.now()
        rows = [
            (
                derive_id(INBOX, provider, mode, event.account, event.event_id),
                provider,
                mode,
                event.account,
                event.event_id,
                headers,
                event.raw,
            )
            for provider, mode, headers, event in items
        ]
        columns = [list(column) for column in zip(*rows, strict=True)]
        answer = await self._store.pool.fetch(
            "SELECT place FROM store_events($1, $2, $3, $4, $5, $6, $7, $8, $9)", at, at, *columns
        )
        new = {row["place"] for row in answer}
        return [place in new for place in range(1, len(items) + 1)]

    async def work(self, interval: timedelta, stopping: asyncio.Event) -> None:
        """Handle events until stopped; trouble with the database is waited out.

        One that comes alone is handled at once. Of a stream as many as come meanwhile are handled together, for their
        commits cost the same as those of one.
        """
        while not stopping.is_set():
            self._arrived.clear()
            try:
                claimed = await self.handle_once()
            except Exception as error:  # noqa: BLE001 - waited out
                log_trouble(log, "inbox_failed", error)
                claimed = 0
            if claimed == 0:
                await pause(interval, self._arrived)
            elif claimed < self._most:
                await pause(_TOGETHER, stopping)

    async def handle_once(self) -> int:
        """Claim what is due and handle it. Returns how many events were claimed."""
        await self._failpoints.reach(Failpoint.INBOX_BEFORE_CLAIM)
        at = self._clock.now()
        rows = await self._store.pool.fetch(
            "SELECT * FROM claim_events($1, $2, $3)", at, at + self._operations.lease, self._most
        )
        if not rows:
            return 0
        await self._failpoints.reach(Failpoint.INBOX_AFTER_CLAIM)
        settled: list[Settled] = []
        heard: list[Heard] = []
        for row in rows:
            self._read(row, heard, settled)
        desk = await self._look(heard)
        settled.extend(await asyncio.gather(*[self._handle(each, desk) for each in heard]))
        await self._settle(settled)
        return len(rows)

    async def _look(self, heard: Sequence[Heard]) -> Desk:
        """Read how the operations stand that events are about, and take those that are to be booked, all at once."""
        told = [
            (wanted, each.sender, notice)
            for each in heard
            for notice in each.notices
            if (wanted := _operation_of(notice)) is not None
        ]
        standing = await self._operations.stand([wanted for wanted, _, _ in told]) if told else {}
        at = self._clock.now()
        to_book = {
            wanted
            for wanted, sender, notice in told
            if wanted in standing
            and notice.outcome is not None
            and _is_to_book(standing[wanted], sender, notice.outcome, at)
        }
        if not to_book:
            return Desk(at, standing, {})
        await self._failpoints.reach(Failpoint.INBOX_BEFORE_BOOK)
        held = await self._operations.claim_named(list(to_book))
        return Desk(at, standing, {operation.intent.operation_id: operation for operation in held})

    def _read(self, row: asyncpg.Record, heard: list[Heard], settled: list[Settled]) -> None:
        """Read one event; what cannot be read is a dead letter and keeps nobody else waiting (C13, C16)."""
        sender = Sender(row["provider"], Mode(row["mode"]))
        event = Heard(row["inbox_id"], row["attempt"], row["tries"], sender, ())
        try:
            said = self._notices_of(sender, row["raw"])
        except Exception as error:  # noqa: BLE001 - a bug of ours with this one must not stop the others
            settled.append(self._failed(event, error))
            return
        if not isinstance(said, str):
            heard.append(event._replace(notices=said))
            return
        log.warning("webhook_unreadable", inbox_id=str(row["inbox_id"]), provider=row["provider"], cause=said)
        settled.append(Settled(row["inbox_id"], row["attempt"], None, None, said))

    def _notices_of(self, sender: Sender, raw: bytes) -> Sequence[Notice] | str:
        """Read what an event says; a text says why it cannot be read."""
        reader = self._readers.get(sender)
        if reader is None:
            return "webhooks of this provider and mode are not configured here any more"
        try:
            return reader.parse(raw)
        except (ValueError, RecursionError) as error:
            return redact_text(f"cannot be read: {error}")[:300]  # the text may show a value out of the body

    async def foresee(self, inbox_ids: Sequence[UUID]) -> dict[UUID, Foresight]:
        """Say what one more try of stored events would come to, as things stand. Only reads, and asks nobody."""
        rows = await self._store.pool.fetch(self._store.queries["inbox_raw"], list(inbox_ids))
        senders = {row["inbox_id"]: Sender(row["provider"], Mode(row["mode"])) for row in rows}
        said = {row["inbox_id"]: self._notices_of(senders[row["inbox_id"]], row["raw"]) for row in rows}
        told = {
            name for each in said.values() if not isinstance(each, str) for name in map(_operation_of, each) if name
        }
        standing = await self._operations.stand(told) if told else {}
        at = self._clock.now()
        return {inbox_id: _foresight_of(each, senders[inbox_id], standing, at) for inbox_id, each in said.items()}

    async def _handle(self, event: Heard, desk: Desk) -> Settled:
        """Do what each notice asks for; the strongest outcome is the event's. Any failure is tried again later."""
        outcomes: list[EventOutcome] = []
        for notice in event.notices:
            try:
                outcome = await self._act(event.sender, notice, desk)
            except Exception as error:  # noqa: BLE001 - tried again
                return self._failed(event, error)
            if isinstance(outcome, Wait):
                return self._again(event, outcome.value, costs=outcome.costs)
            outcomes.append(outcome)
        strongest = min(outcomes, key=_STRONGEST.index, default=EventOutcome.UNMATCHED)
        self._metrics.webhooks[strongest.value].inc()
        return Settled(event.inbox_id, event.attempt, strongest)

    async def _act(self, sender: Sender, notice: Notice, desk: Desk) -> EventOutcome | Wait:
        """Act on one notice of a sender's."""
        operation_id = _operation_of(notice)
        found = None if operation_id is None else desk.standing.get(operation_id)
        if notice.dispute is not None:
            return await self._hear_of_dispute(sender, found, notice, notice.dispute)
        if notice.outcome is None:
            return EventOutcome.UNKNOWN_TYPE if notice.reference is None else EventOutcome.NO_EFFECT
        if operation_id is None:
            return EventOutcome.UNMATCHED
        return Wait.NOT_KNOWN if found is None else await self._act_on(found, sender, notice, notice.outcome, desk)

    async def _act_on(
        self, found: Standing, sender: Sender, notice: Notice, outcome: Outcome, desk: Desk
    ) -> EventOutcome | Wait:
        await self._failpoints.reach(Failpoint.INBOX_BEFORE_ACT)
        hearing = hear(found, sender, outcome, desk.at)
        operation_id = found.operation.intent.operation_id
        if hearing is Hearing.BOOK:
            held = desk.held.pop(operation_id, None)
            if held is None:
                return Wait.UNDECIDED  # somebody was faster, or another event of this batch: see what came of it
            await self._failpoints.reach(Failpoint.INBOX_BEFORE_APPLY)
            is_booked = await self._executor.settle(held, outcome) is not None
            if not is_booked and await self._is_overtaken(held):
                return Wait.UNDECIDED  # taken over meanwhile, perhaps by something older: see what came of it
            return EventOutcome.APPLIED
        if hearing is Hearing.ASK:
            return await self._ask(operation_id, notice)
        if hearing is Hearing.PARK:
            return _wait_for(found)
        if hearing is Hearing.REFUSE:
            difference = stranger_of(found.operation, sender) or mismatch_of(found.operation.intent, outcome) or ""
            await self._tell(found.operation, sender, EventKind.WEBHOOK_REFUSED, notice, difference)
        if hearing is Hearing.TWICE:
            difference = f"another charge, {outcome.provider_reference}, beside the one that was booked"
            await self._tell(found.operation, sender, EventKind.ORDER_CHARGED_TWICE, notice, difference)
        return _OUTCOME_OF[hearing]

    async def _hear_of_dispute(
        self, sender: Sender, found: Standing | None, notice: Notice, news: DisputeNews
    ) -> EventOutcome | Wait:
        """Book what is said of a dispute (hazards C10, D3, D7, D12)."""
        difference = None if found is None else stranger_of(found.operation, sender)
        outcome = NewsOutcome.REFUSED if difference is not None else await self._correspondence.hear(news)
        if outcome is None:
            return Wait.DISPUTE
        if outcome in _OUTCOME_OF_NEWS:
            return _OUTCOME_OF_NEWS[outcome]
        if outcome is NewsOutcome.REFUSED:
            difference = difference or f"dispute {news.provider_reference}, of another charge, account or mode"
            if found is not None:
                await self._tell(found.operation, sender, EventKind.WEBHOOK_REFUSED, notice, difference)
            return EventOutcome.REFUSED
        if found is None:
            return Wait.DISPUTE
        if found.operation.status is OperationStatus.DECLINED:
            # The PSP has taken what we gave up: that is asked about first, and the dispute waits for it.
            await self._ask(found.operation.intent.operation_id, notice)
        is_on_its_way = found.is_acting or not found.operation.status.is_decided
        return _wait_for(found) if is_on_its_way else Wait.DISPUTE

    async def _is_overtaken(self, held: Operation) -> bool:
        """Say whether somebody else has claimed or decided what we held; what the books refused us is still ours."""
        for standing in (await self._operations.stand([held.intent.operation_id])).values():
            return standing.operation.status.is_decided or standing.operation.attempt != held.attempt
        return False

    async def _ask(self, operation_id: UUID, notice: Notice) -> EventOutcome:
        await self._failpoints.reach(Failpoint.INBOX_BEFORE_REOPEN)
        for held in await self._operations.reopen([operation_id], f"the provider's event {notice.type}"):
            await self._failpoints.reach(Failpoint.INBOX_BEFORE_ASK)
            await self._executor.run(held)
            return EventOutcome.APPLIED
        return EventOutcome.NO_EFFECT

    async def _tell(
        self, operation: Operation, sender: Sender, kind: EventKind, notice: Notice, difference: str
    ) -> None:
        log.error(kind.value.replace(".", "_"), operation=operation.intent.reference, difference=difference)
        at = self._clock.now()
        body = {
            "operation_id": operation.intent.operation_id,
            "order_id": operation.order_id,
            "provider": sender.provider,
            "type": notice.type,
            "difference": difference,
            "provider_reference": notice.outcome.provider_reference if notice.outcome else None,
        }
        await self._failpoints.reach(Failpoint.INBOX_BEFORE_TELL)
        await self._store.pool.execute(
            self._store.queries["event_write"],
            operation.payment_id,
            time_ordered_ids(at, 1)[0],
            kind.value,
            operation.shop_id,
            operation.intent.mode.value,
            at,
            msgspec.json.encode(body).decode(),
        )
        await self._failpoints.reach(Failpoint.INBOX_AFTER_TELL)

    def _failed(self, event: Heard, error: Exception) -> Settled:
        """Have an event tried again that could not be handled; what is not the database's trouble costs a try (C13)."""
        log_trouble(log, "webhook_failed", error, inbox_id=str(event.inbox_id))
        is_passing = is_away(error) or isinstance(error, _PASSING)
        return self._again(event, f"the gateway failed: {type(error).__name__}", costs=not is_passing)

    def _again(self, event: Heard, cause: str, *, costs: bool) -> Settled:
        is_spent = costs and event.tries + 1 >= _TRIES
        pause = min(_PARK_FIRST * 2 ** min(event.attempt - 1, 20), _PARK_CAP)
        due_at = None if is_spent else self._clock.now() + pause
        return Settled(event.inbox_id, event.attempt, None, due_at, cause, costs)

    async def _settle(self, settled: Sequence[Settled]) -> None:
        columns = [list(column) for column in zip(*settled, strict=True)]
        columns[2] = [None if outcome is None else outcome.value for outcome in columns[2]]
        await self._failpoints.reach(Failpoint.INBOX_BEFORE_SETTLE)
        await self._store.pool.execute("SELECT settle_events($1, $2, $3, $4, $5, $6, $7)", self._clock.now(), *columns)
        await self._failpoints.reach(Failpoint.INBOX_AFTER_SETTLE)

    async def count(self) -> None:
        """Set the gauges of what waits."""
        (row,) = await self._store.pool.fetch(self._store.queries["inbox_counts"])
        self._metrics.webhooks_waiting.set(row["waiting"])
        self._metrics.webhooks_dead.set(row["dead"])


# What a hearing comes to where nothing more is done.
_OUTCOME_OF = {
    Hearing.NOTHING: EventOutcome.NO_EFFECT,
    Hearing.REFUSE: EventOutcome.REFUSED,
    Hearing.TWICE: EventOutcome.CHARGED_TWICE,
}
# NOT_CAPTURED is none: it waits until its charge is booked. REFUSED is told first.
_OUTCOME_OF_NEWS = {
    NewsOutcome.APPLIED: EventOutcome.APPLIED,
    NewsOutcome.NO_EFFECT: EventOutcome.NO_EFFECT,
    NewsOutcome.UNMATCHED: EventOutcome.UNMATCHED,
}
_STRONGEST = (
    EventOutcome.CHARGED_TWICE,
    EventOutcome.REFUSED,
    EventOutcome.APPLIED,
    EventOutcome.NO_EFFECT,
    EventOutcome.UNMATCHED,
    EventOutcome.UNKNOWN_TYPE,
)


def _is_to_book(standing: Standing, sender: Sender, outcome: Outcome, at: datetime) -> bool:
    try:
        return hear(standing, sender, outcome, at) is Hearing.BOOK
    except Exception:  # noqa: BLE001 - it is told of where the event is handled, by itself
        return False


def _wait_for(found: Standing) -> Wait:
    return Wait.ACTING if found.operation.status.is_decided else Wait.UNDECIDED


def _operation_of(notice: Notice) -> UUID | None:
    return None if notice.reference is None else parse_id(OPERATION, notice.reference)


def _foresight_of(
    said: Sequence[Notice] | str, sender: Sender, standing: Mapping[UUID, Standing], at: datetime
) -> Foresight:
    """Say what an event would come to: it waits where one of its operations cannot be compared with it now."""
    if isinstance(said, str):
        return Foresight(Prospect.WAIT, said)
    for notice in said:
        operation_id = _operation_of(notice)
        if notice.dispute is not None or notice.outcome is None or operation_id is None:
            continue
        found = standing.get(operation_id)
        if found is None:
            return Foresight(Prospect.WAIT, f"its operation {notice.reference} is not known here")
        if hear(found, sender, notice.outcome, at) is Hearing.PARK:
            return Foresight(Prospect.WAIT, f"its operation {notice.reference} is being asked about at this moment")
    return Foresight(Prospect.COMPARE)
