"""What the gateway adds to the PSP's time at a steady rate, well below saturation.

`python -m bench.added_latency [--rate 200] [--seconds 15] [--psp-latency 20]`

An open loop sends payments at random moments (a Poisson process) and counts each latency from the moment it should
have been sent. The simulated PSP holds every answer back for a fixed time. The same generator then sends the same
number of charges straight to the PSP, at the same moments; the median of that is the PSP's time. Added is the
payment's latency less that median, so whatever is slower than the PSP's median counts against the gateway, the PSP's
own tail and the generator's delays included.
"""

import argparse
import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path

import asyncpg

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `python bench/added_latency.py`

from bench.end_to_end import Counts, disagreements, parse_load, read_counts
from bench.end_to_end import Plan as LoadPlan
from bench.load import Load
from bench.machine import BenchError, Rig, describe, open_machine, shares_of, take_two_cores

_DIRECT_KEY = "sk_sim_test_direct"
_PATIENCE_S = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is asked: payments per second, for how long, and how long the PSP takes."""

    rate: float
    seconds: float
    warm_up: float
    psp_latency_ms: int


async def send(rig: Rig, plan: Plan, *, to: str, key: str) -> tuple[Load, dict[str, float]]:
    """Run the open loop against the gateway or straight against the PSP; also says how busy the cores were."""
    url = rig.gateway_url if to == "gateway" else rig.simulator_url
    options = ["--rate", str(plan.rate), "--seconds", str(plan.seconds), "--warm-up", str(plan.warm_up), "--to", to]
    command = [sys.executable, "-m", "bench.load", "open", "--url", url, "--key", key, *options]
    load = rig.start_load(command)
    await asyncio.sleep(plan.warm_up)
    before = rig.usage()
    await asyncio.sleep(plan.seconds - 0.5)
    after = rig.usage()
    await asyncio.to_thread(load.popen.wait, _PATIENCE_S)
    return parse_load(load.log.read_text("utf-8")), shares_of(before, after)


async def measure(rig: Rig, plan: Plan) -> tuple[Load, Load, dict[str, float]]:
    """Send payments, prove that each was charged once, then ask the PSP directly."""
    owner = await asyncpg.connect(rig.database_url)
    try:
        through, busy = await send(rig, plan, to="gateway", key=rig.api_key)
        counts: Counts = await read_counts(rig, owner, None, through, charged_before=0)
    finally:
        await owner.close()
    wrong = disagreements(counts, LoadPlan(clients=0))
    if wrong:
        raise BenchError("the witnesses disagree, so there is no figure:\n  " + "\n  ".join(wrong))
    direct, _ = await send(rig, plan, to="simulator", key=_DIRECT_KEY)
    if direct.refused or direct.failed:
        raise BenchError(f"the simulator did not take every charge: {direct}")
    return through, direct, busy


async def run(plan: Plan, data_dir: Path | None) -> None:
    """Measure and print."""
    cores = take_two_cores()
    async with open_machine(data_dir) as machine:
        print(await describe(machine, cores))
        print(
            f"added latency: {plan.rate:.0f} payments/s with 1 order, open loop (Poisson), load by our own generator, "
            f"the PSP holds each answer back {plan.psp_latency_ms} ms, {plan.seconds:.0f} s measured"
        )
        async with machine.open_rig(await machine.new_database(), latency_ms=plan.psp_latency_ms) as rig:
            through, direct, busy = await measure(rig, plan)
            audit = await rig.audit()
        print(f"  payments: p50 {through.p50_ms:.1f} ms, p99 {through.p99_ms:.1f} ms, slowest {through.max_ms:.1f} ms")
        print(f"  the PSP asked directly: p50 {direct.p50_ms:.1f} ms, p99 {direct.p99_ms:.1f} ms")
        print(f"  99% were sent within {through.late_ms:.1f} ms of their time (that is in the latency)")
        print("  cores busy: " + ", ".join(f"{part} {cores_busy:.2f}" for part, cores_busy in busy.items()))
        print(f"  proof: {through.answered:,} payments, each answered 201 SUCCESS and charged once; {audit}")
        p50_ms, p99_ms = (value - direct.p50_ms for value in (through.p50_ms, through.p99_ms))
        print(f"BENCH part=added_latency p50_ms={p50_ms:.1f} p99_ms={p99_ms:.1f}")


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description="what the gateway adds to the PSP's time")
    parser.add_argument("--rate", type=float, default=200.0, help="payments per second")
    parser.add_argument("--seconds", type=float, default=15.0, help="how long is measured")
    parser.add_argument("--warm-up", type=float, default=3.0, help="seconds of load before that")
    parser.add_argument("--psp-latency", type=int, default=20, help="milliseconds the PSP holds each answer back")
    parser.add_argument("--data-dir", type=Path, help="where PostgreSQL's temporary directory is made")
    parser.add_argument("--quick", action="store_true", help="a smoke run of three seconds")
    options = parser.parse_args()
    plan = Plan(
        rate=options.rate,
        seconds=2.0 if options.quick else options.seconds,
        warm_up=1.0 if options.quick else options.warm_up,
        psp_latency_ms=options.psp_latency,
    )
    try:
        asyncio.run(run(plan, options.data_dir))
    except BenchError as error:
        raise SystemExit(f"bench: {error}") from error


if __name__ == "__main__":
    main()
