"""What a verification can find, and says."""

from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID


class Fault(StrEnum):
    """What is wrong with a row, a seal or the anchor."""

    CHANGED = "changed"
    REMOVED = "removed"
    INSERTED = "inserted"
    MOVED = "moved"
    SEALED_TWICE = "sealed_twice"
    LATE = "late"
    SEAL = "seal"
    ROSTER = "roster"
    ANCHOR = "anchor"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it was sealed: `name` is a row of the table `place`, a seal, or a line of the anchor."""

    fault: Fault
    place: str
    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.fault.value.upper():<12} {self.place} {self.name} {self.text}"


@dataclass(slots=True)
class Report:
    """What a verification found.

    `unsealed` rows are too young to be missed in a seal; `unanchored` seals are signed and in the chain, and not in the
    anchor.
    """

    rows: int = 0
    seals: int = 0
    unsealed: int = 0
    unanchored: int = 0
    sealed_at: str | None = None
    complete_to: str | None = None
    seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list)

    @property
    def is_ok(self) -> bool:
        """Whether history is as it was sealed."""
        return not self.findings

    def set_late_aside(self) -> list[Finding]:
        """Take out the rows that their seals call late, and give them."""
        late = [finding for finding in self.findings if finding.fault is Fault.LATE]
        self.findings = [finding for finding in self.findings if finding.fault is not Fault.LATE]
        return late

    @property
    def line(self) -> str:
        """The outcome in one line, for programs."""
        return (
            f"VERIFY rows={self.rows} seals={self.seals} rows_per_s={self.rows / max(self.seconds, 1e-9):.0f} "
            f"found={len(self.findings)} unsealed={self.unsealed} unanchored={self.unanchored} "
            f"ok={'true' if self.is_ok else 'false'}"
        )


def name_of(key: bytes) -> str:
    """Print a row's key: its ids, with a slash between them."""
    return "/".join(str(UUID(bytes=key[start : start + 16])) for start in range(0, len(key), 16))
