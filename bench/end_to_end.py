"""How many payments per second a gateway takes, end to end: HTTP in, HTTP to the PSP, two commits, ledger, events.

`python -m bench.end_to_end [--clients 256] [--seconds 15] [--orders 1] [--quick]`

A payment counts when all its orders are SUCCESS in the database with a decided_at inside the measured window. Each
figure is followed by its proof: what the database, the gateway, the simulator's books and the load generator counted
must agree, nothing may be charged twice, and `coatcheck audit` must find nothing.
"""

import argparse
import asyncio
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `python bench/end_to_end.py`

from bench.load import Load, new_tag
from bench.machine import OTHERS, BenchError, Machine, Rig, describe, open_machine, shares_of, sum_of, take_two_cores

_LUA = Path(__file__).with_name("wrk_payments.lua")
_SAMPLE_S = 0.5
_DRAIN_S = 20.0
_IDLE_LOOKS = 5
_TAIL_S = 0.5  # the load goes on a little longer than the window

_PAYMENTS_IN_WINDOW = """
SELECT count(*) FROM (
    SELECT payment_id FROM payment_order WHERE created_at >= $1
     GROUP BY payment_id
    HAVING bool_and(status = 'SUCCESS') AND max(decided_at) >= $2 AND max(decided_at) < $3
) AS done
"""
_ORDERS_BY_STATUS = "SELECT status, count(*) AS orders FROM payment_order WHERE created_at >= $1 GROUP BY status"
_PAYMENTS = "SELECT count(*) FROM payment WHERE created_at >= $1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is asked of a gateway."""

    clients: int = 256
    seconds: float = 15.0
    warm_up: float = 5.0
    orders: int = 1
    generator: str = "our own"


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What each witness counted over the whole run, warm-up and tail included."""

    payments: int
    orders_by_status: Mapping[str, int]
    answers_by_status: Mapping[str, int]
    charged: int
    charged_twice: int
    load: Load


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One run of one gateway."""

    payments_per_s: float
    rss_mib: float
    cores_busy: Mapping[str, float]
    counts: Counts
    audit: str
    wal_kib_per_payment: float
    batches: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def cpu_us_per_payment(self) -> dict[str, float]:
        """Say what a payment costs each part: what a busy neighbour on the machine hardly changes."""
        rate = max(self.payments_per_s, 1e-9)
        return {part: cores / rate * 1e6 for part, cores in self.cores_busy.items() if part != OTHERS}


def choose_generator(wanted: str) -> str:
    """Say which load generator is used: wrk where it is installed, else our own."""
    if wanted == "auto":
        return "wrk" if shutil.which("wrk") else "our own"
    return {"wrk": "wrk", "own": "our own"}[wanted]


