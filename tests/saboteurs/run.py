"""`make saboteurs`: break the money path one line at a time, in a copy, and see that the named test notices.

Prints a line for each sabotage and `SABOTEURS caught=N/N`; the exit status is 1 unless all were caught.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import Final

from tests.saboteurs.sabotages import SABOTAGES, Sabotage

ROOT: Final = Path(__file__).parents[2]
_AT_ONCE: Final = 2
_DEADLINE_S: Final = 180
_ENDED_WELL, _TESTS_FAILED = 0, 1


class Copy:
    """A copy of the tree that may be broken and mended."""

    def __init__(self, directory: Path) -> None:
        self._root = directory
        without_caches = shutil.ignore_patterns("__pycache__", ".*")
        for name in ("src", "tests", "docs", "model"):
            if (ROOT / name).exists():
                shutil.copytree(ROOT / name, directory / name, ignore=without_caches)
        for path in ROOT.iterdir():
            if path.is_file() and not path.name.startswith("."):
                shutil.copy2(path, directory)

    def test(self, test: str) -> tuple[int, str]:
        """Run one test as it is now; returns pytest's exit status and what it printed."""
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"tests/{test}"]
        paths = os.pathsep.join([str(self._root / "src"), str(self._root)])
        environ = {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            ran = subprocess.run(  # noqa: S603 - our own tests
                command, cwd=self._root, env=environ, capture_output=True, text=True, timeout=_DEADLINE_S, check=False
            )
        except subprocess.TimeoutExpired:
            return _TESTS_FAILED, "it hung"
        return ran.returncode, ran.stdout + ran.stderr

    def sabotaged(self, sabotage: Sabotage) -> tuple[int, str]:
        """Break one line, run the test that must notice, and mend it."""
        path = self._root / "src/coatcheck" / sabotage.path
        text = path.read_text("utf-8")
        if text.count(sabotage.old) != 1:
            return _ENDED_WELL, f"its line occurs {text.count(sabotage.old)} times"
        path.write_text(text.replace(sabotage.old, sabotage.new), "utf-8")
        try:
            return self.test(sabotage.test)
        finally:
            path.write_text(text, "utf-8")


def main(names: list[str]) -> int:
    """Try all, or those whose name holds one of `names`. Returns the exit status."""
    chosen = [each for each in SABOTAGES if not names or any(name in each.name for name in names)]
    copies: Queue[Copy] = Queue()
    with tempfile.TemporaryDirectory(prefix="coatcheck-saboteurs-") as directory:
        for number in range(_AT_ONCE):
            copies.put(Copy(_made(Path(directory) / str(number))))
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            tests = sorted({each.test for each in chosen})
            sound = dict(zip(tests, pool.map(lambda test: _is_sound(copies, test), tests), strict=True))
            caught = sum(pool.map(lambda each: _is_caught(copies, each, is_sound=sound[each.test]), chosen))
    print(f"SABOTEURS caught={caught}/{len(chosen)}")  # noqa: T201
    return 0 if caught == len(chosen) > 0 else 1


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


def _is_sound(copies: "Queue[Copy]", test: str) -> bool:
    """Whether a test passes while nothing is broken."""
    copy = copies.get()
    try:
        status, printed = copy.test(test)
    finally:
        copies.put(copy)
    if status != _ENDED_WELL:
        print(f"not sound  {test} fails without any sabotage\n{printed[-3000:]}", flush=True)  # noqa: T201
    return status == _ENDED_WELL


def _is_caught(copies: "Queue[Copy]", sabotage: Sabotage, *, is_sound: bool) -> bool:
    copy = copies.get()
    try:
        status, printed = copy.sabotaged(sabotage) if is_sound else (_ENDED_WELL, "")
    finally:
        copies.put(copy)
    is_caught = is_sound and status == _TESTS_FAILED
    word = "caught    " if is_caught else "NOT CAUGHT"
    print(f"{word} {sabotage.hazard:4} {sabotage.name:58} {sabotage.test.rpartition('::')[2]}", flush=True)  # noqa: T201
    if not is_caught:
        print(printed[-3000:], flush=True)  # noqa: T201
    return is_caught


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
