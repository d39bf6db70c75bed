"""What seals cost and how fast they are verified: rows sealed and verified per second, and the price of a payment.

`python -m bench.sealing [--rows 1000000] [--rounds 4] [--seconds 8] [--rows-only | --cost-only]`

Rows: a database is filled with events and transfers as payments leave them, all of it is sealed, and `coatcheck audit
verify` is run on it: by its own word nothing may be found. Cost: the end-to-end load with the sealing loop and without,
in turn; throughput moves with whatever else the machine does, so the figure is processor time, of the gateway and
PostgreSQL together, per payment. Afterwards the sealed databases are verified, and replayed without a difference, too.
"""

import argparse
import asyncio
import logging
import re
import sys
import time
from pathlib import Path

import asyncpg
import structlog

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `python bench/sealing.py`

from bench.end_to_end import add_options, measure, plan_of
from bench.machine import BenchError, Machine, describe, open_machine, quiet_environment, take_two_cores
from bench.risk_cost import cost_percent, microseconds_of

from coatcheck.audit.sealing.anchor import AnchorFile
from coatcheck.audit.sealing.keys import sealing_key_of
from coatcheck.audit.sealing.sealer import Sealer
from coatcheck.clock import SystemClock
from coatcheck.store.database import Store, open_store

_FILLED_AT_ONCE = 20_000
_VERIFY = re.compile(r"VERIFY rows=(\d+) seals=(\d+) rows_per_s=(\d+) found=(\d+) .*ok=(\w+)")
_REPLAY = re.compile(r"REPLAY rows=(\d+) difference=0$")
# As a charge leaves them: a payment.accepted of some 1,300 bytes, an order.succeeded of 900, and two transfers.
_FILL = """
WITH payment AS (
    SELECT n, gen_random_uuid() AS payment_id, gen_random_uuid() AS shop_id, clock_timestamp() AS at
      FROM generate_series(1, $1) AS n
), events AS (
    INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
    SELECT payment_id, time_ordered_id(at), kind, shop_id, 'live', at,
           json_build_object('payment_id', payment_id, 'amount_minor', n, 'text', repeat(md5(n::text), times))
      FROM payment, (VALUES ('payment.accepted', 36), ('order.succeeded', 24)) AS k (kind, times)
)
INSERT INTO transfer (transfer_id, kind, phase, hold_id, debit_account_id, credit_account_id, amount_minor, currency,
                      subject_id, at)
SELECT time_ordered_id(at), kind, 'posted', NULL, gen_random_uuid(), gen_random_uuid(), n, 'EUR', payment_id, at
  FROM payment, (VALUES ('charge'), ('commission')) AS k (kind)
"""


def settings_of(directory: Path) -> dict[str, dict[str, str]]:
    """Give the gateway's settings with sealing and without; the seals of one database in a directory of its own."""
    return {
        "on": {"COATCHECK_SEAL_DIR": str(directory)},
        "off": {"COATCHECK_SEAL_INTERVAL_MS": "0", "COATCHECK_SEAL_DIR": str(directory)},
    }


