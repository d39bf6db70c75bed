"""What payments through one provider notice while another provider hangs: nothing, it should be.

`python -m bench.hanging [--hanging 100] [--rate 200] [--seconds 15]`

The open loop of `bench.added_latency`, twice on one gateway's code: alone, and while hundreds of operations hang at a
second provider whose server takes every connection and never answers. No transaction is open meanwhile (hazard G10).
"""

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import asyncpg

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `python bench/hanging.py`

from bench.added_latency import Plan, send
from bench.load import Load
from bench.machine import BenchError, Machine, Rig, describe, open_machine, take_two_cores
from bench.webhooks import fill

_HANG_S = 30
_IDLE_IN_TRANSACTION = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'"
    " AND clock_timestamp() - state_change > interval '1 second'"
)


class BlackHole:
    """A server that takes every connection and never says a word."""

    def __init__(self) -> None:
        self.asked = 0

    async def swallow(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read what comes and stay silent."""
        self.asked += 1
        try:
            while await reader.read(65536):
                pass
        finally:
            writer.close()


@asynccontextmanager
async def black_hole() -> AsyncIterator[tuple[BlackHole, str]]:
    """Open one; yields it and its address."""
    hole = BlackHole()
    server = await asyncio.start_server(hole.swallow, "127.0.0.1", 0, backlog=2048)
    host, port = server.sockets[0].getsockname()[:2]
    try:
        yield hole, f"http://{host}:{port}"
    finally:
        server.close()


async def _hang(database_url: str, machine: Machine, hanging: int) -> None:
    """Make operations at the second provider, registered long ago and due now: they will be asked about."""
    operations = await fill(machine, database_url, hanging)
    owner = await asyncpg.connect(database_url)
    try:
        await owner.execute(
            "UPDATE operation SET provider = 'stripe', status = 'OPEN', provider_reference = 'pi_' || operation_id "
            "WHERE operation_id = ANY ($1)",
            operations,
        )
        await owner.execute("UPDATE payment_order SET provider = 'stripe', status = 'EXECUTING'")
        await owner.execute("UPDATE lease SET due_at = $1", datetime.now(UTC))
    finally:
        await owner.close()


async def _measure(rig: Rig, plan: Plan) -> tuple[Load, int]:
    """Run the open loop; also says how many transactions were seen idle for over a second meanwhile."""
    owner = await asyncpg.connect(rig.database_url)
    seen = 0

    async def look() -> None:
        nonlocal seen
        while True:
            seen += await owner.fetchval(_IDLE_IN_TRANSACTION)
            await asyncio.sleep(0.5)

    looking = asyncio.create_task(look())
    try:
        load, _ = await send(rig, plan, to="gateway", key=rig.api_key)
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        await owner.close()
    if load.refused or load.failed:
        raise BenchError(f"not every payment was answered 201 SUCCESS: {load}")
    return load, seen


async def run(plan: Plan, hanging: int, data_dir: Path | None) -> None:
    """Measure and print."""
    cores = take_two_cores()
    async with open_machine(data_dir) as machine, black_hole() as (hole, address):
        print(await describe(machine, cores))
        print(f"hanging: {plan.rate:.0f} payments/s, open loop, while {hanging} operations hang at another provider")
        figures: list[Load] = []
        for count in (0, hanging):
            database_url = await machine.new_database()
            await asyncio.to_thread(machine.make_key, database_url)
            if count:
                await _hang(database_url, machine, count)
            settings = {
                "COATCHECK_STRIPE_API_KEY": "sk_test_bench",
                "COATCHECK_STRIPE_BASE_URL": address,
                "COATCHECK_CALL_DEADLINE_S": str(_HANG_S),
                "COATCHECK_LEASE_S": str(2 * _HANG_S + 1),
            }
            before = hole.asked
            async with machine.open_rig(database_url, latency_ms=plan.psp_latency_ms, settings=settings) as rig:
                load, idle = await _measure(rig, plan)
                figures.append(load)
                print(
                    f"  {count} operations to ask about: p50 {load.p50_ms:.1f} ms, p99 {load.p99_ms:.1f} ms; "
                    f"{hole.asked - before} connections hang, {idle} transactions idle meanwhile"
                )
                if idle or (count and hole.asked == before):
                    raise BenchError("a transaction stayed open during a call, or nothing hung: the figure is void")
        alone, beside = figures
        print(
            f"BENCH part=hanging p99_ms={alone.p99_ms:.1f} p99_beside_hanging_ms={beside.p99_ms:.1f} "
            f"ratio={beside.p99_ms / max(alone.p99_ms, 1e-9):.2f}"
        )


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description="latency through one provider while another hangs")
    parser.add_argument("--hanging", type=int, default=100, help="operations that hang at the other provider")
    parser.add_argument("--rate", type=float, default=200.0, help="payments per second")
    parser.add_argument("--seconds", type=float, default=15.0, help="how long is measured")
    parser.add_argument("--data-dir", type=Path, help="where PostgreSQL's temporary directory is made")
    parser.add_argument("--quick", action="store_true", help="a smoke run")
    options = parser.parse_args()
    plan = Plan(
        rate=options.rate,
        seconds=3.0 if options.quick else options.seconds,
        warm_up=1.0 if options.quick else 3.0,
        psp_latency_ms=20,
    )
    try:
        asyncio.run(run(plan, options.hanging, options.data_dir))
    except BenchError as error:
        raise SystemExit(f"bench: {error}") from error


if __name__ == "__main__":
    main()
