"""Background loops: they go on after trouble, at once while more is waiting, and end when they are told to."""

import asyncio
from datetime import timedelta

import asyncpg
import structlog
from structlog.testing import capture_logs

from coatcheck.loops import log_trouble, pause, until_stopped

_LONG, _SHORT = timedelta(hours=1), timedelta(milliseconds=1)

log = structlog.get_logger("coatcheck.test")


async def _loop(turns: list[bool | Exception], interval: timedelta) -> int:
    """Run a loop whose work ends as the turns say, and stop it in the last; returns how many there were."""
    stopping, done = asyncio.Event(), 0

    async def once() -> bool:
        nonlocal done
        turn = turns[done]
        done += 1
        if done == len(turns):
            stopping.set()
        if isinstance(turn, Exception):
            raise turn
        return turn

    async with asyncio.timeout(10):
        await until_stopped(once, interval, stopping, log=log, trouble="it_failed")
    return done


async def test_while_more_is_waiting_the_work_goes_on_at_once() -> None:
    assert await _loop([True, True, True, False], _LONG) == 4


async def test_trouble_is_logged_and_waited_out() -> None:
    with capture_logs() as logs:
        assert await _loop([OSError("the database is away"), False, False], _SHORT) == 3
    assert [entry["event"] for entry in logs] == ["it_failed"]


def test_what_fails_because_the_database_is_away_is_one_line_and_anything_else_has_its_stack() -> None:
    away = [OSError("no route"), TimeoutError(), asyncpg.CannotConnectNowError("starting up")]
    away += [asyncpg.ConnectionDoesNotExistError("closed"), asyncpg.InterfaceError("pool is closed")]
    away += [asyncpg.DeadlockDetectedError("gave way")]
    ours = [ValueError("a bug"), asyncpg.DataError("an argument of ours"), asyncpg.CheckViolationError("a rule")]
    with capture_logs() as logs:
        for error in [*away, *ours]:
            log_trouble(log, "it_failed", error, path="/v1")
    assert [(entry["log_level"], entry["path"]) for entry in logs] == [("warning", "/v1")] * 6 + [("error", "/v1")] * 3
    assert [entry.get("cause") for entry in logs[:2]] == ["OSError: no route", "TimeoutError: "]
    assert [entry.get("exc_info") for entry in logs] == [None] * 6 + ours


async def test_trouble_is_not_more_work() -> None:
    stopping, tries = asyncio.Event(), 0

    async def once() -> bool:
        nonlocal tries
        tries += 1
        raise OSError

    with capture_logs():
        task = asyncio.create_task(until_stopped(once, _LONG, stopping, log=log, trouble="it_failed"))
        for _ in range(10):
            await asyncio.sleep(0)
        stopping.set()
        await asyncio.wait_for(task, 10)
    assert tries == 1


async def test_a_loop_that_is_woken_works_at_once_and_ends_at_once() -> None:
    stopping, woken, done = asyncio.Event(), asyncio.Event(), 0

    async def once() -> bool:
        nonlocal done
        woken.clear()
        done += 1
        return False

    task = asyncio.create_task(until_stopped(once, _LONG, stopping, log=log, trouble="it_failed", woken=woken))
    for turns in (1, 2):
        for _ in range(10):
            await asyncio.sleep(0)
        assert done == turns
        woken.set()
    stopping.set()
    await asyncio.wait_for(task, 10)


async def test_a_pause_ends_with_its_event_or_its_time() -> None:
    event = asyncio.Event()
    async with asyncio.timeout(10):
        await pause(_SHORT, event)
        event.set()
        await pause(_LONG, event)
