"""How long a page of an account's statement takes with ten million transfers in the books, over HTTP.

`python -m bench.statement [--transfers 10000000] [--pages 3000]`, which is `make bench-statement`.

The transfers are made by set-based statements as the owner of the schema: a charge and a commission for each payment of
a year, of one provider, over 10,000 sellers of whom few are large. Entries are made anew from them. Then one client
asks a gateway for pages of 100 lines, one after the other: a quarter of the provider's receivable, which has all lines,
a tenth of the commission, the rest of sellers, each from a random moment on. Timed is the whole request.
"""

import argparse
import asyncio
import random
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

import aiohttp
import asyncpg

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `python bench/statement.py`

from bench.load import percentile
from bench.machine import BenchError, Machine, describe, open_machine, take_two_cores

from coatcheck.ledger import Account, AccountName, Ledger, platform_commission, psp_receivable, seller_pending
from coatcheck.money import format_amount
from coatcheck.states import Mode
from coatcheck.store import open_store

_SELLERS = 10_000
_CHUNK = 500_000  # payments of one statement
_CURRENCY = "EUR"
_LIMIT = 100
_WARM_UP = 100
_DAYS = 365
_RECEIVABLE, _COMMISSION = psp_receivable("simulator"), platform_commission()

_FILL = """
INSERT INTO transfer (transfer_id, kind, phase, debit_account_id, credit_account_id, amount_minor, currency, subject_id,
                      at)
SELECT uuidv7(), leg.kind, 'posted', $1, leg.account_id, leg.amount_minor, 'EUR', md5('payment' || n)::uuid,
       $3::timestamptz + n * $4::interval
  FROM generate_series($5::bigint, $6::bigint) AS n
  JOIN bench_seller AS s ON s.number = floor(10000 * power((n * 7919 % 1000003) / 1000003.0, 3))::integer
 CROSS JOIN LATERAL (VALUES ('charge', s.account_id, 900 + n % 5000), ('commission', $2::uuid, 100 + n % 50))
       AS leg (kind, account_id, amount_minor)
"""
_COUNT_UP = """
WITH moved AS (
    SELECT account_id, sum(debit_minor) AS debits, sum(credit_minor) AS credits
      FROM (SELECT debit_account_id AS account_id, amount_minor AS debit_minor, 0 AS credit_minor FROM transfer
            UNION ALL SELECT credit_account_id, 0, amount_minor FROM transfer) AS leg
     GROUP BY account_id
)
UPDATE account AS a SET debits_posted_minor = moved.debits, credits_posted_minor = moved.credits
  FROM moved WHERE moved.account_id = a.account_id
"""
_SIZES = """
SELECT pg_size_pretty(pg_total_relation_size('transfer')) AS transfer,
       pg_size_pretty(pg_total_relation_size('account_entry')) AS account_entry,
       pg_size_pretty(pg_total_relation_size('account_day')) AS account_day
"""


@dataclass(frozen=True, slots=True)
class Books:
    """What was filled in: whose, and over what time."""

    shop_id: UUID
    first_at: datetime
    last_at: datetime


def _account(shop_id: UUID, name: AccountName) -> Account:
    return Account(shop_id, Mode.TEST, name, _CURRENCY)


async def _open_accounts(machine: Machine, database_url: str, shop_id: UUID) -> list[tuple[int, UUID]]:
    sellers = [_account(shop_id, seller_pending(f"seller-{number}")) for number in range(_SELLERS)]
    platform = [_account(shop_id, name) for name in (_RECEIVABLE, _COMMISSION)]
    async with open_store(database_url, machine.directory, pool_size=2) as store:
        await Ledger(store).open_accounts([*platform, *sellers], datetime.now(UTC) - timedelta(days=_DAYS + 1))
    return [(number, account.account_id) for number, account in enumerate(sellers)]


async def fill(machine: Machine, database_url: str, transfers: int) -> Books:
    """Put so many transfers into a database that has a schema and the shop, and make their entries."""
    settings = {"work_mem": "512MB", "maintenance_work_mem": "512MB", "synchronous_commit": "off"}
    owner = await asyncpg.connect(database_url, server_settings=settings)
    payments = transfers // 2
    first_at = datetime.now(UTC) - timedelta(days=_DAYS)
    step = timedelta(days=_DAYS) / payments
    try:
        shop_id: UUID = await owner.fetchval("SELECT shop_id FROM shop WHERE name = 'bench'")
        sellers = await _open_accounts(machine, database_url, shop_id)
        await owner.execute("CREATE UNLOGGED TABLE bench_seller (number integer PRIMARY KEY, account_id uuid NOT NULL)")
        await owner.copy_records_to_table("bench_seller", records=sellers)
        await owner.execute("ANALYZE bench_seller")
        pair = [_account(shop_id, name).account_id for name in (_RECEIVABLE, _COMMISSION)]
        for start in range(0, payments, _CHUNK):
            end = min(start + _CHUNK, payments) - 1
            await owner.execute(_FILL, *pair, first_at, step, start, end, timeout=900)
        await owner.execute(_COUNT_UP, timeout=900)
        await owner.execute("SELECT entries_rebuild()", timeout=3600)
        await owner.execute("DROP TABLE bench_seller")
        for table in ("transfer", "account", "account_entry", "account_day"):
            await owner.execute(f"VACUUM (ANALYZE) {table}", timeout=1800)
        (sizes,) = await owner.fetch(_SIZES)
        print("  " + ", ".join(f"{name} {size}" for name, size in sizes.items()))
    finally:
        await owner.close()
    await machine.checkpoint()
    return Books(shop_id, first_at, first_at + step * payments)


