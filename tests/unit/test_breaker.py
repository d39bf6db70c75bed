"""The circuit breaker: when it opens, what gets through, what closes it."""

from datetime import UTC, datetime, timedelta

from coatcheck.breaker import Breaker
from coatcheck.clock import ManualClock

PAUSE = timedelta(seconds=5)


def opened(clock: ManualClock, threshold: int = 3) -> Breaker:
    breaker = Breaker(clock, threshold=threshold, pause=PAUSE)
    for _ in range(3):
        breaker.hear(is_silent=True)
    return breaker


def clock() -> ManualClock:
    return ManualClock(datetime(2026, 3, 1, tzinfo=UTC))


def test_F6_it_opens_after_silences_in_a_row_and_an_answer_in_between_starts_the_count_again() -> None:
    breaker = Breaker(clock(), threshold=3, pause=PAUSE)
    told = [breaker.hear(is_silent=silent) for silent in (True, True, False, True, True)]
    assert told == [False] * 5
    assert breaker.may_send()
    assert breaker.hear(is_silent=True)
    assert breaker.is_open
    assert not breaker.may_send()


def test_F6_one_probe_gets_through_in_each_pause() -> None:
    time = clock()
    breaker = opened(time)
    assert breaker.wait() == PAUSE
    time.advance(PAUSE)
    assert [breaker.may_send() for _ in range(3)] == [True, False, False]
    breaker.hear(is_silent=True)
    assert not breaker.may_send()
    time.advance(PAUSE)
    assert breaker.may_send()


def test_F6_any_answer_closes_it() -> None:
    breaker = opened(clock())
    assert breaker.hear(is_silent=False)
    assert breaker.may_send()
    assert not breaker.hear(is_silent=False)


def test_a_threshold_of_zero_never_opens() -> None:
    assert not opened(clock(), threshold=0).is_open
