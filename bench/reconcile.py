"""A settlement file of a million lines against a million orders, beside PostgreSQL's own COPY of the same file.

`python -m bench.reconcile [--lines 1000000]`

The orders are written straight into the tables, as they stand after a day of charges; the file is the simulator's. What
is measured is all that `coatcheck reconcile` does once it is open: reading, comparing, posting, and what the rules say
of what is missing. Memory: the most this process had.
"""

import argparse
import asyncio
import resource
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

import asyncpg

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `python bench/reconcile.py`

from bench.machine import BenchError, Machine, describe, open_machine, take_two_cores

from coatcheck.config import Settings
from coatcheck.ids import OPERATION, print_id
from coatcheck.reconciliation.files import Source
from coatcheck.reconciliation.report import Report
from coatcheck.shops import shop_id_of
from coatcheck.states import Mode
from coatcheck.store.database import _open
from coatcheck.wiring import open_desk

_SHOP = "hats"
_AMOUNT_MINOR, _FEE_MINOR = 1_250, 28
_OPERATIONS = """
INSERT INTO operation (operation_id, order_id, payment_id, shop_id, mode, kind, provider, amount_minor, currency, body,
                       is_hosted, status, attempt, first_sent_at, created_at, provider_reference, decided_at)
SELECT gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), $1, 'test', 'charge', 'simulator', $2, 'EUR', 'frozen',
       false, 'APPROVED', 1, $3, $3, 'ch_' || lpad(n::text, 8, '0'), $3
  FROM generate_series(1, $4::integer) AS n
"""
_READ = "SELECT operation_id, provider_reference FROM operation ORDER BY provider_reference"
_PLAIN = (
    "CREATE TEMP TABLE plain (batch text, line text, type text, id text, charge text, reference text, occurred_at text,"
    " currency text, gross text, fee text, net text)"
)


async def _fill(owner: asyncpg.Connection, lines: int, path: Path) -> None:
    """Write so many approved charges, and a file that has them all."""
    at = datetime.now(UTC)
    await owner.execute("SET synchronous_commit = off")
    await owner.execute(_OPERATIONS, shop_id_of(_SHOP), _AMOUNT_MINOR, at, lines)
    await owner.execute("ANALYZE operation")
    with path.open("w", encoding="utf-8") as file:
        file.write("batch,line,type,id,charge,reference,occurred_at,currency,gross,fee,net\n")
        async with owner.transaction():
            number = 0
            async for row in owner.cursor(_READ, prefetch=5_000):
                number += 1
                file.write(_line_of(number, row, at))
        file.writelines(_ends(lines, at))


def _line_of(number: int, row: asyncpg.Record, at: datetime) -> str:
    charge = row["provider_reference"]
    about = f"{charge},{charge},{print_id(OPERATION, row['operation_id'])},{at:%Y-%m-%dT%H:%M:%SZ}"
    return f"st_000001,{number},charge,{about},EUR,{_sums(_AMOUNT_MINOR, _FEE_MINOR)}\n"


def _ends(lines: int, at: datetime) -> Iterator[str]:
    gross, fee = lines * _AMOUNT_MINOR, lines * _FEE_MINOR
    yield f"st_000001,{lines + 1},payout,po_000001,,,{at:%Y-%m-%dT%H:%M:%SZ},EUR,{_sums(fee - gross, 0)}\n"
    yield f"st_000001,{lines + 1},end,,,,,EUR,{_sums(gross, fee)}\n"


def _sums(gross: int, fee: int) -> str:
    return ",".join(
        f"{'-' if each < 0 else ''}{abs(each) // 100}.{abs(each) % 100:02}" for each in (gross, fee, gross - fee)
    )


async def _take(database_url: str, path: Path) -> tuple[Report, float]:
    settings = Settings(database_url=database_url, digest_secret="0" * 64)
    source = Source(path=path, name=path.name, shop_id=shop_id_of(_SHOP), mode=Mode.TEST, brought_by="bench")
    async with open_desk(settings) as gateway:
        began = perf_counter()
        report = await gateway.arrivals.take(source)
        return report, perf_counter() - began


async def _copy(owner: asyncpg.Connection, path: Path) -> float:
    await owner.execute(_PLAIN)
    began = perf_counter()
    await owner.copy_to_table("plain", source=path, format="csv", header=True)
    return perf_counter() - began


async def _measure(machine: Machine, lines: int, directory: Path, first: tuple[int, float] | None) -> float:
    database_url, path = await machine.new_database(), directory / "settlement.csv"
    async with _open(database_url, pool_size=1):  # which makes the tables
        owner = await asyncpg.connect(database_url)
        try:
            await _fill(owner, lines, path)
            copy_s = await _copy(owner, path)
        finally:
            await owner.close()
    report, took_s = await _take(database_url, path)
    if report.matched != lines or report.mismatches:
        raise BenchError(f"{report.matched} of {lines} lines matched, with {len(report.mismatches)} breaks")
    rss_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    per_million = took_s * 1_000_000 / lines
    # How much longer than the first size it took: ten times as many lines may take at most twelve times as long.
    grown = f" ratio_{_short(first[0])}_to_{_short(lines)}={took_s / first[1]:.1f}" if first is not None else ""
    print(
        f"BENCH part=reconcile lines={lines} seconds={took_s:.1f} seconds_for_1000000={per_million:.1f} "
        f"copy_s={copy_s:.1f} times_copy={took_s / copy_s:.1f} rss_mib={rss_mib:.0f}{grown}"
    )
    return took_s


def _short(lines: int) -> str:
    return f"{lines // 1_000_000}m" if lines >= 1_000_000 else f"{lines // 1_000}k"


async def run(options: argparse.Namespace) -> None:
    """Measure each size on a database of its own."""
    cores = take_two_cores()
    async with open_machine(options.data_dir) as machine:
        print(await describe(machine, cores))
        with tempfile.TemporaryDirectory(prefix="coatcheck-bench-") as directory:
            first: tuple[int, float] | None = None
            for lines in options.lines:
                took_s = await _measure(machine, lines, Path(directory), first)
                first = first or (lines, took_s)


def main() -> None:
    """Read the command line and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--data-dir", type=Path, default=None)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
