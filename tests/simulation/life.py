"""The life and death of a simulated gateway process.

Only what reaches the outside can be told apart: a statement at the database or a call to the PSP. So a gateway dies at
one of those, before or after it took effect; what else is under way there is cut off or goes on without anybody hearing
the answer; and nothing it still tries afterwards reaches anybody.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar, cast

import asyncpg

from coatcheck.store import Store

Answer = TypeVar("Answer")


class GatewayDied(BaseException):
    """The process that this task belonged to is gone."""


# What a client hears of when its gateway or the database goes away. (The last is how asyncpg sometimes reports a
# statement that was cancelled; the connection is given up.)
CONNECTION_TROUBLE: Final = (
    GatewayDied,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)


class Life:
    """Counts what a gateway does outside, and ends it at call number `dies_at`."""

    def __init__(self, dice: random.Random, dies_at: int | None) -> None:
        self.is_dead = False
        self.calls = 0
        self._dice = dice
        self._dies_at = dies_at
        self._dies_before = dice.random() < 0.5
        self._in_flight: set[asyncio.Task[Any]] = set()

    async def outside(self, call: Callable[[], Awaitable[Answer]]) -> Answer:
        """Do something that others can see. Raises GatewayDied when the process does not live to hear the answer."""
        self._live()
        self.calls += 1
        if self.calls == self._dies_at and self._dies_before:
            self.die()
            raise GatewayDied
        number = self.calls
        doing: asyncio.Task[Answer] = asyncio.ensure_future(_awaited(call))
        self._in_flight.add(doing)
        doing.add_done_callback(self._finished)
        try:
            answer = await doing
        except BaseException:
            self._live()
            raise
        if number == self._dies_at:
            self.die()
        self._live()
        return answer

    def live_on(self) -> None:
        """Take the planned death away."""
        self._dies_at = None

    def die(self) -> None:
        """End it now: some of what is under way is cut off, the rest goes on unheard."""
        self.is_dead = True
        for doing in list(self._in_flight):
            if self._dice.random() < 0.5:
                doing.cancel()

    def _live(self) -> None:
        if self.is_dead:
            raise GatewayDied

    def _finished(self, doing: asyncio.Task[Any]) -> None:
        self._in_flight.discard(doing)
        if not doing.cancelled():
            doing.exception()  # heard, so that the loop does not complain of one that nobody waits for


async def _awaited(call: Callable[[], Awaitable[Answer]]) -> Answer:
    return await call()


class MortalPool:
    """A gateway's connections: they end with its life, and lose an answer now and then (hazard G6)."""

    def __init__(self, pool: asyncpg.Pool, life: Life, dice: random.Random, loss: float) -> None:
        self._pool = pool
        self._life = life
        self._dice = dice
        self._loss = loss

    async def fetch(self, *arguments: Any) -> Any:
        """Run a statement for its rows."""
        return await self._life.outside(lambda: self._try(self._pool.fetch, arguments))

    async def fetchrow(self, *arguments: Any) -> Any:
        """Run a statement for its first row."""
        return await self._life.outside(lambda: self._try(self._pool.fetchrow, arguments))

    async def execute(self, *arguments: Any) -> Any:
        """Run a statement for nothing."""
        return await self._life.outside(lambda: self._try(self._pool.execute, arguments))

    async def fetchval(self, *arguments: Any) -> Any:
        """Run a statement for one value."""
        return await self._life.outside(lambda: self._try(self._pool.fetchval, arguments))

    async def _try(self, run: Callable[..., Awaitable[Any]], arguments: tuple[Any, ...]) -> Any:
        draw = self._dice.random()
        if draw < self._loss:
            raise asyncpg.ConnectionDoesNotExistError("the connection was lost before the statement")
        answer = await run(*arguments)
        if draw < 2 * self._loss:
            raise asyncpg.ConnectionDoesNotExistError("the connection was lost between COMMIT and its answer")
        return answer


def mortal(store: Store, life: Life, dice: random.Random, loss: float) -> Store:
    """Give a gateway a store that lives as long as it does."""
    return Store(cast("asyncpg.Pool", MortalPool(store.pool, life, dice, loss)), store.queries, store.invariants)
