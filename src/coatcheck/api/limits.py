"""Waiting with a limit, as every payment does twice: what asyncio's own timeouts do, for less of a payment's time."""

import asyncio
from collections.abc import Awaitable, Generator
from typing import Any, Generic, TypeVar, cast

_Value = TypeVar("_Value")


async def within(limit_s: float, awaitable: Awaitable[_Value]) -> _Value:
    """Await within a time; where there is nothing to wait for no timer is made. Raises TimeoutError."""
    steps = awaitable.__await__()
    try:
        first = next(steps)
    except StopIteration as done:
        return cast("_Value", done.value)
    async with asyncio.timeout(limit_s):
        return await _Begun(first, steps)


class _Begun(Generic[_Value]):
    """What has begun to wait for something, which is now waited for."""

    def __init__(self, first: Any, steps: Generator[Any, Any, _Value]) -> None:
        self._first = first
        self._steps = steps

    def __await__(self) -> Generator[Any, Any, _Value]:
        try:
            yield self._first
        except BaseException as error:  # noqa: BLE001 - a timeout or a cancellation is its to handle
            yield self._steps.throw(error)
        return (yield from self._steps)


async def ends_within(limit_s: float, work: "asyncio.Task[Any]") -> bool:
    """Wait for work, which goes on in any case: what a timeout around a shield does, for half of the processor time."""
    loop = asyncio.get_running_loop()
    told: asyncio.Future[None] = loop.create_future()

    def tell(_: object = None) -> None:
        if not told.done():
            told.set_result(None)

    work.add_done_callback(tell)
    timer = loop.call_later(limit_s, tell)
    try:
        await told
    finally:
        timer.cancel()
    return work.done()
