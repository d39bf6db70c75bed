"""Whether a gateway slows down as its tables fill: the end-to-end load on empty tables, and on tables with a history.

`python -m bench.growth [--orders 5000000] [--rounds 1] [--seconds 15]`

The history is made by set-based statements as the owner of the schema: whole payments of one order, each with its
operation, its two transfers, its two events and its idempotency key, under ids as scattered as real ones, and account
counters that agree. Only the event bodies are shorter than real ones. `coatcheck audit` holds on it like on any other.
A gateway without load then does with it what it would have done all along: it is sealed, and wallets' balances noted.
Both measurements begin with a CHECKPOINT, so both pay for the full pages that follow one.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import fmean
from uuid import UUID

import asyncpg

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `python bench/growth.py`

from bench.end_to_end import Measured, Plan, add_options, measure, plan_of, tell
from bench.load import BUYERS, SELLERS
from bench.machine import BenchError, Machine, describe, open_machine, shares_of, take_two_cores

from coatcheck.ids import buyer_id_of
from coatcheck.ledger import Account, Ledger, platform_commission, psp_receivable, seller_pending
from coatcheck.states import Mode
from coatcheck.store import open_store

_CHUNK = 100_000
_FILLERS = 2
_CURRENCIES = ("USD", "EUR")
_TABLES = ("idempotency_key", "payment", "payment_order", "operation", "transfer", "event")
_COMMISSION_MINOR = 45
_LOOK_S = 5.0
_AT_REST = 0.1  # of a core, by the gateway and PostgreSQL together
_REST_MOST_S = 1800.0

_SCAFFOLD = """
CREATE UNLOGGED TABLE bench_seller (
    number integer, currency text, receivable uuid, pending uuid, commission uuid, PRIMARY KEY (number, currency)
);
CREATE UNLOGGED TABLE bench_buyer (number integer PRIMARY KEY, buyer_id uuid NOT NULL);
"""

_FILL_BUYERS = """
INSERT INTO buyer (buyer_id, shop_id, mode, reference, email, country, ip, updated_at)
SELECT buyer_id, $1, 'test', 'buyer-' || number, 'buyer-' || number || '@shop.example', 'DE',
       '198.51.' || number / 250 || '.' || number % 250, $2
  FROM bench_buyer
"""

# One statement for all tables. Payment n is its own and everything's seed; its moment is $4 before the newest.
_FILL = """
WITH made AS MATERIALIZED (
    SELECT n, $1::uuid AS shop_id, $5::timestamptz - ($4::bigint - n) * interval '10 milliseconds' AS at,
           md5('payment' || n)::uuid AS payment_id, md5('order' || n)::uuid AS order_id,
           md5('operation' || n)::uuid AS operation_id, md5('key' || n)::uuid AS key_id,
           md5('nonce' || n)::uuid AS nonce, sha256(int8send(n)) AS digest,
           (595 + n * 7919 % 49000)::bigint AS amount_minor,
           s.number AS seller, s.currency, s.receivable, s.pending, s.commission, b.buyer_id, b.number AS buyer
      FROM generate_series($2::bigint, $3::bigint) AS n
      JOIN bench_seller AS s ON s.number = 1 + n * 104729 % 1000 AND s.currency = (ARRAY['USD', 'EUR'])[1 + n % 2]
      JOIN bench_buyer AS b ON b.number = 1 + n * 15485863 % 10000
), keys AS (
    INSERT INTO idempotency_key (key_id, shop_id, mode, key, request_digest, resource_id, claimed_by, created_at)
    SELECT key_id, shop_id, 'test', 'k-history-' || n, digest, payment_id, nonce, at FROM made
), payments AS (
    INSERT INTO payment (payment_id, shop_id, mode, checkout_id, request_digest, accepted_by, buyer_id, order_ids,
                         metadata, risk_decision, risk_signals, risk_subjects, capture, on_failure, created_at)
    SELECT payment_id, shop_id, 'test', 'c-history-' || n, digest, nonce, buyer_id, ARRAY[order_id], NULL, 'ALLOW',
           '[]', ARRAY[md5('card' || buyer)::uuid, md5('buyer' || buyer)::uuid, md5('ip' || buyer)::uuid], 'automatic',
           'keep', at
      FROM made
), orders AS (
    INSERT INTO payment_order (order_id, payment_id, shop_id, mode, payment_order_id, seller_account, amount_minor,
                               commission_minor, currency, provider, status, provider_reference, authorized_minor,
                               captured_minor, created_at, decided_at)
    SELECT order_id, payment_id, shop_id, 'test', 'o-history-' || n, 'seller-' || seller, amount_minor, $6::bigint,
           currency, 'simulator', 'SUCCESS', 'ch_history' || n, amount_minor, amount_minor, at,
           at + interval '50 milliseconds'
      FROM made
), operations AS (
    INSERT INTO operation (operation_id, order_id, payment_id, shop_id, mode, kind, provider, amount_minor, currency,
                           body, status, attempt, first_sent_at, provider_reference, created_at, decided_at)
    SELECT operation_id, order_id, payment_id, shop_id, 'test', 'charge', 'simulator', amount_minor, currency,
           convert_to(format('{"amount":%s,"currency":"%s","token":"tok_approve.card%s","reference":"op_%s",'
                             '"description":"o-history-%s"}', amount_minor, currency, buyer, operation_id, n), 'UTF8'),
           'APPROVED', 1, at, 'ch_history' || n, at, at + interval '50 milliseconds'
      FROM made
), transfers AS (
    INSERT INTO transfer (transfer_id, kind, phase, debit_account_id, credit_account_id, amount_minor, currency,
                          subject_id, at)
    SELECT uuidv7(), leg.kind, 'posted', receivable, leg.account_id, leg.amount_minor, currency, payment_id, at
      FROM made
     CROSS JOIN LATERAL (VALUES ('charge', pending, made.amount_minor - $6::bigint), ('commission', commission, $6))
           AS leg (kind, account_id, amount_minor)
)
INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
SELECT payment_id, uuidv7(), step.kind, shop_id, 'test', at,
       json_build_object('history', n, 'order_id', order_id, 'operation_id', operation_id, 'amount_minor', amount_minor)
  FROM made CROSS JOIN (VALUES ('payment.accepted'), ('order.succeeded')) AS step (kind)
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

