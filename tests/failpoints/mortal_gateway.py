"""`coatcheck serve` that sends itself a signal at a failpoint: mortal_gateway.py SIGNAL FAILPOINT PORT."""

import os
import signal
import sys
from dataclasses import replace

from coatcheck.config import load_settings
from coatcheck.failpoints import Failpoint, Failpoints
from coatcheck.logs import configure_logs
from coatcheck.wiring import serve


class Deadly(Failpoints):
    """Sends the process a signal when one failpoint is reached: SIGKILL ends it for good and without a word."""

    __slots__ = ("_failpoint", "_signal")

    def __init__(self, number: signal.Signals, failpoint: Failpoint) -> None:
        self._signal = number
        self._failpoint: Failpoint | None = failpoint

    async def reach(self, failpoint: Failpoint) -> None:
        """Come to a failpoint."""
        if failpoint is self._failpoint:
            self._failpoint = None
            os.kill(os.getpid(), self._signal)


def main(number: str, failpoint: str, port: str) -> int:
    """Serve until death."""
    settings = replace(load_settings(os.environ), port=int(port))
    configure_logs(settings.log_level, settings.log_format)
    return serve(settings, failpoints=Deadly(signal.Signals[number], Failpoint(failpoint)))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
