"""How many transfers per second the ledger posts, on embedded PostgreSQL with fsync and synchronous_commit on.

`python bench/ledger.py [--seconds N] [--data-dir DIRECTORY]`

Timed: making the transfers (time-ordered ids included), sending them through Ledger.post, posting, and the commit, as a
gateway process does it, with two batches in flight (one is posted while the next is made and sent). Not timed: opening
the accounts, choosing which two accounts each transfer moves between, and a warm-up of each case. The cases take turns;
printed is each case's median round.
"""

import argparse
import asyncio
import random
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from uuid import UUID, uuid4

import uvloop

from coatcheck.ids import time_ordered_ids
from coatcheck.ledger import Account, Ledger, PostOutcome, Transfer, TransferKind, psp_receivable, seller_pending
from coatcheck.states import Mode
from coatcheck.store import Store, open_store

ACCOUNTS = 10_000
IN_FLIGHT = 2
WARM_UP_S = 1.5
ROUNDS = 5
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


async def measure(ledger: Ledger, choices: list[Pairs], seconds: float) -> float:
    """Post for so long; returns transfers per second."""
    subject_id = uuid4()
    started = time.perf_counter()
    lanes = [keep_posting(ledger, choices, started + seconds, subject_id) for _ in range(IN_FLIGHT)]
    return sum(await asyncio.gather(*lanes)) / (time.perf_counter() - started)


async def measure_in_turn(ledger: Ledger, cases: dict[str, list[Pairs]], seconds: float) -> dict[str, list[float]]:
    """Warm every case up, then measure them in turn, so that a busy moment of the machine falls on all alike."""
    for choices in cases.values():
        await measure(ledger, choices, WARM_UP_S)
    rates: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(ROUNDS):
        for name, choices in cases.items():
            rates[name].append(await measure(ledger, choices, seconds / ROUNDS))
    return rates


def choose(from_ids: list[UUID], to_ids: list[UUID], batch: int) -> list[Pairs]:
    """Choose the two accounts of each transfer, for ten different batches."""
    return [
        list(zip(random.choices(from_ids, k=batch), random.choices(to_ids, k=batch), strict=True)) for _ in range(10)
    ]


async def open_accounts(ledger: Ledger, shop_id: UUID) -> tuple[UUID, list[UUID]]:
    """Open one hot account and the many."""
    hot = Account(shop_id, Mode.LIVE, psp_receivable("bench"), CURRENCY)
    many = [Account(shop_id, Mode.LIVE, seller_pending(f"seller-{n}"), CURRENCY) for n in range(ACCOUNTS)]
    await ledger.open_accounts([hot, *many], datetime.now(UTC))
    return hot.account_id, [account.account_id for account in many]


async def check_invariants(store: Store) -> None:
    """Stop with an error if any invariant of the ledger finds a row."""
    for name, query in store.invariants.items():
        if name.startswith("ledger_"):
            rows = await store.pool.fetch(query, timeout=600)
            print(f"  {name}: {'no rows' if not rows else rows[:3]}")
            if rows:
                raise SystemExit(f"invariant {name} does not hold")


async def run(data_dir: Path, seconds: float) -> None:
    """Measure the three cases and prove the books afterwards."""
    async with open_store(None, data_dir, pool_size=IN_FLIGHT) as store:
        (settings,) = await store.pool.fetch(
            "SELECT current_setting('fsync') AS fsync, current_setting('synchronous_commit') AS commit, version() AS v"
        )
        print(f"{settings['v'].split(' on ')[0]}, fsync={settings['fsync']}, synchronous_commit={settings['commit']}")
        print(f"{IN_FLIGHT} batches in flight; timed: ids, objects, encoding, posting, commit")
        ledger = Ledger(store)
        hot, many = await open_accounts(ledger, uuid4())

        half = len(many) // 2  # debits from one half, credits from the other: all accounts are equally likely
        rates = await measure_in_turn(
            ledger,
            {
                "uniform, 1000": choose(many[:half], many[half:], 1000),
                "one account in every transfer, 1000": choose([hot], many, 1000),
                "uniform, 8000": choose(many[:half], many[half:], 8000),
            },
            seconds,
        )
        for name, measured in rates.items():
            print(f"{name} per batch: {', '.join(f'{rate:,.0f}' for rate in measured)} transfers/s")
        print("the books afterwards:")
        await check_invariants(store)
        small, hot_rates, large = rates.values()
        ratio = median(one / other for one, other in zip(hot_rates, small, strict=True))
        print(f"BENCH part=ledger batch=1000 transfers_per_s={median(small):.0f}")
        print(f"BENCH part=ledger batch=8000 transfers_per_s={median(large):.0f}")
        print(f"BENCH part=ledger_hot batch=1000 ratio_to_uniform={ratio:.2f}")


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description="transfers per second of the ledger")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each case is measured")
    parser.add_argument("--data-dir", type=Path, help="where PostgreSQL lives (a temporary directory by default)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="coatcheck-bench-", ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o755)
        uvloop.run(run(options.data_dir or Path(directory), options.seconds))


if __name__ == "__main__":
    main()
