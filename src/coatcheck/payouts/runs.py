"""Runs: all sellers of one schedule and currency, paid out at one of its times, once.

A run's id is the hash of what it is, and so is each item's payout: whoever runs it twice, at whatever time, finds it
done (hazards D11, D14, F8). Its total is compared with the usual; far off, it waits for a second person (I1). What was
planned and approved is the most that an item pays.
"""

import hashlib
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import msgspec
import structlog

from coatcheck.clock import Clock
from coatcheck.failpoints import CALM, Failpoint, Failpoints
from coatcheck.ids import PAYOUT, payout_id_of, payout_run_id_of, print_id, time_ordered_ids
from coatcheck.ledger import TransferKind
from coatcheck.payouts.booking import transfer_id_of
from coatcheck.payouts.calendar import first_after, last_until
from coatcheck.payouts.commits import Payouts, PayoutVerdict, account_ids, payout_operation_id
from coatcheck.states import Mode, PayoutRunStatus, PayoutStatus
from coatcheck.store import Store

GATEWAY = "gateway"  # who proposes a run that nobody asked for
_LAST_PLACE = (datetime.fromisoformat("9999-01-01T00:00:00+00:00"), UUID(int=2**128 - 1))
_GROUPS_MOST = 100
_IS_RECOVERING = "SELECT EXISTS (SELECT FROM recovery WHERE finished_at IS NULL)"

log = structlog.get_logger("coatcheck.payouts")


