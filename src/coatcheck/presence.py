"""Presence: this process says that it lives, and ends the leases of those that do not any more.

A living process holds an advisory lock in a session of its own; PostgreSQL lets go of it the moment the process is
gone. So what a killed gateway left undone need not wait for its leases to run out. The lease stays the last word: for a
process that hangs, for one whose machine is unreachable, and for a PSP that may have forgotten a charge.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final
from uuid import UUID

import asyncpg
import structlog

from coatcheck.clock import Clock
from coatcheck.store import Store

_LOOK_EVERY_S: Final = 0.4
# A process that lives and has lost its connection takes the lock again at its own next look.
_LOOKS: Final = 3
_ABSENT: Final = "SELECT absent_holders($1, $2) AS holder"

log = structlog.get_logger("coatcheck.presence")


class Presence:
    """The presence of one process. `providers`: those that keep our key whatever they answered.

    There another process may send again while the dead one's call is still on its way: the key makes it one charge.
    Elsewhere only time tells that no call is on its way any more, and the lease is that time (hazards A5, F1).
    """

    def __init__(self, store: Store, clock: Clock, *, holder: UUID, providers: Iterable[str]) -> None:
        self._store = store
        self._clock = clock
        self._holder = holder
        self._providers = sorted(providers)
        self._absent: Counter[UUID] = Counter()

    @asynccontextmanager
    async def shown(self) -> AsyncIterator[None]:
        """Be present, and look for the absent, for as long as the block runs."""
        task = asyncio.create_task(self._keep())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _keep(self) -> None:
        while True:
            try:
                async with self._store.pool.acquire() as connection:
                    await self._stand(connection)
            except Exception as error:  # noqa: BLE001 - whatever the database's trouble is, it is waited out
                log.warning("presence_lost", error=str(error))
                await asyncio.sleep(_LOOK_EVERY_S)

    async def _stand(self, connection: Any) -> None:
        try:
            await connection.execute("SELECT pg_advisory_lock(presence_key($1))", self._holder)
            while True:
                await self.look(connection)
                await asyncio.sleep(_LOOK_EVERY_S)
        finally:
            with suppress(asyncpg.InterfaceError):  # it is closed, and the lock is gone with it
                await connection.execute("SELECT pg_advisory_unlock_all()")

    async def look(self, connection: Any) -> int:
        """End the leases of whoever was absent at several looks in turn. Returns how many became due.

        Locks: those lease rows, and for a moment the absent ones' presence.
        """
        at = self._clock.now()
        absent = {row["holder"] for row in await connection.fetch(_ABSENT, at, self._holder)}
        self._absent = Counter({holder: self._absent[holder] + 1 for holder in absent})
        gone = [holder for holder, looks in self._absent.items() if looks >= _LOOKS]
        if not gone:
            return 0
        ended: int = await connection.fetchval("SELECT end_leases_of($1, $2, $3)", at, gone, self._providers)
        if ended:
            log.info("leases_of_the_gone_ended", holders=[str(holder) for holder in gone], leases=ended)
        return ended