_CONSTRAINTS = """
SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname) AS without,
       format('ALTER TABLE %s ADD CONSTRAINT %I %s', conrelid::regclass, conname, pg_get_constraintdef(oid)) AS again
  FROM pg_constraint WHERE contype IN ('p', 'u') AND conrelid = ANY ($1::text[]::regclass[])
"""
_INDEXES = """
SELECT format('DROP INDEX %s', indexrelid::regclass) AS without, pg_get_indexdef(indexrelid) AS again
  FROM pg_index AS i
 WHERE indrelid = ANY ($1::text[]::regclass[])
   AND NOT EXISTS (SELECT FROM pg_constraint AS c WHERE c.conindid = i.indexrelid)
"""


async def _open_accounts(database_url: str, machine: Machine, shop_id: UUID) -> list[tuple[int, str, UUID, UUID, UUID]]:
    """Open the accounts of every seller, as the gateway does; returns the rows of bench_seller."""
    accounts: dict[str, Account] = {}

    def named(account: Account) -> UUID:
        accounts[str(account.account_id)] = account
        return account.account_id

    rows = [
        (
            number,
            currency,
            named(Account(shop_id, Mode.TEST, psp_receivable("simulator"), currency)),
            named(Account(shop_id, Mode.TEST, seller_pending(f"seller-{number}"), currency)),
            named(Account(shop_id, Mode.TEST, platform_commission(), currency)),
        )
        for number in range(1, SELLERS + 1)
        for currency in _CURRENCIES
    ]
    async with open_store(database_url, machine.directory, pool_size=2) as store:
        await Ledger(store).open_accounts(list(accounts.values()), datetime.now(UTC))
    return rows


async def _fill_part(database_url: str, starts: Sequence[int], history: int, shop_id: UUID, newest: datetime) -> None:
    connection = await asyncpg.connect(database_url, server_settings={"work_mem": "256MB", "synchronous_commit": "off"})
    try:
        for start in starts:
            end = min(start + _CHUNK - 1, history)
            await connection.execute(_FILL, shop_id, start, end, history, newest, _COMMISSION_MINOR, timeout=600)
    finally:
        await connection.close()


async def _run_all(database_url: str, statements: Sequence[str]) -> None:
    """Run statements over two connections."""
    waiting = list(reversed(statements))

    async def work() -> None:
        settings = {"maintenance_work_mem": "512MB", "max_parallel_maintenance_workers": "0"}
        connection = await asyncpg.connect(database_url, server_settings=settings)
        try:
            while waiting:
                await connection.execute(waiting.pop(), timeout=1800)
        finally:
            await connection.close()

    await asyncio.gather(*[work() for _ in range(_FILLERS)])