class Decision(StrEnum):
    """What became of a second person's word about a run."""

    DONE = "done"
    EXISTS = "exists"
    UNKNOWN = "unknown"
    SETTLED = "settled"
    SAME_PERSON = "same_person"

    @property
    def is_good(self) -> bool:
        """Whether the run stands as the person wanted."""
        return self in (Decision.DONE, Decision.EXISTS)


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A run as it stands. Minor units; `usual_minor` None: nothing to compare with."""

    run_id: UUID
    shop_id: UUID
    mode: Mode
    schedule: str
    currency: str
    period: datetime
    items: int
    total_minor: int
    usual_minor: int | None
    status: PayoutRunStatus
    proposed_by: str
    proposed_at: datetime
    decided_by: str | None
    decided_at: datetime | None
    finished_at: datetime | None


class RunItem(msgspec.Struct, frozen=True, kw_only=True):
    """What a run pays to one seller. `outcome` None: not asked for yet. Minor units."""

    seller_account: str
    payout_id: UUID
    planned_minor: int
    outcome: PayoutVerdict | None
    amount_minor: int | None
    status: PayoutStatus | None


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """A run that is due: what it would be called, and for whom. `is_new` False: it was made before."""

    run_id: UUID
    shop_id: UUID
    mode: Mode
    schedule: str
    currency: str
    period: datetime
    sellers: Sequence[str]
    is_new: bool = True


class _Due(NamedTuple):
    shop_id: UUID
    mode: Mode
    schedule: str
    currency: str


class PayoutRuns:
    """Plans runs, lets second persons decide them, and asks for their items.

    `factor`: a total so many times the usual, or so small a part of it, waits. `history`: how many runs are the usual.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        payouts: Payouts,
        *,
        factor: int,
        history: int,
        failpoints: Failpoints = CALM,
    ) -> None:
        self._store = store
        self._clock = clock
        self._payouts = payouts
        self._factor = factor
        self._history = history
        self._failpoints = failpoints

    async def plan(
        self, *, at: datetime | None = None, schedule: str | None = None, shop_id: UUID | None = None
    ) -> list[Planned]:
        """Say which runs are due at a moment (now), of all schedules or one; nothing is written: the dry run."""
        until = at or self._clock.now()
        rows = await self._store.pool.fetch(
            self._store.queries["payout_schedules_due"], until, schedule, shop_id, _GROUPS_MOST
        )
        due = [_Due(row["shop_id"], Mode(row["mode"]), row["cron"], row["currency"]) for row in rows]
        return [await self._planned(each, until) for each in due]

    async def _planned(self, due: _Due, until: datetime) -> Planned:
        """Take the schedule's last time: what was missed while nothing ran is paid once, not time by time."""
        period = last_until(due.schedule, until)
        run_id = payout_run_id_of(due.shop_id, due.mode, due.schedule, due.currency, period)
        sellers = await self._store.pool.fetch(
            self._store.queries["payout_sellers_due"],
            *(due.shop_id, due.mode.value, due.schedule, due.currency, period),
        )
        known = await self.read(run_id)
        return Planned(
            run_id=run_id,
            shop_id=due.shop_id,
            mode=due.mode,
            schedule=due.schedule,
            currency=due.currency,
            period=period,
            sellers=[row["seller_account"] for row in sellers],
            is_new=known is None,
        )

    async def propose(self, planned: Planned, by: str = GATEWAY) -> Run:
        """Commit a run with its items. Posts nothing. Idempotent on the run's id: it is made once, by whoever."""
        at = self._clock.now()
        available = [account_ids(planned.shop_id, planned.mode, each, planned.currency)[0] for each in planned.sellers]
        await self._failpoints.reach(Failpoint.PAYOUT_RUN_BEFORE_COMMIT)
        await self._store.pool.execute(
            "SELECT * FROM propose_payout_run($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
            *(at, planned.run_id, planned.shop_id, planned.mode.value, planned.schedule, planned.currency),
            *(planned.period, first_after(planned.schedule, planned.period), list(planned.sellers)),
            [item_id_of(planned, seller) for seller in planned.sellers],
            *(available, self._factor, self._history, by, time_ordered_ids(at, 1)[0]),
        )
        await self._failpoints.reach(Failpoint.PAYOUT_RUN_AFTER_COMMIT)
        run = await self.read(planned.run_id)
        if run is None:
            raise LookupError("the run's row is gone")
        return run

    async def tend_once(self, most: int) -> int:
        """Propose what is due, and ask for items of runs that may go. Returns how much there was to do.

        Nothing while the books are being made whole after a restore: what was forgotten must be back first (G16).
        """
        if await self._store.pool.fetchval(_IS_RECOVERING):
            return 0
        planned = await self.plan()
        for each in planned:
            await self.propose(each)
        return len(planned) + await self.pay_items(most)

    async def pay_items(self, most: int) -> int:
        """Ask for at most so many items of approved runs; each is asked for once, whoever else does it too.

        Their operations are due at once; recovery runs them, so many at a time (hazard F7). Posts as a request does.
        """
        rows = await self._store.pool.fetch(self._store.queries["payout_run_items_to_do"], most)
        for row in rows:
            try:
                await self._pay(row)
            except asyncpg.CheckViolationError as error:  # the books refuse one: its neighbours are paid all the same
                log.warning("payout_item_refused", payout=print_id(PAYOUT, row["payout_id"]), error=str(error))
        await self._store.pool.fetchval("SELECT finish_payout_runs($1)", self._clock.now())
        return len(rows)

    async def _pay(self, row: asyncpg.Record) -> PayoutVerdict:
        mode, payout_id = Mode(row["mode"]), row["payout_id"]
        await self._payouts.open_accounts(row["shop_id"], mode, row["seller_account"], row["currency"])
        at = self._clock.now()
        key = item_key_of(row["run_id"], row["seller_account"])
        available, transit = account_ids(row["shop_id"], mode, row["seller_account"], row["currency"])
        await self._failpoints.reach(Failpoint.PAYOUT_RUN_BEFORE_ITEM)
        return PayoutVerdict(
            await self._store.pool.fetchval(
                "SELECT pay_run_item($1, $2, $3, $4, $5, $6, $7, $8, $9)",
                *(at, payout_id, available, transit, key, hashlib.sha256(key.encode()).digest()),
                payout_operation_id(payout_id),
                transfer_id_of(payout_id, TransferKind.PAYOUT),
                time_ordered_ids(at, 1)[0],
            )
        )

    async def decide(self, run_id: UUID, by: str, *, is_approved: bool) -> Decision:
        """Let a run that waits go, or stop it: by another person than who proposed it (hazard I1). Locks: the run."""
        at = self._clock.now()
        status = PayoutRunStatus.APPROVED if is_approved else PayoutRunStatus.REJECTED
        return Decision(
            await self._store.pool.fetchval(
                "SELECT decide_payout_run($1, $2, $3, $4, $5)",
                *(at, run_id, status.value, by, time_ordered_ids(at, 1)[0]),
            )
        )

    async def read(self, run_id: UUID) -> Run | None:
        """Show a run as it stands; None when there is no such run."""
        row = await self._store.pool.fetchrow(self._store.queries["payout_run_read"], run_id)
        return None if row is None else _run_of(row)

    async def items(self, run_id: UUID) -> list[RunItem]:
        """Show what a run pays to whom."""
        rows = await self._store.pool.fetch(self._store.queries["payout_run_items"], run_id)
        return [
            RunItem(
                seller_account=row["seller_account"],
                payout_id=row["payout_id"],
                planned_minor=row["planned_minor"],
                outcome=None if row["outcome"] is None else PayoutVerdict(row["outcome"]),
                amount_minor=row["amount_minor"],
                status=None if row["status"] is None else PayoutStatus(row["status"]),
            )
            for row in rows
        ]

    async def find(
        self,
        *,
        shop_id: UUID | None = None,
        mode: Mode | None = None,
        status: PayoutRunStatus | None = None,
        before: tuple[datetime, UUID] | None = None,
        limit: int = 20,
    ) -> list[Run]:
        """List runs, newest first, before a place; None is any."""
        rows = await self._store.pool.fetch(
            self._store.queries["payout_run_list"],
            *(shop_id, None if mode is None else mode.value, *(before or _LAST_PLACE), limit),
            None if status is None else status.value,
        )
        return [_run_of(row) for row in rows]


def item_id_of(planned: Planned, seller: str) -> UUID:
    """Name the payout of a run's item: by the run and the seller, so that the item is paid once (hazard D11)."""
    return payout_id_of(planned.shop_id, planned.mode, item_key_of(planned.run_id, seller))


def item_key_of(run_id: UUID, seller: str) -> str:
    """Write the key of a run's item. No shop's key has a space."""
    return f"run {run_id} {seller}"


def _run_of(row: asyncpg.Record) -> Run:
    values: dict[str, Any] = dict(row)
    return Run(**(values | {"mode": Mode(row["mode"]), "status": PayoutRunStatus(row["status"])}))
