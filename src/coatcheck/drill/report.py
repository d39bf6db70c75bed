"""What the user sees: how the drill goes, what was injected, how long recoveries took, and the line of proof."""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, Final, Self

import msgspec
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from coatcheck.drill.journal import Recovery
from coatcheck.drill.schedule import Blow
from coatcheck.drill.verdict import Verdict

_WIDTH_OF_A_FILE: Final = 110
_LINES_IN_A_LOG: Final = 10
_LONGEST_SILENCE_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Everything the report tells."""

    seed: int
    seconds: float
    clients: int
    took_s: float
    verdict: Verdict
    kills: int
    faults: Counter[str]
    blows: Counter[Blow]
    counts: Counter[str]
    manners: Counter[str]
    starts: Counter[str]
    recoveries: Sequence[Recovery]

    @property
    def proof(self) -> str:
        """The line to look for."""
        return self.verdict.proof(faults=self.faults.total(), kills=self.kills)


def make_console() -> Console:
    """Make what prints to standard output: a moving line for a terminal, plain lines for a file."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH_OF_A_FILE)


class Progress:
    """How far the drill is: a line that is drawn again on a terminal; in a log, a line now and then."""

    def __init__(self, console: Console, seconds: float) -> None:
        self._console = console
        self._seconds = seconds
        self._done = 0
        self._every_s = min(_LONGEST_SILENCE_S, seconds / _LINES_IN_A_LOG)
        self._next_s = self._every_s
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._began = monotonic()

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def tick(self) -> None:
        """Count a checkout that is over."""
        self._done += 1

    def show(self, at_s: float, kills: int, faults: int) -> None:
        """Say how it stands."""
        words = (
            f"  {at_s:.0f} of {self._seconds:.0f} s: {self._done} checkouts, {kills} kills, {faults} faults on the wire"
        )
        if self._live is not None:
            self._live.update(Text(words), refresh=True)
        elif at_s >= self._next_s:
            self._next_s += self._every_s
            self._console.print(words)

    def finishing(self) -> None:
        """Say that the clients finish what they have begun."""
        self._console.print(f"  {self._done} checkouts are over; the clients finish what they have begun ...")


def print_report(console: Console, outcome: Outcome, *, kept: Path | None) -> None:
    """Print what was done and injected, whatever was found, how to run it again, and the line of proof last."""
    verdict = outcome.verdict
    console.print()
    _print_rows(console, "what was asked", _asked(outcome))
    _print_rows(console, "what was injected", _injected(outcome))
    _print_rows(console, "recovery after a kill", _recovered(outcome.recoveries))
    if verdict.findings_in_all:
        console.print(f"\n[bold red]{verdict.findings_in_all} things are not as they must be[/]; the first of them:")
        for finding in verdict.findings:
            console.print(Text(f"  - {finding}"), soft_wrap=True)
    if kept is not None:
        console.print(Text(f"\nThe data, the PSPs' books and the logs stay in {kept}"), soft_wrap=True)
    console.print(Text(f"\nAgain: coatcheck drill --seconds {outcome.seconds:g} --seed {outcome.seed}"))
    console.print(Text(outcome.proof, style="bold green" if verdict.is_ok else "bold red"), soft_wrap=True)


def _print_rows(console: Console, title: str, rows: Sequence[tuple[str, str]]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(justify="right")
    for name, value in rows:
        table.add_row(Text(f"  {name}"), Text(value))
    console.print(Text(title, style="bold"))
    with console.capture() as printed:
        console.print(table)
    for line in printed.get().splitlines():  # a file needs no blanks up to its right edge
        console.print(Text(line.rstrip()), soft_wrap=True)


def _asked(outcome: Outcome) -> list[tuple[str, str]]:
    a_second = outcome.verdict.payments / max(outcome.took_s, 1)
    rows = [("payments", f"{outcome.verdict.payments:,} in {outcome.took_s:.0f} s ({a_second:.0f} a second)")]
    rows += [(name, f"{count:,}") for name, count in sorted(outcome.manners.items())]
    rows += [(f"orders {status}", f"{count:,}") for status, count in sorted(outcome.verdict.orders.items())]
    return rows + [(name, f"{count:,}") for name, count in sorted(outcome.counts.items())]


def _injected(outcome: Outcome) -> list[tuple[str, str]]:
    away = str(Blow.PSP_AWAY)
    rows = [(blow.value, f"{outcome.blows[blow]:,}") for blow in Blow]
    rows += [(f"gateway {name}", f"{count:,}") for name, count in sorted(outcome.starts.items()) if "start" in name]
    return rows + [(name, f"{count:,}") for name, count in sorted(outcome.faults.items()) if name != away]


def _recovered(recoveries: Sequence[Recovery]) -> list[tuple[str, str]]:
    rows = []
    for what in ("gateway", "PostgreSQL"):
        told = [recovery for recovery in recoveries if recovery.what == what]
        first = [recovery.first_s for recovery in told if recovery.first_s is not None]
        last = [recovery.last_s for recovery in told if recovery.last_s is not None]
        each = [took_s for recovery in told for took_s in recovery.decided_s]
        rows.append((f"{what}: first payment in flight that succeeded", _spread(first)))
        rows.append((f"{what}: payments in flight that were decided", _spread(each)))
        rows.append((f"{what}: last payment in flight that was decided", _spread(last)))
    return rows


def _spread(times_s: Sequence[float]) -> str:
    if not times_s:
        return "-"
    return f"p50 {percentile(times_s, 50):.1f} s, p99 {percentile(times_s, 99):.1f} s, of {len(times_s)}"


def percentile(times_s: Sequence[float], percent: int) -> float:
    """Give the value that `percent` of the times do not exceed (nearest rank)."""
    ordered = sorted(times_s)
    return ordered[max(-(-len(ordered) * percent // 100) - 1, 0)]


def write_json(path: Path, outcome: Outcome) -> None:
    """Write the report for machines."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(_as_json(outcome)), indent=2) + b"\n")


def _as_json(outcome: Outcome) -> Mapping[str, Any]:
    verdict = outcome.verdict
    return {
        "seed": outcome.seed,
        "seconds": outcome.seconds,
        "clients": outcome.clients,
        "took_s": round(outcome.took_s, 1),
        "ok": verdict.is_ok,
        "proof": outcome.proof,
        "payments": verdict.payments,
        "kills": outcome.kills,
        "faults": outcome.faults.total(),
        "found": dict(verdict.counts),
        "findings": verdict.findings,
        "findings_in_all": verdict.findings_in_all,
        "orders": dict(verdict.orders),
        "manners": dict(outcome.manners),
        "clients_say": dict(outcome.counts),
        "blows": {blow.name.lower(): outcome.blows[blow] for blow in Blow},
        "gateways": dict(outcome.starts),
        "faults_by_kind": dict(outcome.faults),
        "recoveries": [
            {
                "what": recovery.what,
                "waiting": recovery.waiting,
                "first_s": recovery.first_s,
                "last_s": recovery.last_s,
                "last": recovery.last,
                "decided_s": recovery.decided_s,
            }
            for recovery in outcome.recoveries
        ],
    }