def load_command(rig: Rig, plan: Plan) -> list[str]:
    """Write the command line of the load generator."""
    seconds = plan.warm_up + plan.seconds + _TAIL_S
    if plan.generator != "wrk":
        options = ["--clients", str(plan.clients), "--seconds", str(seconds), "--orders", str(plan.orders)]
        return [sys.executable, "-m", "bench.load", "closed", "--url", rig.gateway_url, "--key", rig.api_key, *options]
    whole_s = int(-(-seconds // 1))
    wrk = ["wrk", "-t1", f"-c{plan.clients}", f"-d{whole_s}s", "--timeout", "30s", "-s", str(_LUA), rig.gateway_url]
    return [*wrk, "--", rig.api_key, new_tag(), str(plan.orders)]


def parse_load(output: str) -> Load:
    """Read a load generator's JSON line from all that it printed. Raises BenchError when there is none."""
    for line in reversed(output.splitlines()):
        if line.startswith('{"generator"'):
            return msgspec.json.decode(line, type=Load)
    raise BenchError(f"the load generator printed no result:\n{output.strip()}")


def disagreements(counts: Counts, plan: Plan) -> list[str]:
    """Say where the witnesses disagree. At the end the load goes away with up to one request per client on its way."""
    found = []
    orders = sum(counts.orders_by_status.values())
    success = counts.orders_by_status.get("SUCCESS", 0)
    created = counts.answers_by_status.get("201", 0)
    if success != orders:
        found.append(f"not every order is SUCCESS: {dict(counts.orders_by_status)}")
    if orders != counts.payments * plan.orders:
        found.append(f"{counts.payments} payments have {orders} orders, not {plan.orders} each")
    if counts.charged != success:
        found.append(f"the simulator charged {counts.charged} orders, the database says {success}")
    if counts.charged_twice:
        found.append(f"{counts.charged_twice} orders were charged twice")
    # A client that leaves before its body is read is answered 400, unseen: nothing of it was accepted.
    unseen = counts.answers_by_status.get("400", 0)
    if set(counts.answers_by_status) - {"201", "400"} or unseen > plan.clients:
        found.append(f"the gateway answered otherwise than 201: {dict(counts.answers_by_status)}")
    if not 0 <= counts.payments - created <= plan.clients:
        found.append(f"{counts.payments} payments, but {created} answers 201")
    if not 0 <= created - counts.load.answered <= plan.clients:
        found.append(f"the gateway gave {created} answers, the load generator saw {counts.load.answered}")
    if counts.load.refused or counts.load.failed:
        found.append(f"the load generator saw {counts.load.refused} refused and {counts.load.failed} failed requests")
    if not counts.payments:
        found.append("there were no payments")
    return found


def batches_of(metrics: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Read the mean size of the batches and their mean milliseconds at the database, by kind."""
    found = {}
    for name in ("accept", "apply"):
        count = sum_of(metrics, "coatcheck_batch_size_count", batch=name)
        if count:
            size = sum_of(metrics, "coatcheck_batch_size_sum", batch=name) / count
            found[name] = size, sum_of(metrics, "coatcheck_batch_seconds_sum", batch=name) / count * 1e3
    return found


def _answers_of(metrics: Mapping[str, float]) -> dict[str, int]:
    name, route = "coatcheck_http_requests_total", 'route="/v1/payments"'
    found: dict[str, int] = {}
    for series, value in metrics.items():
        if series.startswith(name) and route in series and value:
            status = series.partition('status="')[2].partition('"')[0]
            found[status] = found.get(status, 0) + int(value)
    return found


async def _drained(owner: asyncpg.Connection) -> None:
    """Wait until nothing was under way for a moment: the last requests outlive the load, some without an intent yet."""
    until = time.monotonic() + _DRAIN_S
    idle = 0
    while idle < _IDLE_LOOKS and time.monotonic() < until:
        await asyncio.sleep(0.1)
        idle = 0 if await owner.fetchval("SELECT count(*) FROM lease") else idle + 1


async def _watch(rig: Rig, seconds: float) -> float:
    """Let the load run; returns the most memory the gateway held, in MiB."""
    peak = 0.0
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        rig.gateway.check()
        peak = max(peak, rig.gateway.rss_mib())
        await asyncio.sleep(min(_SAMPLE_S, left))
    return max(peak, rig.gateway.rss_mib())


async def read_counts(
    rig: Rig, owner: asyncpg.Connection, began: datetime | None, load: Load, *, charged_before: int
) -> Counts:
    """Ask every witness, once the last request is decided; rows of before `began` are somebody else's."""
    await _drained(owner)
    since = began or datetime(1970, 1, 1, tzinfo=UTC)
    statuses = await owner.fetch(_ORDERS_BY_STATUS, since, timeout=300)
    books = rig.books()
    return Counts(
        payments=await owner.fetchval(_PAYMENTS, since, timeout=300),
        orders_by_status={row["status"]: row["orders"] for row in statuses},
        answers_by_status=_answers_of(rig.metrics()),
        charged=int(books["statuses"].get("succeeded", 0)) - charged_before,
        charged_twice=len(books["charged_twice"]),
        load=load,
    )


async def run_load(rig: Rig, owner: asyncpg.Connection, plan: Plan) -> Measured:
    """Load a gateway, count, and prove the count. Raises BenchError when the witnesses disagree."""
    began = datetime.now(UTC)
    charged_before = int(rig.books()["statuses"].get("succeeded", 0))
    load = rig.start_load(load_command(rig, plan))
    await asyncio.sleep(plan.warm_up)
    wal_before = await owner.fetchval("SELECT pg_current_wal_insert_lsn()")
    before = rig.usage()
    rss_mib = await _watch(rig, plan.seconds)
    after = rig.usage()
    wal_bytes = await owner.fetchval("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), $1)", wal_before)
    load.check()  # else part of the window had no load
    await asyncio.to_thread(load.popen.wait, plan.seconds + _DRAIN_S + 30)
    result = parse_load(load.log.read_text("utf-8"))
    counts = await read_counts(rig, owner, began, result, charged_before=charged_before)
    window = datetime.fromtimestamp(before.at, UTC), datetime.fromtimestamp(after.at, UTC)
    payments = await owner.fetchval(_PAYMENTS_IN_WINDOW, began, *window, timeout=300)
    wrong = disagreements(counts, plan)
    if wrong:
        raise BenchError("the witnesses disagree, so there is no figure:\n  " + "\n  ".join(wrong))
    return Measured(
        payments_per_s=payments / (after.at - before.at),
        rss_mib=rss_mib,
        cores_busy=shares_of(before, after),
        counts=counts,
        audit=await rig.audit(),
        wal_kib_per_payment=float(wal_bytes) / 1024 / max(payments, 1),
        batches=batches_of(rig.metrics()),
    )


async def measure(
    machine: Machine, database_url: str, plan: Plan, settings: Mapping[str, str] | None = None
) -> Measured:
    """Start a gateway with these settings on a database, load it, prove the result, stop it."""
    async with machine.open_rig(database_url, settings=settings) as rig:
        owner = await asyncpg.connect(database_url)
        try:
            return await run_load(rig, owner, plan)
        finally:
            await owner.close()


def tell(title: str, measured: Measured) -> None:
    """Print one run for people."""
    load = measured.counts.load
    busy = ", ".join(f"{part} {cores:.2f}" for part, cores in measured.cores_busy.items())
    each = ", ".join(f"{part} {cost_us:.0f}" for part, cost_us in measured.cpu_us_per_payment.items())
    print(f"  {title}: {measured.payments_per_s:,.0f} payments/s, gateway {measured.rss_mib:.0f} MiB at most")
    print(
        f"    {load.generator} over its whole run: {load.answered / load.seconds:,.0f} answers/s, "
        f"p50 {load.p50_ms:.0f} ms, p99 {load.p99_ms:.0f} ms"
    )
    print(f"    cores busy: {busy}")
    print(f"    processor time per payment, in microseconds: {each}")
    for name, (size, took_ms) in measured.batches.items():
        print(f"    {name}: {size:.0f} in a batch, {took_ms:.1f} ms at the database")
    print(f"    WAL {measured.wal_kib_per_payment:.1f} KiB per payment")
    print(
        f"    proof: {measured.counts.payments:,} payments, {measured.counts.charged:,} orders SUCCESS and charged at "
        f"the simulator, charged_twice={measured.counts.charged_twice}; {measured.audit}"
    )


def add_options(parser: argparse.ArgumentParser, orders_option: str = "--orders") -> None:
    """Add what every load has."""
    parser.add_argument("--clients", type=int, default=256, help="concurrent clients")
    parser.add_argument("--seconds", type=float, default=15.0, help="how long is measured")
    parser.add_argument("--warm-up", type=float, default=5.0, help="seconds of load before that")
    parser.add_argument(orders_option, dest="orders_each", type=int, default=1, help="payment orders in each payment")
    parser.add_argument("--generator", choices=("auto", "wrk", "own"), default="auto", help="what makes the load")
    parser.add_argument("--data-dir", type=Path, help="where PostgreSQL's temporary directory is made")
    parser.add_argument("--quick", action="store_true", help="a smoke run: two seconds each, the figures mean little")


def plan_of(options: argparse.Namespace) -> Plan:
    """Read the plan from the command line."""
    return Plan(
        clients=options.clients,
        seconds=2.0 if options.quick else options.seconds,
        warm_up=1.0 if options.quick else options.warm_up,
        orders=options.orders_each,
        generator=choose_generator(options.generator),
    )


async def run(options: argparse.Namespace) -> None:
    """Measure with group commit and with batches of one, each on a fresh database with fresh processes."""
    plan = plan_of(options)
    cores = take_two_cores()
    async with open_machine(options.data_dir) as machine:
        print(await describe(machine, cores))
        print(
            f"end to end: {plan.clients} clients, payments with {plan.orders} order{'s' * (plan.orders > 1)}, load by "
            f"{plan.generator}, {plan.warm_up:.0f} s warm-up, {plan.seconds:.0f} s measured"
        )
        batched = await measure(machine, await machine.new_database(), plan)
        tell("group commit", batched)
        if options.no_baseline:
            return
        unbatched = await measure(machine, await machine.new_database(), plan, {"COATCHECK_BATCH_SIZE": "1"})
        tell("the same code with batch_size 1", unbatched)
        ratio = batched.payments_per_s / max(unbatched.payments_per_s, 1e-9)
        print(
            f"BENCH part=end_to_end payments_per_s={batched.payments_per_s:.0f} ratio_to_unbatched={ratio:.2f} "
            f"rss_mib={batched.rss_mib:.0f}"
        )


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description="payments per second, end to end")
    add_options(parser)
    parser.add_argument("--no-baseline", action="store_true", help="leave out the run with batch_size 1")
    try:
        asyncio.run(run(parser.parse_args()))
    except BenchError as error:
        raise SystemExit(f"bench: {error}") from error


if __name__ == "__main__":
    main()
