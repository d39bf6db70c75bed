"""What seals cost and how fast they are verified: rows sealed and verified per second, and the price of a payment.

`python -m bench.sealing [--rows 1000000] [--rounds 4] [--turns 28] [--rows-only | --cost-only]`

Rows: a database is filled with events and transfers as payments leave them, all of it is sealed, and `coatcheck audit
verify` is run on it: by its own word nothing may be found. Cost: one gateway under one load, whose sealer is held up
for half of each turn: what was written in all of a turn is sealed in its other half. Two runs differ by more than seals
cost; two halves of one hardly do. What a payment costs more is told in time, which is payments per second, and in
processor time of the gateway and PostgreSQL together. Afterwards the database is verified, and replayed, too.
"""

import argparse
import asyncio
import dataclasses
import logging
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import asyncpg
import structlog

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `python bench/sealing.py`

from bench.end_to_end import Plan, add_options, plan_of, run_load, tell
from bench.machine import BenchError, Machine, Rig, describe, open_machine, quiet_environment, sum_of, take_two_cores

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
# The sealer's turn, as begin_seal takes it: whoever holds it keeps every sealer from looking.
_HOLD = "SELECT pg_advisory_lock(hashtext('coatcheck: sealing'))"
_LET_GO = "SELECT pg_advisory_unlock(hashtext('coatcheck: sealing'))"
_LOOKS_IN_A_HALF = 2


@dataclass(frozen=True, slots=True)
class Moment:
    """What was used by then: seconds of time, and of processor time by gateway and PostgreSQL; and payments taken."""

    at: float
    cpu_s: float
    payments: float


@dataclass(frozen=True, slots=True)
class Turn:
    """A half with seals, which have the rows of both halves to do, and a half without."""

    began: Moment
    held: Moment
    ended: Moment

    def payments_percent(self) -> float:
        """Say what share more time a payment takes for being sealed: by so much fewer are taken in a second."""
        return self._more_percent("at")

    def cpu_percent(self) -> float:
        """Say what share more processor time a payment takes for being sealed."""
        return self._more_percent("cpu_s")

    def _more_percent(self, what: str) -> float:
        used_with, used_without = (
            getattr(end, what) - getattr(start, what)
            for start, end in ((self.began, self.held), (self.held, self.ended))
        )
        each = used_without / (self.ended.payments - self.held.payments)
        more = used_with - each * (self.held.payments - self.began.payments)
        return float(100 * more / (self.ended.payments - self.began.payments) / each)


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


def moment_of(rig: Rig) -> Moment:
    """Read what was used so far, and how many payments the gateway has taken."""
    used = rig.usage()
    taken = sum_of(rig.metrics(), "coatcheck_http_requests_total", route="/v1/payments", status="201")
    return Moment(used.at, used.cpu_s["gateway"] + used.cpu_s["PostgreSQL"], taken)


async def take_turns(rig: Rig, plan: Plan, options: argparse.Namespace) -> list[Turn]:
    """Let the sealer go and hold it up, turn by turn, once the load is warm and half a turn waits to be sealed."""
    turns: list[Turn] = []
    holder = await asyncpg.connect(rig.database_url)
    try:
        await asyncio.sleep(plan.warm_up)
        await holder.execute(_HOLD)
        await asyncio.sleep(options.half_seconds)
        for number in range(1, options.turns + 1):
            await holder.execute(_LET_GO)
            began = moment_of(rig)
            await asyncio.sleep(options.half_seconds)
            await holder.execute(_HOLD)
            held = moment_of(rig)
            await asyncio.sleep(options.half_seconds)
            turns.append(Turn(began, held, moment_of(rig)))
            rig.loads[-1].check()  # else part of the turn had no load
            print(
                f"  turn {number}: a payment that is sealed takes {turns[-1].payments_percent():.1f}% more time, "
                f"{turns[-1].cpu_percent():.1f}% more processor time",
                flush=True,
            )
    finally:
        await holder.close()
    return turns


def tell_cost(turns: Sequence[Turn]) -> None:
    """Print the medians: whatever else the machine does falls into one half of a turn and not into the other."""
    payments = median([turn.payments_percent() for turn in turns])
    cpu = median([turn.cpu_percent() for turn in turns])
    print(f"BENCH part=sealing_cost payments_percent={payments:.1f} cpu_percent={cpu:.1f} turns={len(turns)}")


async def measure_cost(machine: Machine, options: argparse.Namespace) -> None:
    """Load one gateway, and have it seal by turns; prove, verify and replay what it did."""
    # Each look at what was used takes a moment, too.
    turns_s = (2 * options.turns + 1) * options.half_seconds + options.turns / 2
    plan = dataclasses.replace(plan_of(options), seconds=turns_s)
    directory = machine.directory / "cost"
    interval_ms = int(1000 * options.half_seconds / _LOOKS_IN_A_HALF)
    settings = {
        "COATCHECK_SEAL_DIR": str(directory),
        "COATCHECK_SEAL_INTERVAL_MS": str(interval_ms),
        "COATCHECK_MATURING_INTERVAL_S": "3600",  # two seconds' work, once a minute: it would fall into one half
    }
    database_url = await machine.new_database()
    await machine.put_off_chores()
    async with machine.open_rig(database_url, settings=settings) as rig:
        owner = await asyncpg.connect(database_url)
        try:
            async with asyncio.TaskGroup() as group:
                loaded = group.create_task(run_load(rig, owner, plan))
                taken = group.create_task(take_turns(rig, plan, options))
        finally:
            await owner.close()
    tell("sealing by turns", loaded.result())
    await verify(database_url, directory)
    print(f"BENCH part=replay rows_per_s={await replay(database_url, directory):.0f}")
    tell_cost(taken.result())


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
    parser.add_argument("--rounds", type=int, default=4, help="how often those are measured")
    parser.add_argument("--turns", type=int, default=28, help="turns of sealing and not sealing, for the cost")
    # Not a part of the minute, by which chores come round: they would meet the same half each time.
    parser.add_argument("--half-seconds", type=float, default=7.0, help="half of a turn; the sealer looks twice in it")
    parser.add_argument("--rows-only", action="store_true", help="leave out the cost")
    parser.add_argument("--cost-only", action="store_true", help="leave out the rows")
    options = parser.parse_args()
    if options.quick:
        options.rows, options.rounds, options.turns, options.half_seconds = 100_000, 1, 2, 2.0
    try:
        asyncio.run(run(options))
    except BenchError as error:
        raise SystemExit(f"bench: {error}") from error


if __name__ == "__main__":
    main()
