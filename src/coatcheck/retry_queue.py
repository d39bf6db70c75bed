"""The retry queue: operations that are not decided and go on by themselves, with what each does next, and when.

Nothing here asks a PSP or writes a row. What does not go on by itself is a dead letter: docs/dead-letters.md has both.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec

from coatcheck.clock import Clock
from coatcheck.executor import Step, next_step
from coatcheck.operations import Evidence, Operation, Operations, Standing, UndecidedQuery
from coatcheck.providers.protocol import Capabilities
from coatcheck.states import OperationStatus
from coatcheck.store import Store

_FIRST = (datetime(1970, 1, 1, tzinfo=UTC), UUID(int=0))
_LATEST = datetime(9999, 1, 1, tzinfo=UTC)


class Outlook(msgspec.Struct, frozen=True, kw_only=True):
    """What happens next by itself, in a sentence, and what it rests on.

    `at`: when; of one that is being asked about, when another gateway takes over if that one dies. `step`: what the
    gate asks for then; None where this process has no settings for the provider. `safe_until`: until when the provider
    knows our key for certain, and `safe_for` how long that still is; None where nothing was sent or it knows none.
    """

    at: datetime
    is_running: bool
    step: Step | None
    text: str
    age: timedelta | None
    window: timedelta | None
    safe_until: datetime | None
    safe_for: timedelta | None


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """One operation that goes on by itself. `retry_budget`: with so many tries it becomes a dead letter."""

    operation: Operation
    payment_order_id: str | None  # None of a payout
    created_at: datetime
    retry_budget: int
    outlook: Outlook


def foresee(
    standing: Standing, capabilities: Capabilities | None, *, retry_budget: int, is_recovering: bool, at: datetime
) -> Outlook:
    """Say what happens next to an operation that goes on by itself, when nobody does anything. Pure."""
    operation, due = standing.operation, standing.due_at or at
    sent_at, safe_until, step = operation.intent.first_sent_at, None, None
    if capabilities is not None:
        step = next_step(operation, capabilities, max(at, due))
        if sent_at is not None and capabilities.idempotency_window:
            safe_until = sent_at + capabilities.idempotency_window - capabilities.window_margin
    is_running = standing.holder is not None and due > at
    if is_recovering:
        text = "The books are being made whole after a restore. Nothing goes on by itself until that is finished."
    elif is_running:
        text = (
            f"A gateway is asking {operation.provider} at this moment. If that one dies, another takes over at "
            f"{_time(due)}."
        )
    else:
        when = f"at {_time(due)}" if due > at else "by the next gateway that looks"
        text = (
            f"{_step_in_words(operation, step, safe_until, when, max(at, due))}{_end_in_words(operation, retry_budget)}"
        )
    return Outlook(
        at=due,
        is_running=is_running,
        step=step,
        text=text,
        age=None if sent_at is None else at - sent_at,
        window=None if capabilities is None else capabilities.idempotency_window,
        safe_until=safe_until,
        safe_for=None if safe_until is None else max(safe_until - at, timedelta(0)),
    )


def _step_in_words(
    operation: Operation, step: Step | None, safe_until: datetime | None, when: str, then: datetime
) -> str:
    provider = operation.provider
    if step is None:
        return (
            f"This gateway has no settings for {provider}: one that has goes on {when}, one that has not uses up a "
            "try. Give them back and start it again."
        )
    if step is Step.LOOK_UP:
        return _look_up_in_words(operation, safe_until, when, then)
    if step is Step.REGISTER:
        is_hosted = operation.intent.is_hosted
        made = "The page on which the buyer pays is made" if is_hosted else "It is registered, then sent,"
        return f"{made} at {provider} {when}."
    if operation.sent_before:
        return f"It is sent again under the same key {when}. Until {_time(safe_until)} that cannot be done twice."
    return f"It never left for {provider}. It is sent {when}."


def _look_up_in_words(operation: Operation, safe_until: datetime | None, when: str, then: datetime) -> str:
    provider = operation.provider
    if operation.status is OperationStatus.PENDING:
        return f"{provider} has it and decides later. It is looked up {when}, and is never sent again."
    if operation.intent.is_hosted:
        rest = "Only the buyer can pay it."
    elif safe_until is None or safe_until <= then:
        rest = f"It is not sent again, unless {provider} itself says that it did nothing."
    else:
        rest = f"It is sent again only if {provider} has nothing, and not after {_time(safe_until)}."
    return f"It is looked up {when}, which moves no money. {rest}"


def _end_in_words(operation: Operation, retry_budget: int) -> str:
    """Say when it stops going on by itself: what is PENDING uses up no try."""
    if operation.status is OperationStatus.PENDING:
        return ""
    left = retry_budget - operation.tries
    if left <= 1:
        return " If that decides nothing, it waits for a person."
    return f" After {left} tries that decide nothing it waits for a person."


def _time(at: datetime | None) -> str:
    return "no time" if at is None else f"{at:%Y-%m-%d %H:%M:%S} UTC"


class RetryQueue:
    """Lists what goes on by itself, and shows one of it. `retry_budget`: of this gateway's settings."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        operations: Operations,
        capabilities: Mapping[str, Capabilities],
        retry_budget: int,
    ) -> None:
        self._store = store
        self._clock = clock
        self._operations = operations
        self._capabilities = capabilities
        self._retry_budget = retry_budget

    async def find(
        self, query: UndecidedQuery, *, after: tuple[datetime, UUID] | None = None, limit: int = 20
    ) -> list[Retry]:
        """Find operations that go on by themselves, oldest first, after a place (`created_at`, the operation's id).

        Reads every lease, so a page costs what is undecided, however much there is that is decided.
        """
        return await self._find(query, after or _FIRST, limit)

    async def read(self, operation_id: UUID, query: UndecidedQuery) -> Retry | None:
        """Show one operation that goes on by itself; None when there is none of that id for whoever asks."""
        found = await self._find(query, _FIRST, 1, only=operation_id)
        return found[0] if found else None

    async def _find(
        self, query: UndecidedQuery, after: tuple[datetime, UUID], limit: int, *, only: UUID | None = None
    ) -> list[Retry]:
        at = self._clock.now()
        # One snapshot: what is decided between two statements would stand in the list as what it is no more.
        async with (
            self._store.pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            rows = await connection.fetch(
                self._store.queries["retry_queue_list"],
                *(query.shop_id, None if query.mode is None else query.mode.value, *after, limit),
                *(query.provider, query.cause, query.made_until or _LATEST, only, at),
            )
            ids = [row["operation_id"] for row in rows]
            standing = await self._operations.stand(ids, connection=connection) if ids else {}
            is_recovering = await connection.fetchval("SELECT EXISTS (SELECT FROM recovery WHERE finished_at IS NULL)")
        return [
            self._retry_of(standing[row["operation_id"]], row["payment_order_id"], at, is_recovering=is_recovering)
            for row in rows
            if row["operation_id"] in standing
        ]

    def _retry_of(
        self, standing: Standing, payment_order_id: str | None, at: datetime, *, is_recovering: bool
    ) -> Retry:
        return Retry(
            operation=standing.operation,
            payment_order_id=payment_order_id,
            created_at=standing.created_at,
            retry_budget=self._retry_budget,
            outlook=foresee(
                standing,
                self._capabilities.get(standing.operation.provider),
                retry_budget=self._retry_budget,
                is_recovering=is_recovering,
                at=at,
            ),
        )

    async def evidence(self, retry: Retry) -> list[Evidence]:
        """Read the last things that happened to an operation, newest first."""
        return await self._operations.evidence(retry.operation)
