"""`coatcheck serve` that kills itself with SIGKILL at a failpoint: mortal_gateway.py FAILPOINT PORT."""

import os
import signal
import sys
from dataclasses import replace

from coatcheck.config import load_settings
from coatcheck.failpoints import Failpoint, Failpoints
from coatcheck.logs import configure_logs
from coatcheck.wiring import serve


class Deadly(Failpoints):
    """Ends the process, for good and without a word, when one failpoint is reached."""

    __slots__ = ("_failpoint",)

    def __init__(self, failpoint: Failpoint) -> None:
        self._failpoint = failpoint

    async def reach(self, failpoint: Failpoint) -> None:
        """Come to a failpoint."""
        if failpoint is self._failpoint:
            os.kill(os.getpid(), signal.SIGKILL)


def main(failpoint: str, port: str) -> int:
    """Serve until death."""
    settings = replace(load_settings(os.environ), port=int(port))
    configure_logs(settings.log_level, settings.log_format)
    return serve(settings, failpoints=Deadly(Failpoint(failpoint)))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