async def fill(machine: Machine, database_url: str, history: int) -> float:
    """Put `history` payments into a database that has a schema and the shop; returns the seconds it took.

    Indexes are dropped and built again: the same content in a fraction of the time.
    """
    started = time.monotonic()
    owner = await asyncpg.connect(database_url)
    try:
        shop_id = await owner.fetchval("SELECT shop_id FROM shop WHERE name = 'bench'")
        await owner.execute(_SCAFFOLD)
        sellers = await _open_accounts(database_url, machine, shop_id)
        await owner.copy_records_to_table("bench_seller", records=sellers)
        buyers = [(number, buyer_id_of(shop_id, Mode.TEST, f"buyer-{number}")) for number in range(1, BUYERS + 1)]
        await owner.copy_records_to_table("bench_buyer", records=buyers)
        newest = datetime.now(UTC) - timedelta(hours=1)
        await owner.execute(_FILL_BUYERS, shop_id, newest)
        await owner.execute("ANALYZE bench_seller, bench_buyer")
        rows = [*await owner.fetch(_CONSTRAINTS, _TABLES), *await owner.fetch(_INDEXES, _TABLES)]
        for row in rows:
            await owner.execute(row["without"])
        starts = range(1, history + 1, _CHUNK)
        await asyncio.gather(
            *[_fill_part(database_url, starts[k::_FILLERS], history, shop_id, newest) for k in range(_FILLERS)]
        )
        await _run_all(database_url, [row["again"] for row in rows])
        await owner.execute(_COUNT_UP, timeout=1800)
        await owner.execute("SELECT entries_rebuild()", timeout=1800)
        await owner.execute("DROP TABLE bench_seller, bench_buyer")
        await _run_all(database_url, [f"VACUUM (ANALYZE) {table}" for table in (*_TABLES, "account", "buyer")])
    finally:
        await owner.close()
    await machine.checkpoint()
    return time.monotonic() - started


async def catch_up(machine: Machine, database_url: str) -> float:
    """Run a gateway without load until it has nothing left to do; returns the seconds it took. Raises BenchError."""
    started = time.monotonic()
    async with machine.open_rig(database_url) as rig:
        while time.monotonic() < started + _REST_MOST_S:
            before = rig.usage()
            await asyncio.sleep(_LOOK_S)
            busy = shares_of(before, rig.usage())
            if busy["gateway"] + busy["PostgreSQL"] < _AT_REST:
                return time.monotonic() - started
    raise BenchError(f"the gateway was not done with the history after {_REST_MOST_S:.0f} s")


async def size_of(database_url: str) -> tuple[int, float]:
    """Count the orders of a database and weigh it in GiB."""
    connection = await asyncpg.connect(database_url)
    try:
        orders = await connection.fetchval("SELECT count(*) FROM payment_order", timeout=600)
        size = await connection.fetchval("SELECT pg_database_size(current_database())", timeout=600)
    finally:
        await connection.close()
    return int(orders), int(size) / 2**30


async def compare(machine: Machine, plan: Plan, history: int, rounds: int) -> float:
    """Measure on empty tables and on full ones by turns; returns the ratio of the means."""
    filled_url = await machine.new_database()
    await asyncio.to_thread(machine.make_key, filled_url)
    rates: dict[str, list[float]] = {"empty": [], "filled": []}
    for number in range(1, rounds + 1):
        measured: Measured = await measure(machine, await machine.new_database(), plan)
        tell(f"empty tables, round {number}", measured)
        rates["empty"].append(measured.payments_per_s)
        if number == 1:
            took_s = await fill(machine, filled_url, history)
            print(f"  filled with {history:,} payments in {took_s:.0f} s", flush=True)
            print(f"  sealed and noted by a gateway in {await catch_up(machine, filled_url):.0f} s", flush=True)
        orders, gib = await size_of(filled_url)
        measured = await measure(machine, filled_url, plan)
        tell(f"{orders:,} orders in the tables ({gib:.1f} GiB), round {number}", measured)
        rates["filled"].append(measured.payments_per_s)
    return fmean(rates["filled"]) / max(fmean(rates["empty"]), 1e-9)


async def run(options: argparse.Namespace) -> None:
    """Measure and print."""
    plan = plan_of(options)
    history = 50_000 if options.quick else options.orders
    cores = take_two_cores()
    async with open_machine(options.data_dir) as machine:
        print(await describe(machine, cores))
        print(
            f"growth: {plan.clients} clients, payments with {plan.orders} order{'s' * (plan.orders > 1)}, load by "
            f"{plan.generator}, {plan.warm_up:.0f} s warm-up, {plan.seconds:.0f} s measured, {options.rounds} round(s)"
        )
        ratio = await compare(machine, plan, history, options.rounds)
        print(f"BENCH part=growth orders={history} ratio_to_empty={ratio:.2f}")


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description="throughput with a history in the tables, against empty ones")
    add_options(parser, "--orders-per-payment")
    parser.add_argument("--orders", type=int, default=5_000_000, help="payment orders put in before")
    parser.add_argument("--rounds", type=int, default=1, help="how often both are measured, by turns")
    try:
        asyncio.run(run(parser.parse_args()))
    except BenchError as error:
        raise SystemExit(f"bench: {error}") from error


if __name__ == "__main__":
    main()
