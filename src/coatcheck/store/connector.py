"""Connect to PostgreSQL without storming it while it turns everybody away."""

from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, Final

import asyncpg

# The server's own word that nobody is let in: it starts, recovers or stops; or nobody listens there.
_NOBODY_IS_LET_IN: Final = (asyncpg.CannotConnectNowError, ConnectionRefusedError, FileNotFoundError)
_BELIEVED_S: Final = 0.2


class ServerAwayError(OSError):
    """PostgreSQL turned somebody away a moment ago, and was not asked again."""


class Connector:
    """Makes connections. Where the server lets nobody in, one asks for all, and the others are told what it said.

    Each refusal costs a recovering server a process and a gateway a millisecond: with 100 requests/s a quarter of a
    core, which the recovery needs itself.
    """

    def __init__(
        self,
        connect: Callable[..., Awaitable[asyncpg.Connection]] = asyncpg.connect,
        now: Callable[[], float] = monotonic,
    ) -> None:
        self._connect = connect
        self._now = now
        self._refusal = ""
        self._asks_again_at = float("-inf")

    async def connect(self, *arguments: Any, **named: Any) -> asyncpg.Connection:
        """Connect as asyncpg does. Raises ServerAwayError for 0.2 s after the server let nobody in."""
        if self._now() < self._asks_again_at:
            raise ServerAwayError(self._refusal)
        if self._refusal:  # whoever comes while this one asks believes the last word
            self._asks_again_at = self._now() + _BELIEVED_S
        try:
            connection = await self._connect(*arguments, **named)
        except _NOBODY_IS_LET_IN as error:
            self._refusal = f"a moment ago PostgreSQL let nobody in: {type(error).__name__}: {error}"
            self._asks_again_at = self._now() + _BELIEVED_S
            raise
        self._refusal, self._asks_again_at = "", float("-inf")
        return connection