async def fill(database_url: str, rows: int) -> None:
    """Write so many rows, of four rows a payment, and let the statistics be right."""
    owner = await asyncpg.connect(database_url)
    try:
        for _ in range(-(-rows // _FILLED_AT_ONCE)):
            await owner.execute(_FILL, _FILLED_AT_ONCE // 4, timeout=600)
        await owner.execute("VACUUM (ANALYZE) event, transfer", timeout=600)
    finally:
        await owner.close()


async def seal_all(store: Store, directory: Path) -> tuple[int, float]:
    """Seal everything; returns the rows, and how many a second."""
    key = sealing_key_of(directory / "seal.key")
    sealer = Sealer(store, SystemClock(), key=key, anchor=AnchorFile(directory / "anchor"))
    started, rows, has_more = time.perf_counter(), 0, True
    while has_more:
        done = await sealer.seal_once()
        rows, has_more = rows + done.rows, done.has_more
    return rows, rows / (time.perf_counter() - started)


async def verify(database_url: str, directory: Path) -> tuple[int, int]:
    """Run the verifier as a process; returns its rows, and rows a second. Raises BenchError when it finds anything."""
    process = await asyncio.create_subprocess_exec(
        *(str(Path(sys.executable).with_name("coatcheck")), "audit", "verify", "--database-url", database_url),
        *("--anchor", str(directory / "anchor"), "--public-key", str(directory / "seal.pub")),
        env=quiet_environment(),
        cwd=directory,
        stdout=asyncio.subprocess.PIPE,
    )
    told = (await process.communicate())[0].decode()
    found = _VERIFY.search(told)
    if found is None or process.returncode != 0:
        raise BenchError(f"the verifier is not content (status {process.returncode}):\n{told[-2000:]}")
    print(f"  {told.strip().splitlines()[-1]}")
    return int(found[1]), int(found[3])


async def replay(database_url: str, directory: Path) -> float:
    """Run the replay as a process; returns rows a second. Raises BenchError when anything differs."""
    started = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *(str(Path(sys.executable).with_name("coatcheck")), "audit", "replay"),
        env=quiet_environment(COATCHECK_DATABASE_URL=database_url, COATCHECK_DATA_DIR=str(directory)),
        cwd=directory,
        stdout=asyncio.subprocess.PIPE,
    )
    told = (await process.communicate())[0].decode()
    found = _REPLAY.search(told.strip())
    if found is None or process.returncode != 0:
        raise BenchError(f"the replay is not content (status {process.returncode}):\n{told[-2000:]}")
    rate = int(found[1]) / (time.perf_counter() - started)
    print(f"  {found[0]}, {rate:,.0f} rows a second")
    return rate


async def measure_rows(machine: Machine, options: argparse.Namespace) -> None:
    """Seal and verify a filled database, a few times each."""
    database_url = await machine.new_database()
    sealed, verified = [], []
    async with open_store(database_url, machine.directory, pool_size=2) as store:
        await fill(database_url, options.rows)
        for number in range(1, options.rounds + 1):
            await machine.checkpoint()
            directory = machine.directory / f"rows-{number}"
            rows, rate = await seal_all(store, directory)
            print(f"  round {number}: {rows:,} rows sealed, {rate:,.0f} a second")
            sealed.append(rate)
            rows_verified, rows_per_s = await verify(database_url, directory)
            if rows_verified != rows:
                raise BenchError(f"{rows} rows were sealed, and {rows_verified} verified")
            verified.append(rows_per_s)
            owner = await asyncpg.connect(database_url)
            await owner.execute("TRUNCATE seal, seal_progress")
            await owner.close()
    print(f"BENCH part=sealing rows={options.rows} rows_per_s={sorted(sealed)[len(sealed) // 2]:.0f}")
    print(f"BENCH part=verify rows={options.rows} rows_per_s={sorted(verified)[len(verified) // 2]:.0f}")


async def measure_cost(machine: Machine, options: argparse.Namespace) -> None:
    """Load a gateway with sealing and without, in turn, so that a busy moment falls on both alike."""
    plan = plan_of(options)
    rounds: dict[str, list[float]] = {"on": [], "off": []}
    replayed = []
    for number in range(1, options.rounds + 1):
        # Whoever comes second finds a warmer machine: they take turns at it.
        for turn in ("on", "off") if number % 2 else ("off", "on"):
            directory = machine.directory / f"cost-{number}-{turn}"
            directory.mkdir()
            database_url = await machine.new_database()
            measured = await measure(machine, database_url, plan, settings_of(directory)[turn])
            rounds[turn].append(microseconds_of(measured))
            print(
                f"  round {number}, sealing {turn}: {rounds[turn][-1]:.0f} microseconds of processor time per payment, "
                f"{measured.payments_per_s:,.0f} payments/s, p99 {measured.counts.load.p99_ms:.0f} ms"
            )
            if turn == "on":
                await verify(database_url, directory)
                replayed.append(await replay(database_url, directory))
    print(f"BENCH part=replay rows_per_s={sorted(replayed)[len(replayed) // 2]:.0f}")
    print(f"BENCH part=sealing_cost cost_percent={cost_percent(rounds):.1f}")


async def run(options: argparse.Namespace) -> None:
    """Measure what was asked for."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))
    cores = take_two_cores()
    async with open_machine(options.data_dir) as machine:
        print(await describe(machine, cores))
        if not options.cost_only:
            await measure_rows(machine, options)
        if not options.rows_only:
            await measure_cost(machine, options)


def main() -> None:
    """Read the command line and print the figures."""
    parser = argparse.ArgumentParser(description="what seals cost, and how fast they are verified")
    add_options(parser)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows that are sealed and verified")
    parser.add_argument("--rounds", type=int, default=4, help="how often each is measured")
    parser.add_argument("--rows-only", action="store_true", help="leave out the cost")
    parser.add_argument("--cost-only", action="store_true", help="leave out the rows")
    options = parser.parse_args()
    if options.quick:
        options.rows, options.rounds = 100_000, 1
    try:
        asyncio.run(run(options))
    except BenchError as error:
        raise SystemExit(f"bench: {error}") from error


if __name__ == "__main__":
    main()
