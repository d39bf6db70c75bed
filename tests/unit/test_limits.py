"""Waiting with a limit: what is there is there, what comes in time is taken, and what does not is let go."""

import asyncio
from collections.abc import Awaitable

import pytest

from coatcheck.api.limits import ends_within, within

LONG, SHORT = 60, 0.02


async def later(value: str, *, turns: int = 3) -> str:
    for _ in range(turns):
        await asyncio.sleep(0.001)
    return value


async def at_once(value: str) -> str:
    return value


async def test_what_is_there_is_given_at_once_and_makes_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncio.timeout", None)
    assert await within(LONG, at_once("there")) == "there"


@pytest.mark.parametrize("turns", [1, 2, 5])
async def test_what_comes_in_time_is_given(turns: int) -> None:
    assert await within(LONG, later("in time", turns=turns)) == "in time"


async def test_a_future_is_awaited_like_any_other() -> None:
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(0.001, future.set_result, "set")
    assert await within(LONG, future) == "set"


@pytest.mark.parametrize("turns", [0, 1])
async def test_what_fails_is_raised(turns: int) -> None:
    async def fail() -> str:
        for _ in range(turns):
            await asyncio.sleep(0.001)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await within(LONG, fail())


@pytest.mark.parametrize("before", [0, 1], ids=["first wait", "second wait"])
async def test_what_takes_too_long_is_cancelled_and_can_clean_up(before: int) -> None:
    cleaned: list[str] = []

    async def endless() -> str:
        for _ in range(before):
            await asyncio.sleep(0.001)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0.001)
            cleaned.append("up")
            raise
        return ""

    with pytest.raises(TimeoutError):
        await within(SHORT, endless())
    assert cleaned == ["up"]


async def test_whoever_waits_may_be_cancelled() -> None:
    waiting = asyncio.create_task(_wait(asyncio.Event().wait()))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def _wait(awaitable: Awaitable[object]) -> object:
    return await within(LONG, awaitable)


async def test_work_that_ends_in_time_has_ended() -> None:
    work = asyncio.create_task(later("done"))
    assert await ends_within(LONG, work)
    assert work.result() == "done"


async def test_work_that_fails_has_ended_too() -> None:
    async def fail() -> None:
        raise ValueError("no")

    work = asyncio.create_task(fail())
    assert await ends_within(LONG, work)
    assert isinstance(work.exception(), ValueError)


@pytest.mark.parametrize("limit_s", [0, SHORT])
async def test_work_that_takes_longer_goes_on(limit_s: float) -> None:
    gate = asyncio.Event()
    work = asyncio.create_task(gate.wait())
    async with asyncio.timeout(LONG / 10):
        assert not await ends_within(limit_s, work)
    gate.set()
    assert await work


async def test_work_goes_on_when_whoever_waits_is_cancelled() -> None:
    gate = asyncio.Event()
    work = asyncio.create_task(gate.wait())
    waiting = asyncio.create_task(ends_within(LONG, work))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    gate.set()
    assert await work
