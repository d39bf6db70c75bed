"""What reading a wallet at a past moment takes, with a million transfers in the books.

`python bench/wallet_history.py [--transfers N] [--data-dir DIRECTORY]`

Posts N transfers of 1,000 sellers through Ledger.post, as if over thirty days, and makes the balance marks as the
maturing job does. Then the wallets of random sellers at random moments are read: by the marks, and by adding up every
transfer up to the moment, which must come to the same. Printed is the median and the slowest of each.
"""

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from uuid import UUID, uuid4

import uvloop

from coatcheck.clock import ManualClock
from coatcheck.ids import time_ordered_ids
from coatcheck.ledger import Account, Ledger, PostOutcome, Transfer, TransferKind, psp_receivable, seller_pending
from coatcheck.maturing import Maturing
from coatcheck.metrics import Metrics
from coatcheck.seller_terms import Terms
from coatcheck.states import Mode
from coatcheck.store import Store, open_store

SELLERS = 1_000
BATCH = 5_000
READS = 100
CURRENCY = "EUR"
START = datetime(2026, 1, 1, tzinfo=UTC)
SPAN = timedelta(days=30)
MARKS_TIMEOUT_S = 600


async def fill(ledger: Ledger, receivable: UUID, sellers: Sequence[UUID], count: int) -> None:
    """Post the transfers, evenly over the span."""
    subject_id = uuid4()
    for done in range(0, count, BATCH):
        at = START + SPAN * done / count
        outcomes = await ledger.post(
            [
                Transfer(
                    transfer_id=transfer_id,
                    kind=TransferKind.CHARGE,
                    debit_account_id=receivable,
                    credit_account_id=random.choice(sellers),
                    amount_minor=random.randint(1, 99_999),
                    currency=CURRENCY,
                    subject_id=subject_id,
                )
                for transfer_id in time_ordered_ids(at, min(BATCH, count - done))
            ],
            at,
        )
        if set(outcomes) != {PostOutcome.POSTED}:
            raise SystemExit(f"a transfer was refused: {set(outcomes)}")


async def read(store: Store, account_id: UUID, moment: datetime, *, by_marks: bool) -> tuple[int, float]:
    """Read one balance; returns it and the milliseconds that took."""
    started = time.perf_counter()
    rows = await store.pool.fetch(store.queries["wallet_balances_at"], [account_id], moment, by_marks)
    took_ms = (time.perf_counter() - started) * 1_000
    if not rows[0]["is_proven"]:
        raise SystemExit("the snapshots are not whole")
    return rows[0]["credits_posted_minor"] - rows[0]["debits_posted_minor"], took_ms


async def compare(store: Store, sellers: Sequence[UUID]) -> tuple[list[float], list[float]]:
    """Read random wallets at random moments both ways; returns the times of each."""
    by_marks, by_all = list[float](), list[float]()
    for _ in range(READS):
        seller, moment = random.choice(sellers), START + SPAN * random.random()
        balance, took_ms = await read(store, seller, moment, by_marks=True)
        proof, took_all_ms = await read(store, seller, moment, by_marks=False)
        if balance != proof:
            raise SystemExit(f"by the marks it is {balance}, by its transfers {proof}")
        by_marks.append(took_ms)
        by_all.append(took_all_ms)
    return by_marks, by_all


async def run(data_dir: Path, count: int) -> None:
    """Fill the books, make the marks, read."""
    async with open_store(None, data_dir, pool_size=2) as store:
        ledger, shop_id = Ledger(store), uuid4()
        receivable = Account(shop_id, Mode.LIVE, psp_receivable("bench"), CURRENCY)
        purses = [Account(shop_id, Mode.LIVE, seller_pending(f"seller-{n}"), CURRENCY) for n in range(SELLERS)]
        await ledger.open_accounts([receivable, *purses], START)
        sellers = [purse.account_id for purse in purses]
        await fill(ledger, receivable.account_id, sellers, count)
        started = time.perf_counter()
        async with asyncio.timeout(MARKS_TIMEOUT_S):
            await Maturing(store, ManualClock(START + SPAN), Terms(7, 0, 90), Metrics()).mature_once()
        took_s = time.perf_counter() - started
        marks, snapshots = await store.pool.fetchrow(
            "SELECT (SELECT count(*) FROM balance_mark), (SELECT count(*) FROM balance_snapshot)"
        ) or (0, 0)
        print(
            f"{count} transfers of {SELLERS} sellers; {marks} marks with {snapshots} snapshots, made in {took_s:.1f} s"
        )
        by_marks, by_all = await compare(store, sellers)
        for name, times in (("by marks", by_marks), ("by all transfers", by_all)):
            print(f"  {name}: median {median(times):.1f} ms, slowest {max(times):.1f} ms")
        print(
            f"BENCH part=wallet_history transfers={count} median_ms={median(by_marks):.1f} "
            f"max_ms={max(by_marks):.1f} by_all_median_ms={median(by_all):.1f}"
        )


def main() -> None:
    """Read the options and run."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--transfers", type=int, default=1_000_000, help="how many")
    options.add_argument("--data-dir", type=Path, help="where the database is made; a temporary directory without")
    chosen = options.parse_args()
    random.seed(20260501)
    with tempfile.TemporaryDirectory(prefix="coatcheck-bench-", ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o755)
        uvloop.run(run(chosen.data_dir or Path(directory), chosen.transfers))


if __name__ == "__main__":
    main()
