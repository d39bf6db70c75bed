"""What a judge found: counts by name, words for a person, and the line of proof."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

_SHOWN: Final = 15
_PROVED: Final = (
    "charged_twice",
    "lost",
    "over_refunded",
    "overdrawn",
    "unresolved",
    "ledger_difference",
    "replay_difference",
)
_CLOSED: Final = ("payouts_twice", "breaks_open", "clearing_open")


@dataclass(slots=True)
class Verdict:
    """What came out: counts by name, and in words whatever is not as it must be. Without findings it is proved."""

    payments: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    orders: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    findings_in_all: int = 0

    @property
    def is_ok(self) -> bool:
        """Whether the promise was kept: all zeros, nothing found, and something was really paid."""
        return not self.findings_in_all and not any(self.counts.values()) and self.orders["SUCCESS"] > 0

    def find(self, name: str | None, what: str, by: int = 1) -> None:
        """Count under a name (None: only a finding) and keep the words."""
        if name is not None:
            self.counts[name] += by
        self.findings_in_all += 1
        if len(self.findings) < _SHOWN:
            self.findings.append(what if name is None else f"{name}: {what}")

    def add(self, other: "Verdict") -> None:
        """Take another installation's verdict in."""
        self.payments += other.payments
        self.counts.update(other.counts)
        self.orders.update(other.orders)
        self.done.update(other.done)
        self.findings = (self.findings + other.findings)[:_SHOWN]
        self.findings_in_all += other.findings_in_all

    def add_later(self, other: "Verdict", when: str) -> None:
        """Take what was found about the same payments at another time in."""
        self.counts.update(other.counts)
        self.findings = (self.findings + [f"{when}: {finding}" for finding in other.findings])[:_SHOWN]
        self.findings_in_all += other.findings_in_all

    def proof(self, *, faults: int, kills: int) -> str:
        """Write the line to look for."""
        proved = " ".join(f"{name}={self.counts[name]}" for name in _PROVED)
        closed = " ".join(f"{name}={self.counts[name]}" for name in _CLOSED)
        done = " ".join(f"{name}={self.done[name]}" for name in ("payouts", "disputes", "adopted"))
        head = f"PROOF payments={self.payments} faults={faults} kills={kills}"
        return f"{head} {proved} {closed} {done} ok={str(self.is_ok).lower()}"
