"""The end-to-end load of this tree and of an earlier revision, by turns: what did that which came since cost.

`python -m bench.against REVISION [--rounds 6] [--seconds 8]`

The revision is checked out into a temporary directory and runs its own benchmark with this tree's libraries. On a
machine that is shared, neighbours make single runs differ by a third, and never make one quicker: so the best runs are
compared, and the medians said as well. Who runs first changes from round to round.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

_ROOT: Final = Path(__file__).resolve().parents[1]
# The lines for people: an earlier revision prints no line for machines without its baseline, nor what a payment costs.
_RATE: Final = re.compile(r"group commit: ([\d,]+) payments/s")
_COST: Final = re.compile(r"processor time per payment, in microseconds: gateway (\d+), .*PostgreSQL (\d+)")


class Ran(NamedTuple):
    """One run: payments per second, and microseconds of the gateway and PostgreSQL per payment."""

    payments_per_s: int
    microseconds: int


def read_run(output: str) -> Ran:
    """Read what bench.end_to_end printed. Raises ValueError when it printed no figures."""
    rate, cost = _RATE.search(output), _COST.search(output)
    if rate is None or cost is None:
        raise ValueError(f"the benchmark printed no figures:\n{output[-2000:]}")
    return Ran(int(rate.group(1).replace(",", "")), int(cost.group(1)) + int(cost.group(2)))


def line_of(now: list[Ran], before: list[Ran]) -> str:
    """Write the figures for machines: this tree's over the earlier one's, payments/s and processor time."""
    best = max(run.payments_per_s for run in now) / max(run.payments_per_s for run in before)
    middle = median([run.payments_per_s for run in now]) / median([run.payments_per_s for run in before])
    cost = min(run.microseconds for run in now) / min(run.microseconds for run in before)
    return f"BENCH part=against best_ratio={best:.2f} median_ratio={middle:.2f} processor_time_ratio={cost:.2f}"


def _run(tree: Path, seconds: float) -> Ran:
    environ = os.environ | {"PYTHONPATH": f"{tree / 'src'}{os.pathsep}{tree}"}
    command = [sys.executable, "-m", "bench.end_to_end", "--seconds", str(seconds), "--no-baseline"]
    done = subprocess.run(command, cwd=tree, env=environ, capture_output=True, text=True, check=False)  # noqa: S603 - our own
    return read_run(done.stdout + done.stderr)


def compare(revision: str, rounds: int, seconds: float) -> None:
    """Check the revision out, run both by turns, print each run and the figures."""
    with tempfile.TemporaryDirectory(prefix="coatcheck-against-") as directory:
        earlier = Path(directory) / "tree"
        subprocess.run(["git", "clone", "--quiet", "--no-checkout", _ROOT, earlier], check=True)  # noqa: S603, S607 - git
        subprocess.run(["git", "-C", earlier, "checkout", "--quiet", revision], check=True)  # noqa: S603, S607 - git
        trees = {"this tree": _ROOT, revision: earlier}
        ran: dict[str, list[Ran]] = {name: [] for name in trees}
        for number in range(1, rounds + 1):
            for name in list(trees) if number % 2 else reversed(trees):
                ran[name].append(_run(trees[name], seconds))
                print(
                    f"  round {number}, {name}: {ran[name][-1].payments_per_s:,} payments/s, "
                    f"{ran[name][-1].microseconds} microseconds of processor time per payment",
                    flush=True,
                )
        print(line_of(ran["this tree"], ran[revision]))


def main() -> None:
    """Read the command line and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision", help="what to compare with, as git names it")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=8.0, help="how long each run is measured")
    options = parser.parse_args()
    compare(options.revision, options.rounds, options.seconds)


if __name__ == "__main__":
    main()
