"""A file that arrives, whoever brings it: taken, corrected where the rules say so, and told of where they say so."""

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import Final
from uuid import UUID

import structlog

from coatcheck.clock import Clock
from coatcheck.loops import until_stopped
from coatcheck.reconciliation.bank_statements import BankStatements
from coatcheck.reconciliation.corrections import Corrections
from coatcheck.reconciliation.expected import ExpectedFiles
from coatcheck.reconciliation.files import Progress, Source, recognised
from coatcheck.reconciliation.reconciler import Reconciler
from coatcheck.reconciliation.report import Report, read_report
from coatcheck.reconciliation.rules import Rule, escalated_kinds, kinds_with
from coatcheck.reconciliation.usual import Usual
from coatcheck.states import Mode
from coatcheck.store import Store

_OVERTAKEN: Final = """
SELECT DISTINCT k.file_id
  FROM reconciliation_break AS k
  JOIN operation AS o USING (operation_id)
  JOIN settlement_line AS l ON l.file_id = k.file_id AND l.line_no = k.line_no
 WHERE k.closed_at IS NULL AND k.kind = 'status'
   AND CASE WHEN l.kind IN ('refund_returned', 'seller_payout_returned') THEN
                 o.status = 'DECLINED' OR o.status = 'APPROVED' AND NOT EXISTS (
                 SELECT FROM event AS e  -- nobody has asked about it since
                  WHERE e.subject_id = o.payment_id AND e.kind = 'operation.reopened' AND e.at >= k.opened_at
                    AND e.body ->> 'operation_id' = o.operation_id::text)
            WHEN o.status = 'DECLINED' THEN EXISTS (
                 SELECT FROM settled_record AS r
                  WHERE r.operation_id = o.operation_id AND r.kind IN ('refund_returned', 'seller_payout_returned'))
            ELSE o.status IN ('APPROVED', 'UNRESOLVED') END
"""

log = structlog.get_logger("coatcheck.reconciliation")


class Arrivals:
    """Takes settlement files and bank statements, one at a time.

    So however many are brought to a process at once, they hold one connection of its pool while they are compared, and
    a second one for a moment.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        corrections: Corrections,
        rules: Mapping[str, Rule],
        usual: Usual,
        expected: ExpectedFiles | None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._corrections = corrections
        self._corrected = kinds_with(rules, Rule.CORRECT)
        self._escalated = escalated_kinds(rules)
        self._expected = expected
        self._reconciler = Reconciler(store, clock, usual)
        self._statements = BankStatements(store, clock)
        self._one_at_a_time = asyncio.Lock()

    async def take(self, source: Source, progress: Progress = lambda _read, _size: None) -> Report:
        """Take a file, and do about its breaks what the rules say. Raises FileRefusedError: nothing of it was taken.

        Idempotent on the file's content: again only what was left undone is done. Locks: Reconciler and
        BankStatements say which.
        """
        async with self._one_at_a_time:
            if self._expected is not None:  # so that it is known which day's file this may be
                await self._expected.look()
            file = await asyncio.to_thread(recognised, source)
            if file.form.provider is None:
                report = await self._statements.take(source, progress)
            else:
                report = await self._reconciler.take(source, progress)
                joined = await self._corrections.join_parts(report.file_id)
                if await self._corrections.correct(report.file_id, self._corrected) or joined:
                    report = await read_report(self._store, report.file_id, is_repeat=report.is_repeat)
                await self._corrections.give_up_absent(source.shop_id, source.mode, report.provider)
            if await self.match_bank_entries(source.shop_id, source.mode):
                report = await read_report(self._store, report.file_id, is_repeat=report.is_repeat)
            await self.escalate(source.shop_id, source.mode)
            return report

    async def match_bank_entries(self, shop_id: UUID, mode: Mode) -> int:
        """Find the payouts of bank entries that came before anybody told of them; returns how many breaks that closed.

        After every file, in a transaction of its own, and every night: so it is done where a process died in between.
        """
        return await self._statements.match_again(shop_id, mode)

    async def finish_once(self) -> int:
        """Go on with files of which something was undecided here when they came, and is not any more.

        What was on its way is decided by whoever was at it, not by the file; then the two agree, and the break is over.
        Returns how many breaks that closed.
        """
        if "status" not in self._corrected:
            return 0
        rows = await self._store.pool.fetch(_OVERTAKEN)
        return sum([await self._corrections.correct(row["file_id"], ["status"]) for row in rows])

    async def finish(self, interval: timedelta, stopping: asyncio.Event) -> None:
        """Go on with such files until stopped; trouble with the database is waited out."""
        await until_stopped(self.finish_once, interval, stopping, log=log, trouble="finishing_files_failed")

    async def escalate(self, shop_id: UUID, mode: Mode) -> int:
        """Call somebody for the open breaks whose rule says so; returns how many are new. Idempotent on the break."""
        if not self._escalated:
            return 0
        new: int = await self._store.pool.fetchval(
            "SELECT escalate_breaks($1, $2, $3, $4)", self._clock.now(), shop_id, mode.value, sorted(self._escalated)
        )
        return new
