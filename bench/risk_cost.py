"""What the risk rules cost: the end-to-end load with them and without, in turn, on one machine in one run.

`python -m bench.risk_cost [--seconds 6] [--rounds 6]`

Throughput moves with whatever else the machine does, so the figure is processor time: of the gateway and PostgreSQL
together, per payment, with the rules on over with the rules off: the median of the rounds' ratios.
"""

import argparse
import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `python bench/risk_cost.py`

from bench.end_to_end import Measured, add_options, measure, plan_of
from bench.machine import BenchError, describe, open_machine, take_two_cores

_RULES = {
    "on": {
        "COATCHECK_RISK_MAX_AMOUNT": '{"USD": "100000", "EUR": "100000", "JPY": "9000000", "KWD": "30000"}',
        "COATCHECK_RISK_BLOCKED_COUNTRIES": "KP,IR",
        "COATCHECK_RISK_HIGH_RISK_COUNTRIES": "XK",
    },
    "off": {"COATCHECK_RISK_ENABLED": "false"},
}


def microseconds_of(measured: Measured) -> float:
    """Add up what one payment costs the gateway and PostgreSQL in processor time."""
    return measured.cpu_us_per_payment["gateway"] + measured.cpu_us_per_payment["PostgreSQL"]


def cost_percent(rounds: Mapping[str, list[float]]) -> float:
    """Compare each round with the rules to its neighbour without, and take the median."""
    return 100 * (median([on / off for on, off in zip(rounds["on"], rounds["off"], strict=True)]) - 1)


async def run(options: argparse.Namespace) -> None:
    """Measure with and without, in turn, so that a busy moment falls on both alike."""
    plan = plan_of(options)
    cores = take_two_cores()
    rounds: dict[str, list[float]] = {"on": [], "off": []}
    async with open_machine(options.data_dir) as machine:
        print(await describe(machine, cores))
        for number in range(1, options.rounds + 1):
            # Whoever comes second finds a warmer machine: they take turns at it.
            for rules in ("on", "off") if number % 2 else ("off", "on"):
                measured = await measure(machine, await machine.new_database(), plan, _RULES[rules])
                rounds[rules].append(microseconds_of(measured))
                print(
                    f"  round {number}, risk rules {rules}: {rounds[rules][-1]:.0f} microseconds of processor time per "
                    f"payment, {measured.payments_per_s:,.0f} payments/s"
                )
    print(f"BENCH part=risk cost_percent={cost_percent(rounds):.1f}")


def main() -> None:
    """Read the command line and print the figure."""
    parser = argparse.ArgumentParser(description="what the risk rules cost the hot path")
    add_options(parser)
    parser.add_argument("--rounds", type=int, default=6, help="how often each is measured")
    options = parser.parse_args()
    try:
        asyncio.run(run(options))
    except BenchError as error:
        raise SystemExit(f"bench: {error}") from error


if __name__ == "__main__":
    main()
