"""Every benchmark in order, and a table of the figures beside their goals.

`python bench/run.py [--quick]`, which is `make bench`. Ends with status 1 when a part could not prove its figure, never
because a figure is low: that is for people to read.
"""

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_LINE = re.compile(r"BENCH part=(\w+)((?: \w+=\S+)+)\s*")


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure should be: `at_least` or `at_most`, of the BENCH line of `part` that has the `where` pair."""

    part: str
    figure: str
    limit: float
    is_at_least: bool
    meaning: str
    where: tuple[str, str] | None = None

    def is_reached(self, value: float) -> bool:
        """Whether a value is as good as asked."""
        return value >= self.limit if self.is_at_least else value <= self.limit


GOALS = (
    Goal("end_to_end", "payments_per_s", 1500, True, "payments/s end to end, 256 clients"),
    Goal("end_to_end", "ratio_to_unbatched", 2.5, True, "times the same code with batch_size 1"),
    Goal("end_to_end", "rss_mib", 400, False, "MiB of memory of the gateway"),
    Goal("added_latency", "p50_ms", 12, False, "ms added at 200 payments/s, p50"),
    Goal("added_latency", "p99_ms", 40, False, "ms added at 200 payments/s, p99"),
    Goal("risk", "cost_percent", 10, False, "% more processor time per payment for the risk rules"),
    Goal("ledger", "transfers_per_s", 60_000, True, "transfers/s in batches of 1,000", ("batch", "1000")),
    Goal("ledger", "transfers_per_s", 90_000, True, "transfers/s in batches of 8,000", ("batch", "8000")),
    Goal("ledger_hot", "ratio_to_uniform", 0.8, True, "of that with one account in every transfer"),
    Goal("webhooks", "stored_and_applied_per_s", 2000, True, "webhooks/s stored and applied"),
    Goal("hanging", "ratio", 1.2, False, "of the p99 beside a provider that hangs, by the p99 alone"),
    Goal("growth", "ratio_to_empty", 0.85, True, "of the throughput on empty tables"),
)


def parts_of(*, is_quick: bool) -> list[list[str]]:
    """List the programs to run; a whole run takes about six minutes."""
    if is_quick:
        return [
            ["-m", "bench.ledger", "--seconds", "1"],
            ["-m", "bench.end_to_end", "--quick"],
            ["-m", "bench.added_latency", "--quick"],
            ["-m", "bench.webhooks", "--quick"],
            ["-m", "bench.hanging", "--quick"],
            ["-m", "bench.growth", "--quick"],
        ]
    return [
        ["-m", "bench.ledger", "--seconds", "5"],
        ["-m", "bench.end_to_end"],
        ["-m", "bench.added_latency"],
        ["-m", "bench.webhooks"],
        ["-m", "bench.hanging"],
        ["-m", "bench.risk_cost", "--warm-up", "3", "--seconds", "6"],
        ["-m", "bench.growth", "--orders", "300000", "--warm-up", "4", "--seconds", "12"],
    ]


def parse_line(line: str) -> tuple[str, dict[str, str]] | None:
    """Read a BENCH line: its part and its pairs; None for any other line."""
    found = _LINE.fullmatch(line)
    return (found[1], dict(pair.split("=", 1) for pair in found[2].split())) if found else None


def verdicts(lines: Sequence[str]) -> list[str]:
    """Set the figures of BENCH lines beside their goals, in words."""
    figures = [parsed for parsed in map(parse_line, lines) if parsed]
    told = []
    for goal in GOALS:
        for part, pairs in figures:
            if part != goal.part or goal.figure not in pairs or (goal.where and goal.where not in pairs.items()):
                continue
            value = float(pairs[goal.figure])
            bound = "at least" if goal.is_at_least else "at most"
            word = "reached" if goal.is_reached(value) else "MISSED"
            told.append(f"{word:8} {value:>10,.10g}  {goal.meaning} (goal: {bound} {goal.limit:,.10g})")
    return told


def run_part(arguments: Sequence[str]) -> tuple[int, list[str]]:
    """Run one program, showing what it prints; returns its exit status and its lines."""
    lines = []
    with subprocess.Popen(  # noqa: S603 - our own programs
        [sys.executable, "-u", *arguments], cwd=_ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        for line in process.stdout or ():
            sys.stdout.write(line)
            sys.stdout.flush()
            lines.append(line)
    return process.returncode, lines


def main() -> None:
    """Read the command line and run everything."""
    parser = argparse.ArgumentParser(description="every benchmark, in order")
    parser.add_argument("--quick", action="store_true", help="a smoke run of a minute; the figures mean little")
    options = parser.parse_args()
    started = time.monotonic()
    lines, failed = [], []
    for arguments in parts_of(is_quick=options.quick):
        status, printed = run_part(arguments)
        lines += printed
        if status != 0:
            failed.append(f"{arguments[1]} ended with status {status}")
        print()
    print("\n".join(verdicts(lines)))
    print(
        f"took {time.monotonic() - started:.0f} s"
        + ("; a quick run: these figures mean little" if options.quick else "")
    )
    if failed:
        raise SystemExit("bench: " + "; ".join(failed))


if __name__ == "__main__":
    main()
