"""Maturing: sellers' money from pending to available, when it was settled and its hold period is over.

Nothing of this is on the way of a payment: the job finds what settlement files have told of by itself. Any process may
do it: files are read by one at a time, wallets are locked, and every transfer has a fixed ticket.
"""

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Final

import msgspec
import structlog

from coatcheck.clock import Clock
from coatcheck.loops import until_stopped
from coatcheck.metrics import Metrics
from coatcheck.seller_terms import Terms
from coatcheck.store import Store

_LINES_AT_ONCE: Final = 1_000
# Their accounts are locked together, and payments of these sellers wait meanwhile.
_WALLETS_AT_ONCE: Final = 50
_PARTS_AT_ONCE: Final = 500
# A balance at a past moment reads at most so many transfers beside a snapshot, and those of the last minutes.
_TRANSFERS_IN_A_MARK: Final = 20_000
_MARK_LAG: Final = timedelta(minutes=1)
_MARK_EVERY: Final = timedelta(hours=1)
_NOTE: Final = "SELECT note_settled($1, $2, $3, $4, $5)"
_COMPLETE: Final = "SELECT complete_settled($1, $2)"
_MARK: Final = "SELECT mark_balances($1, $2, $3, $4)"
_MEND: Final = "SELECT mend_balances($1)"
_MATURE: Final = "SELECT kind, moved FROM mature_wallets($1, $2, $3)"

log = structlog.get_logger("coatcheck.maturing")


class Maturing:
    """Lets what is due mature, once or until stopped. `usual`: the terms of sellers for whom none were set."""

    def __init__(self, store: Store, clock: Clock, usual: Terms, metrics: Metrics) -> None:
        self._store = store
        self._clock = clock
        self._usual = usual
        self._metrics = metrics

    async def mature_once(self) -> Counter[str]:
        """Do all that is due; returns how many transfers of each kind were posted, and how many parts have `matured`.

        Posts releases, reserves and offsets, each wallet's with its event. Idempotent. Locks: wallets, accounts.
        """
        await self._note()
        await self._mark()
        done = await self._mature()
        for kind, moved in done.items():
            (self._metrics.matured if kind == "matured" else self._metrics.wallet_transfers[kind]).inc(moved)
        self._metrics.matured_at.set(int(self._clock.now().timestamp()))
        return done

    async def _note(self) -> None:
        """Take up what settlement files have told of, and complete what has been decided since."""
        usual = msgspec.structs.astuple(self._usual)
        while await self._store.pool.fetchval(_NOTE, self._clock.now(), _LINES_AT_ONCE, *usual):
            pass
        while await self._store.pool.fetchval(_COMPLETE, self._clock.now(), _LINES_AT_ONCE):
            pass

    async def _mark(self) -> None:
        """Make what is missing of the balance marks, after those that late transfers have left behind."""
        async with self._store.pool.acquire() as connection, connection.transaction():
            await connection.execute("SET LOCAL statement_timeout = 0")
            if mended := await connection.fetchval(_MEND, _MARK_EVERY):
                log.warning("late_transfers", accounts=mended)
        while await self._store.pool.fetchval(_MARK, self._clock.now(), _MARK_LAG, _MARK_EVERY, _TRANSFERS_IN_A_MARK):
            pass

    async def _mature(self) -> Counter[str]:
        done: Counter[str] = Counter()
        while rows := await self._store.pool.fetch(_MATURE, self._clock.now(), _WALLETS_AT_ONCE, _PARTS_AT_ONCE):
            done.update({row["kind"]: row["moved"] for row in rows})
        return +done

    async def work(self, interval: timedelta, stopping: asyncio.Event) -> None:
        """Mature until stopped; trouble with the database is waited out."""
        await until_stopped(self.mature_once, interval, stopping, log=log, trouble="maturing_failed")
