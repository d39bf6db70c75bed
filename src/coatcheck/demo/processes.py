"""The processes of the demo: started in order, watched, and ended as an operator would end them."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic

_START_S = 60.0
_STOP_S = 40.0
_LOOK_EVERY_S = 0.03
_WATCH_EVERY_S = 0.2
_LOG_LINES_SHOWN = 8
_RUN_THE_COMMAND_LINE = "from coatcheck.cli import main; main()"


class DemoError(Exception):
    """The evening cannot be played; the text says why and what to do."""


class Child:
    """A `coatcheck` process of its own, whose output goes to a file."""

    def __init__(self, name: str, arguments: Sequence[str], environ: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and our own arguments
                [sys.executable, "-c", _RUN_THE_COMMAND_LINE, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(environ),
                start_new_session=True,  # Ctrl-C is for the demo, which then ends its processes in order
            )

    async def find_in_log(self, pattern: re.Pattern[str]) -> str:
        """Wait for a line, and give the part of it in the pattern's group. Raises DemoError when the process ends."""
        deadline = monotonic() + _START_S
        while monotonic() < deadline:
            is_running = self._process.poll() is None
            found = pattern.search(self.log.read_text("utf-8", "replace"))
            if found is not None:
                return found[1]
            if not is_running:
                raise DemoError(f"the {self.name} ended at its start; {self._last_words()}")
            await asyncio.sleep(_LOOK_EVERY_S)
        raise DemoError(f"the {self.name} was not ready after {_START_S:.0f} s; {self._last_words()}")

    async def watch(self) -> None:
        """Raise DemoError when the process ends before it is told to."""
        while True:
            if self._process.poll() is not None:
                raise DemoError(f"the {self.name} ended in the middle of the evening; {self._last_words()}")
            await asyncio.sleep(_WATCH_EVERY_S)

    async def stop(self) -> int:
        """End the process with SIGTERM and return its exit status; one that does not listen is killed."""
        self.tell_to_end()
        try:
            return await asyncio.to_thread(self._process.wait, _STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def tell_to_end(self) -> None:
        """Send SIGTERM, unless the process has ended."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def _last_words(self) -> str:
        lines = self.log.read_text("utf-8", "replace").splitlines()[-_LOG_LINES_SHOWN:]
        return f"its last words, from {self.log}:\n" + "\n".join(lines)


def child_environ(**settings: str) -> dict[str, str]:
    """Make the environment of a process: this one's without any setting of Coatcheck's, and the given ones.

    A DATABASE_URL or a coatcheck.toml of the user's own must never meet the demo.
    """
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("COATCHECK_") and name != "DATABASE_URL"
    }
    return (
        inherited | {"COATCHECK_CONFIG": os.devnull} | {f"COATCHECK_{name}": value for name, value in settings.items()}
    )
