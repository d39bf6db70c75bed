"""Group commit: while one batch is at the database, whatever arrives waits and forms the next one. No timer.

`again` is for what is written alone.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import Any, Generic, TypeVar

import asyncpg

Item = TypeVar("Item")
Result = TypeVar("Result")

# PostgreSQL rolled the transaction back in favour of another, and the same one may be run again (hazard B9).
GAVE_WAY = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)
# Worth the same batch again on a fresh snapshot or connection: the statements are idempotent by their ids, so a
# COMMIT whose answer was lost is answered by running it again, never by guessing.
TRANSIENT_ERRORS = (
    *GAVE_WAY,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    OSError,
    TimeoutError,
)
_TRIES = 8
_FIRST_PAUSE_S = 0.02


async def again(statement: Callable[..., Awaitable[Result]], *arguments: Any) -> Result:
    """Run a transaction of one statement, and again where PostgreSQL gave it up in favour of another.

    Any other error is the caller's at once: after a lost connection nobody knows what was committed. Raises the last.
    """
    for attempt in range(_TRIES - 1):
        try:
            return await statement(*arguments)
        except GAVE_WAY:
            await asyncio.sleep(_FIRST_PAUSE_S * 2**attempt)
    return await statement(*arguments)


class Batcher(Generic[Item, Result]):
    """Coalesces single items into set-based statements and hands each caller its own row's result.

    One bad item never fails its neighbours: validity comes back as a result per row, and on an unexpected error the
    batch is bisected until the bad item stands alone. `size` 1 is the unbatched baseline, the same code with as many
    statements in flight as there are `lanes`.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
        *,
        size: int,
        lanes: int = 1,
        observe: Callable[[int, float], None] | None = None,
    ) -> None:
        self._run = run
        self._size = size
        self._lanes = lanes
        self._observe = observe
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._open_lanes = 0
        self._running: set[asyncio.Task[None]] = set()  # the event loop itself keeps only weak references

    async def submit(self, item: Item) -> Result:
        """Write one item with its neighbours; returns its own result or raises its own error.

        A caller that goes away does not take the item back: what was submitted is written.
        """
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._open_lanes < self._lanes:
            self._open_lanes += 1
            lane = asyncio.create_task(self._drain())
            self._running.add(lane)
            lane.add_done_callback(self._running.discard)
        return await future

    async def _drain(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(self._size, len(self._waiting)))]
            started = perf_counter()
            await self._settle(batch)
            if self._observe is not None:
                self._observe(len(batch), perf_counter() - started)
        # Here, not in a done callback: between the look at the queue and this line nothing else runs, so an item that
        # arrives next either was seen or opens a lane of its own.
        self._open_lanes -= 1

    async def _settle(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            results = await self._run_through_trouble([item for item, _ in batch])
        except BaseException as error:  # noqa: BLE001 - whatever it is, each waiting caller must hear of it
            if len(batch) == 1 or not isinstance(error, Exception) or isinstance(error, TRANSIENT_ERRORS):
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
            else:
                middle = len(batch) // 2
                await self._settle(batch[:middle])
                await self._settle(batch[middle:])
            return
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)

    async def _run_through_trouble(self, items: list[Item]) -> Sequence[Result]:
        for attempt in range(_TRIES):
            try:
                return await self._run(items)
            except (*TRANSIENT_ERRORS, asyncpg.InterfaceError) as error:
                if attempt == _TRIES - 1 or isinstance(error, asyncpg.exceptions.DataError | ValueError):
                    raise  # an item that cannot even be sent is not the connection's fault: bisect at once
                await asyncio.sleep(_FIRST_PAUSE_S * 2**attempt)
        raise AssertionError("unreachable: the last try returns or raises")
