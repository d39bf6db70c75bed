"""How many webhooks a second a gateway stores and applies: signed events in over HTTP, pending orders to SUCCESS.

`python -m bench.webhooks [--events 40000] [--clients 64]`

Every event is the provider's word about an order that waits for it, and one in ten is sent twice. The time runs from
the first request to the last order booked: verified, committed, answered, handled, charged in the books. The figure is
followed by its proof: every order SUCCESS, every event stored once, and `coatcheck audit`.
"""

import argparse
import asyncio
import hashlib
import hmac
import json
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `python bench/webhooks.py`

from bench.machine import BenchError, Machine, Rig, describe, open_machine, shares_of, take_two_cores

from coatcheck.ids import OPERATION, operation_id_of, order_id_of, payment_id_of, print_id
from coatcheck.ledger import Account, Ledger, charge_accounts
from coatcheck.states import Mode
from coatcheck.store import open_store

_SECRET = b"whsec_bench"
_SELLERS = 200
_AMOUNT_MINOR, _COMMISSION_MINOR = 1999, 99
_PATIENCE_S = 120.0
_TWICE = 10  # one event in so many comes twice
_OK = 200


def _rows(number: int, shop_id: UUID, at: datetime) -> dict[str, tuple[Any, ...]]:
    payment_id = payment_id_of(shop_id, Mode.TEST, f"c-{number}")
    order_id = order_id_of(shop_id, Mode.TEST, f"o-{number}")
    operation_id = operation_id_of(order_id, "charge")
    nonce = UUID(int=number + 1)
    seller = f"seller-{number % _SELLERS}"
    return {
        "buyer": (nonce, shop_id, "test", f"b-{number}", at),
        "payment": (
            payment_id,
            shop_id,
            "test",
            f"c-{number}",
            b"",
            nonce,
            nonce,
            [order_id],
            "ALLOW",
            "[]",
            [],
            "automatic",
            "keep",
            at,
        ),
        "payment_order": (
            order_id,
            payment_id,
            shop_id,
            "test",
            f"o-{number}",
            seller,
            _AMOUNT_MINOR,
            _COMMISSION_MINOR,
            "EUR",
            "simulator",
            "PENDING",
            at,
        ),
        "operation": (
            operation_id,
            order_id,
            payment_id,
            shop_id,
            "test",
            "charge",
            "simulator",
            _AMOUNT_MINOR,
            "EUR",
            b"",
            "PENDING",
            1,
            at,
            at,
        ),
        "lease": (operation_id, "simulator", 1, at + timedelta(hours=6)),
    }


_COLUMNS = {
    "buyer": "buyer_id shop_id mode reference updated_at",
    "payment": "payment_id shop_id mode checkout_id request_digest accepted_by buyer_id order_ids risk_decision "
    "risk_signals risk_subjects capture on_failure created_at",
    "payment_order": "order_id payment_id shop_id mode payment_order_id seller_account amount_minor commission_minor "
    "currency provider status created_at",
    "operation": "operation_id order_id payment_id shop_id mode kind provider amount_minor currency body status "
    "attempt first_sent_at created_at",
    "lease": "operation_id provider attempt due_at",
}


async def fill(machine: Machine, database_url: str, events: int) -> list[UUID]:
    """Put orders into the tables that wait for the provider's word; returns their operations."""
    owner = await asyncpg.connect(database_url)
    try:
        shop_id = await owner.fetchval("SELECT shop_id FROM shop WHERE name = 'bench'")
        at = datetime.now(UTC)
        accounts = [
            Account(shop_id, Mode.TEST, name, "EUR")
            for seller in range(_SELLERS)
            for name in charge_accounts("simulator", f"seller-{seller}")
        ]
        async with open_store(database_url, machine.directory, pool_size=2) as store:
            await Ledger(store).open_accounts(accounts, at)
        rows = [_rows(number, shop_id, at) for number in range(events)]
        for table, columns in _COLUMNS.items():
            await owner.copy_records_to_table(table, records=[row[table] for row in rows], columns=columns.split())
        for table in _COLUMNS:
            await owner.execute(f"VACUUM (ANALYZE) {table}")
        return [row["operation"][0] for row in rows]
    finally:
        await owner.close()


