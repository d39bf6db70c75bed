"""How many transfers per second the ledger posts, on embedded PostgreSQL with fsync and synchronous_commit on.

`python bench/ledger.py [--seconds N] [--data-dir DIRECTORY]`

Timed: making the transfers (time-ordered ids included), sending them through Ledger.post, posting, and the commit, as a
gateway process does it, with two batches in flight (one is posted while the next is made and sent). Not timed: opening
the accounts, choosing which two accounts each transfer moves between, and a warm-up of two seconds.
"""

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import uvloop

from coatcheck.ids import time_ordered_ids
from coatcheck.ledger import Account, Ledger, PostOutcome, Transfer, TransferKind, psp_receivable, seller_pending
from coatcheck.states import Mode
from coatcheck.store import Store, open_store

ACCOUNTS = 10_000
IN_FLIGHT = 2
WARM_UP_S = 2.0
CURRENCY = "EUR"

Pairs = list[tuple[UUID, UUID]]


def transfers_of(pairs: Pairs, at: datetime, subject_id: UUID) -> list[Transfer]:
    """Make one batch, as the payments' second commit does."""
    return [
        Transfer(
            transfer_id=transfer_id,
            kind=TransferKind.CHARGE,
            debit_account_id=debit,
            credit_account_id=credit,
            amount_minor=1999,
            currency=CURRENCY,
            subject_id=subject_id,
        )
        for transfer_id, (debit, credit) in zip(time_ordered_ids(at, len(pairs)), pairs, strict=True)
    ]


async def keep_posting(ledger: Ledger, choices: list[Pairs], until: float, subject_id: UUID) -> int:
    """Post batch after batch until the clock says so; returns how many transfers were posted."""
    posted = 0
    while time.perf_counter() < until:
        at = datetime.now(UTC)
        outcomes = await ledger.post(transfers_of(random.choice(choices), at, subject_id), at)
        if set(outcomes) != {PostOutcome.POSTED}:
            raise SystemExit(f"a transfer was refused: {set(outcomes)}")
        posted += len(outcomes)
    return posted


async def measure(ledger: Ledger, choose: Callable[[], tuple[UUID, UUID]], batch: int, seconds: float) -> float:
    """Warm up, then measure transfers per second."""
    choices = [[choose() for _ in range(batch)] for _ in range(40_000 // batch * 2)]
    subject_id = uuid4()
    rate = 0.0
    for duration in (WARM_UP_S, seconds):
        started = time.perf_counter()
        until = started + duration
        counts = await asyncio.gather(*[keep_posting(ledger, choices, until, subject_id) for _ in range(IN_FLIGHT)])
        rate = sum(counts) / (time.perf_counter() - started)
    return rate


async def open_accounts(ledger: Ledger, shop_id: UUID) -> tuple[UUID, list[UUID]]:
    """Open one hot account and the many."""
    hot = Account(shop_id, Mode.LIVE, psp_receivable("bench"), CURRENCY)
    many = [Account(shop_id, Mode.LIVE, seller_pending(f"seller-{n}"), CURRENCY) for n in range(ACCOUNTS)]
    await ledger.open_accounts([hot, *many], datetime.now(UTC))
    return hot.account_id, [account.account_id for account in many]


async def check_invariants(owner: asyncpg.Pool, store: Store) -> None:
    """Stop with an error if any invariant of the ledger finds a row."""
    for name, query in store.invariants.items():
        if name.startswith("ledger_"):
            rows = await owner.fetch(query, timeout=600)
            print(f"  {name}: {'no rows' if not rows else rows[:3]}")
            if rows:
                raise SystemExit(f"invariant {name} does not hold")


async def run(data_dir: Path, seconds: float) -> None:
    """Measure the four cases and prove the books afterwards."""
    async with open_store(None, data_dir, pool_size=IN_FLIGHT) as store:
        (settings,) = await store.pool.fetch(
            "SELECT current_setting('fsync') AS fsync, current_setting('synchronous_commit') AS commit, version() AS v"
        )
        print(f"{settings['v'].split(' on ')[0]}, fsync={settings['fsync']}, synchronous_commit={settings['commit']}")
        print(f"{IN_FLIGHT} batches in flight; timed: ids, objects, encoding, posting, commit")
        ledger = Ledger(store)
        hot, many = await open_accounts(ledger, uuid4())

        def uniform() -> tuple[UUID, UUID]:
            debit, credit = random.sample(many, 2)
            return debit, credit

        rates = {}
        for batch in (1000, 8000):
            rates[batch] = await measure(ledger, uniform, batch, seconds)
            print(f"uniform over {ACCOUNTS:,} accounts, batches of {batch:,}: {rates[batch]:,.0f} transfers/s")
        rate_hot = await measure(ledger, lambda: (hot, random.choice(many)), 1000, seconds)
        print(f"one account in every transfer, batches of 1,000: {rate_hot:,.0f} transfers/s")
        print("the books afterwards:")
        await check_invariants(store.pool, store)
        for batch, rate in rates.items():
            print(f"BENCH part=ledger batch={batch} transfers_per_s={rate:.0f}")
        print(f"BENCH part=ledger_hot batch=1000 ratio_to_uniform={rate_hot / rates[1000]:.2f}")


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description="transfers per second of the ledger")
    parser.add_argument("--seconds", type=float, default=8.0, help="how long each case is measured")
    parser.add_argument("--data-dir", type=Path, help="where PostgreSQL lives (a temporary directory by default)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="coatcheck-bench-", ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o755)
        uvloop.run(run(options.data_dir or Path(directory), options.seconds))


if __name__ == "__main__":
    main()
