"""How a cell ended: all the money, here and at the PSP, and every status, to be compared with the calm run."""

from typing import Any, Final

import asyncpg
from tests.failpoints.scenarios import Scenario
from tests.failpoints.stage import Fault, Place, Stage

from coatcheck.store import Store

_QUESTIONS: Final = {
    "accounts": "SELECT name, currency, debits_posted_minor, credits_posted_minor, debits_pending_minor, "
    "credits_pending_minor FROM account ORDER BY 1, 2",
    "orders": "SELECT payment_order_id, status, decline_code, authorized_minor, captured_minor, refund_reserved_minor, "
    "refunded_minor, refund_commission_minor, acting FROM payment_order ORDER BY 1",
    "operations": "SELECT operation_id, kind, amount_minor, status FROM operation ORDER BY 1",
    "refunds": "SELECT refund_id, amount_minor, commission_minor, status FROM refund ORDER BY 1",
    "transfers": "SELECT kind, phase, debit_account_id, credit_account_id, amount_minor FROM transfer "
    "ORDER BY 1, 2, 3, 4, 5",
    "payouts": "SELECT payout_id, amount_minor, destination, status FROM payout ORDER BY 1",
    "runs": "SELECT run_id, seller_account, planned_minor, outcome, status FROM payout_run JOIN payout_run_item "
    "USING (run_id) ORDER BY 1, 2",
    "decisions": "SELECT payment_id, decision FROM checkout_decision ORDER BY 1",
    "leases": "SELECT operation_id FROM lease ORDER BY 1",
    "events that wait": "SELECT inbox_id FROM inbox_lease ORDER BY 1",
}
_KEPT: Final = ("account_kind", "schema_version")


class Play:
    """One scenario that was played: what came of it and where it passed."""

    def __init__(self, stage: Stage, ending: dict[str, Any], protests: list[str]) -> None:
        self.ending = ending
        self.protests = protests
        self.reached = stage.reached
        self.has_struck = stage.has_struck
        self.has_cut = stage.has_cut

    def counts(self) -> dict[Any, int]:
        """Count how often each failpoint was reached."""
        counts: dict[Any, int] = {}
        for failpoint, number in self.reached:
            counts[failpoint] = max(number, counts.get(failpoint, 0))
        return counts


async def play(
    store: Store,
    owner: asyncpg.Connection,
    scenario: Scenario,
    place: Place | None = None,
    fault: Fault | None = None,
) -> Play:
    """Play a scenario to its rest in an empty database, and leave that empty."""
    stage = Stage(store, place=place, fault=fault, settings=scenario.settings, line=scenario.line)
    protests = []
    ending: dict[str, Any] = {}
    with stage.listening():
        try:
            await scenario.play(stage)
            await stage.end()
            ending = await _ending(stage)
        except AssertionError as error:
            protests.append(str(error))
    protests += [f"nobody heard of {error!r}" for error in stage.unheard]
    protests += [f"broken: {name}" for name in await _broken(store)]
    await _empty(owner)
    return Play(stage, ending, protests)


async def _ending(stage: Stage) -> dict[str, Any]:
    rows = {
        name: [tuple(row) for row in await stage.store.pool.fetch(question)] for name, question in _QUESTIONS.items()
    }
    return {"at the PSP": stage.psp.books(), **rows}


async def _broken(store: Store) -> list[str]:
    return [name for name, text in store.invariants.items() if await store.pool.fetch(text)]


async def _empty(owner: asyncpg.Connection) -> None:
    names = await owner.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    deletes = [f"DELETE FROM {row['tablename']};" for row in names if row["tablename"] not in _KEPT]
    await owner.execute("SET session_replication_role = replica;" + "".join(deletes))


def protests_of(cell: str, faulty: Play, calm: Play) -> list[str]:
    """Say what a fault has changed."""
    changed = [
        f"{name}: {faulty.ending.get(name)} instead of {wanted}"
        for name, wanted in calm.ending.items()
        if faulty.ending.get(name) != wanted
    ]
    return [f"{cell}: {protest}" for protest in [*faulty.protests, *(changed if faulty.ending else [])]]
