import asyncio
from collections.abc import Sequence

import asyncpg
import pytest

from coatcheck.store.batch import GAVE_WAY, Batcher, again


class Database:
    """Doubles numbers in batches; refuses what it is told to, and fails transiently as often as it is told to."""

    def __init__(
        self,
        refuses: frozenset[int] = frozenset(),
        outages: int = 0,
        outage: type[Exception] = asyncpg.ConnectionDoesNotExistError,
    ) -> None:
        self.batches: list[list[int]] = []
        self.refuses = refuses
        self.outages = outages
        self.outage = outage
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def run(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        await self.may_answer.wait()
        if self.outages:
            self.outages -= 1
            raise self.outage("gone")
        if self.refuses & set(items):
            raise asyncpg.CheckViolationError("no")
        return [item * 2 for item in items]


async def test_an_item_submitted_as_the_lane_closes_is_not_forgotten() -> None:
    batcher = Batcher(Database().run, size=10)
    async with asyncio.timeout(5):
        assert [await batcher.submit(number) for number in range(50)] == [number * 2 for number in range(50)]


async def test_what_arrives_during_a_batch_forms_the_next_one() -> None:
    database = Database()
    database.may_answer.clear()
    batcher = Batcher(database.run, size=3)
    submitted = [asyncio.create_task(batcher.submit(number)) for number in range(8)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    database.may_answer.set()
    assert await asyncio.gather(*submitted) == [number * 2 for number in range(8)]
    assert database.batches == [[0, 1, 2], [3, 4, 5], [6, 7]]


async def test_size_one_runs_as_many_statements_at_once_as_there_are_lanes() -> None:
    database = Database()
    database.may_answer.clear()
    batcher = Batcher(database.run, size=1, lanes=4)
    submitted = [asyncio.create_task(batcher.submit(number)) for number in range(9)]
    await asyncio.sleep(0.01)
    assert database.batches == [[0], [1], [2], [3]]
    database.may_answer.set()
    assert await asyncio.gather(*submitted) == [number * 2 for number in range(9)]


async def test_f3_a_bad_item_fails_alone() -> None:
    database = Database(refuses=frozenset({3, 5}))
    batcher = Batcher(database.run, size=10)
    results = await asyncio.gather(*[batcher.submit(number) for number in range(8)], return_exceptions=True)
    assert [number for number, result in enumerate(results) if isinstance(result, asyncpg.CheckViolationError)] == [
        3,
        5,
    ]
    assert [result for result in results if isinstance(result, int)] == [0, 2, 4, 8, 12, 14]


async def test_g6_a_lost_connection_is_answered_by_running_the_same_batch_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("coatcheck.store.batch._FIRST_PAUSE_S", 0)
    database = Database(outages=3)
    batcher = Batcher(database.run, size=10)
    assert await asyncio.gather(*[batcher.submit(number) for number in range(3)]) == [0, 2, 4]
    assert database.batches == [[0, 1, 2]] * 4


@pytest.mark.parametrize("gave_way", GAVE_WAY)
async def test_B9_a_batch_that_gave_way_is_run_again_as_it_was_and_nobody_hears_of_it(
    monkeypatch: pytest.MonkeyPatch, gave_way: type[Exception]
) -> None:
    monkeypatch.setattr("coatcheck.store.batch._FIRST_PAUSE_S", 0)
    database = Database(outages=3, outage=gave_way)
    batcher = Batcher(database.run, size=10)
    assert await asyncio.gather(*[batcher.submit(number) for number in range(3)]) == [0, 2, 4]
    assert database.batches == [[0, 1, 2]] * 4


@pytest.mark.parametrize("gave_way", GAVE_WAY)
async def test_B9_what_is_written_alone_is_run_again_until_it_has_given_way_too_often(
    monkeypatch: pytest.MonkeyPatch, gave_way: type[Exception]
) -> None:
    monkeypatch.setattr("coatcheck.store.batch._FIRST_PAUSE_S", 0)
    database = Database(outages=7, outage=gave_way)
    assert await again(database.run, [1, 2]) == [2, 4]
    assert database.batches == [[1, 2]] * 8
    database.outages = 8
    with pytest.raises(gave_way):
        await again(database.run, [1])


async def test_G6_what_is_written_alone_is_not_run_again_when_nobody_knows_what_became_of_it() -> None:
    database = Database(outages=1)
    with pytest.raises(asyncpg.ConnectionDoesNotExistError):
        await again(database.run, [1])
    assert database.batches == [[1]]


async def test_a_database_that_stays_away_fails_every_caller_and_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coatcheck.store.batch._FIRST_PAUSE_S", 0)
    batcher = Batcher(Database(outages=100).run, size=10)
    results = await asyncio.gather(*[batcher.submit(number) for number in range(3)], return_exceptions=True)
    assert all(isinstance(result, asyncpg.ConnectionDoesNotExistError) for result in results)


async def test_a_caller_that_went_away_does_not_disturb_the_others() -> None:
    database = Database()
    database.may_answer.clear()
    batcher = Batcher(database.run, size=10)
    gone, stays = (asyncio.create_task(batcher.submit(number)) for number in (1, 2))
    await asyncio.sleep(0.01)
    gone.cancel()
    database.may_answer.set()
    assert await stays == 4
    assert database.batches == [[1, 2]]