def _body(number: int, operation_id: UUID) -> bytes:
    charge = {
        "id": f"ch_{number:08d}",
        "status": "succeeded",
        "amount": _AMOUNT_MINOR,
        "currency": "EUR",
        "reference": print_id(OPERATION, operation_id),
        "decline_code": None,
        "livemode": False,
        "created": int(time.time()),
        "amount_captured": _AMOUNT_MINOR,
        "amount_refunded": 0,
        "expires_at": None,
        "disputed": False,
    }
    event = {
        "id": f"evt_{number:08d}",
        "type": "charge.succeeded",
        "created": int(time.time()),
        "livemode": False,
        "account": "bench",
        "data": {"object": charge},
    }
    return json.dumps(event, separators=(",", ":")).encode()


def _signed(body: bytes) -> dict[str, str]:
    at = int(time.time())
    signature = hmac.new(_SECRET, b"%d." % at + body, hashlib.sha256).hexdigest()
    return {"Simulator-Signature": f"t={at},v1={signature}", "Content-Type": "application/json"}


async def send(rig: Rig, bodies: Sequence[bytes], clients: int) -> None:
    """Send every event, one in ten of them twice. Raises BenchError when one is not taken."""
    waiting = [*bodies, *bodies[::_TWICE]]

    async def client(session: aiohttp.ClientSession) -> None:
        while waiting:
            body = waiting.pop()
            async with session.post(
                f"{rig.gateway_url}/webhooks/simulator", data=body, headers=_signed(body)
            ) as answer:
                await answer.read()
                if answer.status != _OK:
                    raise BenchError(f"a webhook was answered {answer.status}: {await answer.text()}")

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=clients)) as session:
        await asyncio.gather(*[client(session) for _ in range(clients)])


async def _until_handled(owner: asyncpg.Connection) -> None:
    until = time.monotonic() + _PATIENCE_S
    while await owner.fetchval("SELECT count(*) FROM inbox_lease"):
        if time.monotonic() > until:
            raise BenchError("events are still waiting to be handled; the gateway's log says why")
        await asyncio.sleep(0.05)


async def measure(machine: Machine, events: int, clients: int) -> None:
    """Fill, send, wait, prove and print."""
    database_url = await machine.new_database()
    await asyncio.to_thread(machine.make_key, database_url)
    operations = await fill(machine, database_url, events)
    bodies = [_body(number, operation_id) for number, operation_id in enumerate(operations)]
    settings = {"COATCHECK_SIMULATOR_WEBHOOK_SECRETS": _SECRET.decode()}
    async with machine.open_rig(database_url, settings=settings) as rig:
        owner = await asyncpg.connect(database_url)
        try:
            before, began = rig.usage(), time.monotonic()
            await send(rig, bodies, clients)
            sent_s = time.monotonic() - began
            await _until_handled(owner)
            took_s, after = time.monotonic() - began, rig.usage()
            booked = await owner.fetchval("SELECT count(*) FROM payment_order WHERE status = 'SUCCESS'")
            stored = await owner.fetchval("SELECT count(*) FROM inbox WHERE outcome = 'applied'")
        finally:
            await owner.close()
        if (booked, stored) != (events, events):
            raise BenchError(f"of {events} orders {booked} are SUCCESS, and {stored} events were applied")
        busy = ", ".join(f"{part} {cores:.2f}" for part, cores in shares_of(before, after).items())
        print(f"  {events:,} events and {len(bodies[::_TWICE]):,} repetitions, all answered 200 after {sent_s:.1f} s")
        print(f"    cores busy: {busy} (the sender is in everything else)")
        print(f"    proof: {booked:,} orders SUCCESS, {stored:,} events applied once; {await rig.audit()}")
    print(f"BENCH part=webhooks events={events} stored_and_applied_per_s={events / took_s:.0f}")


async def run(options: argparse.Namespace) -> None:
    """Measure and print."""
    cores = take_two_cores()
    async with open_machine(options.data_dir) as machine:
        print(await describe(machine, cores))
        events = 5_000 if options.quick else options.events
        print(f"webhooks: {events:,} signed events for pending orders, {options.clients} connections")
        await measure(machine, events, options.clients)


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description="webhooks stored and applied per second")
    parser.add_argument("--events", type=int, default=40_000, help="orders that wait for the provider's word")
    parser.add_argument("--clients", type=int, default=64, help="connections of the sender")
    parser.add_argument("--data-dir", type=Path, help="where PostgreSQL's temporary directory is made")
    parser.add_argument("--quick", action="store_true", help="a smoke run")
    try:
        asyncio.run(run(parser.parse_args()))
    except BenchError as error:
        raise SystemExit(f"bench: {error}") from error


if __name__ == "__main__":
    main()
