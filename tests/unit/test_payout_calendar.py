"""Cron expressions in UTC: the last time up to a moment, the first one after it, and no hour that is missing."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from coatcheck.payouts.calendar import CronError, canonical, first_after, last_until


def at(day: int, hour: int, minute: int = 0, second: int = 0) -> datetime:
    return datetime(2026, 3, day, hour, minute, second, tzinfo=UTC)


@pytest.mark.parametrize(
    ("cron", "moment", "last", "first"),
    [
        ("0 6 * * *", at(10, 12), at(10, 6), at(11, 6)),
        ("0 6 * * *", at(10, 6), at(10, 6), at(11, 6)),
        ("0 6 * * *", at(10, 6, 0, 30), at(10, 6), at(11, 6)),
        ("0 6 * * *", at(10, 5, 59, 59), at(9, 6), at(10, 6)),
        ("* * * * *", at(10, 6, 0, 30), at(10, 6), at(10, 6, 1)),
        ("0 6 * * 1", at(10, 12), at(9, 6), at(16, 6)),
        ("0 6 * * MON", at(10, 12), at(9, 6), at(16, 6)),
        ("30 2 * * *", at(29, 12), at(29, 2, 30), at(30, 2, 30)),  # clocks go forward in Europe that night
    ],
)
def test_the_last_time_and_the_next(cron: str, moment: datetime, last: datetime, first: datetime) -> None:
    assert (last_until(cron, moment), first_after(cron, moment)) == (last, first)


def test_a_moment_of_another_zone_is_the_same_moment() -> None:
    east = timezone(timedelta(hours=9))
    assert last_until("0 6 * * *", at(10, 12).astimezone(east)) == at(10, 6)


@pytest.mark.parametrize(("text", "form"), [("0  6 * * *", "0 6 * * *"), (" 0 6 * * mon ", "0 6 * * MON")])
def test_the_same_times_written_alike_are_one_schedule(text: str, form: str) -> None:
    assert canonical(text) == form


@pytest.mark.parametrize(
    "text", ["", "daily", "@daily", "0 6 * *", "0 6 * * * *", "60 6 * * *", "0 0 31 2 *", "0 6 * * 8"]
)
def test_what_is_no_time_that_comes_is_refused(text: str) -> None:
    with pytest.raises(CronError):
        canonical(text)
