"""docs/testing.md against the names of the tests."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
_NAMED = re.compile(r"def test_((?:[A-I][0-9]+_)+)", re.IGNORECASE)
_ROW = re.compile(r"^\| ([A-I][0-9]+) \| \S.* \|$", re.MULTILINE)


def test_every_hazard_that_a_test_names_is_on_the_page_and_no_other() -> None:
    tests = [path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    named = {name.upper() for text in tests for ids in _NAMED.findall(text) for name in ids.split("_") if name}
    listed = _ROW.findall((ROOT / "docs/testing.md").read_text("utf-8"))
    assert len(listed) == len(set(listed))
    assert set(listed) == named
