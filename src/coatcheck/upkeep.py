"""Upkeep: what falls due unasked. Authorizations and disputes to ask about, refunds that are owed, payouts by schedule.

Any process may do it: rows are claimed, and what is made has a fixed ticket.
"""

import asyncio
from datetime import timedelta

import structlog

from coatcheck.correspondence import Correspondence
from coatcheck.executor import Executor
from coatcheck.failpoints import CALM, Failpoint, Failpoints
from coatcheck.loops import until_stopped
from coatcheck.operations import Operations
from coatcheck.payouts import PayoutRuns
from coatcheck.refunds import Refunds

_MOST = 100
_ASK_AGAIN_IN = timedelta(seconds=10), timedelta(hours=1)  # at the soonest, at the latest

log = structlog.get_logger("coatcheck.upkeep")


class Upkeep:
    """Does what is due, once or until stopped."""

    def __init__(
        self,
        operations: Operations,
        executor: Executor,
        refunds: Refunds,
        correspondence: Correspondence,
        payout_runs: PayoutRuns,
        *,
        failpoints: Failpoints = CALM,
    ) -> None:
        self._failpoints = failpoints
        self._operations = operations
        self._executor = executor
        self._refunds = refunds
        self._correspondence = correspondence
        self._payout_runs = payout_runs

    async def tend_once(self) -> int:
        """Ask about authorizations whose life should be over, reserve refunds that are owed, begin payouts.

        Returns how much there was to do. An authorization ends by the PSP's word, never by ours (hazard D5): it is
        asked about, and asked again.
        """
        await self._failpoints.reach(Failpoint.UPKEEP_BEFORE_CLAIM)
        due = await self._operations.claim_authorizations(*_ASK_AGAIN_IN, _MOST)
        if due:
            await self._failpoints.reach(Failpoint.UPKEEP_BEFORE_REOPEN)
            reopened = await self._operations.reopen(due, "the authorization may have ended by now")
            await self._failpoints.reach(Failpoint.UPKEEP_BEFORE_START)
            self._executor.start(reopened)
        owed = await self._refunds.refund_late(_MOST)
        return len(due) + owed + await self._correspondence.tend_once(_MOST) + await self._payout_runs.tend_once(_MOST)

    async def tend(self, interval: timedelta, stopping: asyncio.Event) -> None:
        """Tend until stopped; trouble with the database is waited out."""
        await until_stopped(self.tend_once, interval, stopping, log=log, trouble="upkeep_failed")
