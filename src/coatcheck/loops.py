"""Work that a gateway does again and again in the background until it is stopped."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from coatcheck.store import is_away


async def until_stopped(
    once: Callable[[], Awaitable[Any]],
    interval: timedelta,
    stopping: asyncio.Event,
    *,
    log: Any,
    trouble: str,
    woken: asyncio.Event | None = None,
) -> None:
    """Do a piece of work until stopped; trouble with the database is waited out, and logged under the name `trouble`.

    `once` returns True when more is waiting: then it is done again at once, else after the interval, or when `woken` is
    set, which `once` clears; whoever stops it sets that, too.
    """
    while not stopping.is_set():
        has_more = False
        try:
            has_more = await once() is True
        except Exception as error:  # noqa: BLE001 - waited out
            log_trouble(log, trouble, error)
        await (asyncio.sleep(0) if has_more else pause(interval, woken or stopping))


def log_trouble(log: Any, event: str, error: Exception, **more: Any) -> None:
    """Log an error: in one line where the database is away, for then everything fails alike; else with its stack."""
    if is_away(error):
        log.warning(event, cause=f"{type(error).__name__}: {error}", **more)
    else:
        log.error(event, exc_info=error, **more)


async def pause(most: timedelta, event: asyncio.Event) -> None:
    """Wait until the event is set, but not longer than so long."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), most.total_seconds())
