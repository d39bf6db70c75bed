"""What the gateway takes for granted of a session of PostgreSQL's, by its source."""

import re
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).parents[2] / "src/coatcheck"
OPERATIONS: Final = Path(__file__).parents[2] / "docs/operations.md"
_SESSION_LOCK: Final = re.compile(r"pg_(?:try_)?advisory_(?:un)?lock\w*")
_TOLD: Final = re.compile(
    r"\bpg_notify\b|\badd_listener\b|^\s*(?:NOTIFY|LISTEN|UNLISTEN) \w|[\"'](?:NOTIFY|LISTEN) \w", re.MULTILINE
)


def found_in(pattern: re.Pattern[str]) -> dict[str, list[str]]:
    """What a pattern finds in each file of the gateway."""
    files = [path for path in SOURCE.rglob("*") if path.suffix in (".py", ".sql")]
    found = {str(path.relative_to(SOURCE)): pattern.findall(path.read_text("utf-8")) for path in files}
    return {name: each for name, each in found.items() if each}


def test_F10_nothing_waits_to_be_told_by_postgresql() -> None:
    """A NOTIFY may be lost with its connection; a row is there until somebody has looked."""
    assert _TOLD.findall("await c.execute('LISTEN work')")
    assert _TOLD.findall("    PERFORM pg_notify('work', '')")
    assert found_in(_TOLD) == {}


def test_G12_one_lock_lives_as_long_as_a_session_and_the_page_says_what_it_needs() -> None:
    """Whatever else is locked ends with its transaction, and may go through any pooler."""
    assert found_in(_SESSION_LOCK) == {"presence.py": ["pg_advisory_lock", "pg_advisory_unlock_all"]}
    text = re.sub(r"\s+", " ", OPERATIONS.read_text("utf-8"))
    assert "Connect directly, or through a pooler in session mode" in text
    assert "The lock needs a session: behind PgBouncer use session mode." in text