def _address(books: Books, dice: random.Random) -> str:
    chosen = dice.random()
    name = _RECEIVABLE if chosen < 0.25 else _COMMISSION
    if chosen >= 0.35:
        name = seller_pending(f"seller-{dice.randrange(_SELLERS)}")
    since = books.first_at + (books.last_at - books.first_at) * dice.random()
    moment = quote(since.isoformat())
    return f"/v1/ledger/accounts/{quote(name.name)}/statement?currency={_CURRENCY}&limit={_LIMIT}&from={moment}"


def _check(body: Any) -> int:
    """See that a page adds up; returns its lines. Raises BenchError."""

    def minor(text: str) -> int:
        return int(text.replace(".", ""))

    sign = 1 if body["kind"] == "psp_receivable" else -1
    balance = minor(body["opening_balance"])
    for line in body["lines"]:
        balance += sign * (minor(line["debit"]) - minor(line["credit"]))
        if balance != minor(line["balance"]):
            raise BenchError(f"a line of {body['account']} does not add up: {line}")
    if body["next_cursor"] is None and balance != minor(body["closing_balance"]):
        raise BenchError(f"{body['account']} closes with another balance than its last line")
    return len(body["lines"])


async def _closings(database_url: str) -> dict[str, str]:
    connection = await asyncpg.connect(database_url)
    try:
        rows = await connection.fetch(
            "SELECT name, abs(credits_posted_minor - debits_posted_minor) AS minor FROM account"
        )
    finally:
        await connection.close()
    return {row["name"]: format_amount(row["minor"], _CURRENCY) for row in rows}


async def _ask(url: str, key: str, books: Books, pages: int, closings: dict[str, str]) -> tuple[list[float], int]:
    """Ask for pages; returns how long each took (ms), and how many lines there were."""
    dice, took, lines = random.Random(7), [], 0
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as session:
        for number in range(pages + _WARM_UP):
            address = url + _address(books, dice)
            started = time.perf_counter()
            async with session.get(address) as answer:
                body = await answer.json()
            if number >= _WARM_UP:
                took.append((time.perf_counter() - started) * 1e3)
            if answer.status != 200:
                raise BenchError(f"{address} was answered {answer.status}: {body}")
            lines += _check(body)
            if body["closing_balance"] != closings[body["account"]]:
                raise BenchError(f"{body['account']} does not close with what its counters say")
    return took, lines


async def _check_invariants(database_url: str, machine: Machine) -> None:
    """See that books and entries agree. Raises BenchError."""
    async with open_store(database_url, machine.directory, pool_size=2) as store, store.pool.acquire() as connection:
        await connection.execute("SET statement_timeout = 0")
        for name, query in store.invariants.items():
            if name.startswith(("ledger_", "entries_")) and await connection.fetch(query, timeout=900):
                raise BenchError(f"the invariant {name} does not hold")


async def run(options: argparse.Namespace) -> None:
    """Fill, measure and print."""
    cores = take_two_cores()
    async with open_machine(options.data_dir) as machine:
        print(await describe(machine, cores))
        database_url = await machine.new_database()
        await asyncio.to_thread(machine.make_key, database_url)
        started = time.monotonic()
        books = await fill(machine, database_url, options.transfers)
        print(f"  filled with {options.transfers:,} transfers in {time.monotonic() - started:.0f} s")
        closings = await _closings(database_url)
        async with machine.open_rig(database_url) as rig:
            took, lines = await _ask(rig.gateway_url, rig.api_key, books, options.pages, closings)
            print(f"  {options.pages:,} pages of at most {_LIMIT} lines, {lines:,} lines")
        await _check_invariants(database_url, machine)
        print(
            f"BENCH part=statement transfers={options.transfers} p50_ms={percentile(sorted(took), 50):.1f} "
            f"p99_ms={percentile(sorted(took), 99):.1f}"
        )


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description="a page of a statement with ten million transfers in the books")
    parser.add_argument("--transfers", type=int, default=10_000_000)
    parser.add_argument("--pages", type=int, default=3_000, help="how many are asked for")
    parser.add_argument("--data-dir", type=Path, help="where PostgreSQL lives (a temporary directory by default)")
    try:
        asyncio.run(run(parser.parse_args()))
    except BenchError as error:
        raise SystemExit(f"bench: {error}") from error


if __name__ == "__main__":
    main()
