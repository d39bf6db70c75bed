"""A circuit breaker: while a PSP is silent, nothing new is sent to it. It fails nobody (hazard F6).

What is due waits, still undecided, and does not use up its retries. Look-ups are never stopped: asking moves no money.
"""

from datetime import datetime, timedelta

from coatcheck.clock import Clock


class Breaker:
    """Counts one provider's silences in a row; from `threshold` on only one sending in each `pause` gets through.

    That one is the probe: any answer closes the circuit. `threshold` zero: never open.
    """

    def __init__(self, clock: Clock, *, threshold: int, pause: timedelta) -> None:
        self._clock = clock
        self._threshold = threshold
        self._pause = pause
        self._silences = 0
        self._probe_at: datetime | None = None

    @property
    def is_open(self) -> bool:
        """Whether sendings are held back."""
        return self._probe_at is not None

    def may_send(self) -> bool:
        """Whether a sending may go now; while open, this is also what lets the next probe through."""
        if self._probe_at is None:
            return True
        now = self._clock.now()
        if now < self._probe_at:
            return False
        self._probe_at = now + self._pause
        return True

    def wait(self) -> timedelta:
        """How long a held-back sending should wait before it is tried again."""
        return self._pause if self._probe_at is None else max(self._probe_at - self._clock.now(), timedelta(0))

    def hear(self, *, is_silent: bool) -> bool:
        """Take note of what a sending brought; returns whether this opened or closed the circuit."""
        was_open = self.is_open
        if not is_silent:
            self._silences, self._probe_at = 0, None
            return was_open
        self._silences += 1
        if self._threshold and self._silences >= self._threshold and not was_open:
            self._probe_at = self._clock.now() + self._pause
        return self.is_open is not was_open
