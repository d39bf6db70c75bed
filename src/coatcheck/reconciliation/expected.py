"""The calendar of expected files (hazard H3): which file is due when, and which is late.

A file is of the day of its last movement, in UTC. A day's file is due at a time of a later day.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Final
from uuid import UUID

import msgspec

from coatcheck.clock import Clock
from coatcheck.config import SCHEDULE, Settings
from coatcheck.shops import shop_id_of
from coatcheck.states import Mode
from coatcheck.store import Store

_DAY: Final = timedelta(days=1)
_FRIDAY: Final = 4
# A gateway that was away for longer does not ask for the files of all that time: whoever brings it back knows.
_LOOKED_BACK: Final = timedelta(days=31)
_EXPECT: Final = "SELECT expect_files($1, $2, $3, $4, $5, $6)"
_LAST: Final = "SELECT provider, max(day) AS day FROM expected_file WHERE shop_id = $1 AND mode = $2 GROUP BY provider"


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """Of which days there is a file, and when it is due: at `at` (UTC), `later` days after its own."""

    is_of_weekdays: bool
    at: time
    later: int

    def is_of(self, day: date) -> bool:
        """Say whether a day has a file."""
        return not self.is_of_weekdays or day.weekday() <= _FRIDAY

    def due_of(self, day: date) -> datetime:
        """Say until when a day's file must be here; where only weekdays count, never on a weekend."""
        due = day + self.later * _DAY
        while not self.is_of(due):
            due += _DAY
        return datetime.combine(due, self.at, UTC)


def schedule_of(text: str) -> Schedule:
    """Read `daily 09:00` or `weekday 07:30 +2`. Raises ValueError."""
    found = SCHEDULE.fullmatch(text)
    if found is None:
        raise ValueError(text)
    often, hour, minute, later = found.groups()
    return Schedule(is_of_weekdays=often == "weekday", at=time(int(hour), int(minute)), later=int(later or 1))


class ExpectedFiles:
    """Knows which files of a shop and mode are waited for."""

    def __init__(
        self, store: Store, clock: Clock, *, shop_id: UUID, mode: Mode, schedules: Mapping[str, Schedule]
    ) -> None:
        self._store = store
        self._clock = clock
        self._world = shop_id, mode.value
        self._schedules = schedules

    async def look(self) -> int:
        """Wait for what is expected up to today, and say what is late; returns how many newly are.

        The first day that is waited for is the one on which this is first called. What is late is a break until its
        file comes or a person closes it. Idempotent; of any number of processes one tells.
        """
        if not self._schedules:
            return 0
        at = self._clock.now()
        last = {row["provider"]: row["day"] for row in await self._store.pool.fetch(_LAST, *self._world)}
        wanted = [
            (provider, day, schedule.due_of(day))
            for provider, schedule in self._schedules.items()
            for day in _days(last.get(provider), at.date())
            if schedule.is_of(day)
        ]
        if wanted:
            columns = [list(column) for column in zip(*wanted, strict=True)]
            await self._store.pool.execute(_EXPECT, at, *self._world, *columns)
        late: int = await self._store.pool.fetchval("SELECT break_late_files($1, $2, $3)", at, *self._world)
        return late


def _days(last: date | None, today: date) -> Iterator[date]:
    """Give the days that are not waited for yet, up to today."""
    day = today if last is None else max(last + _DAY, today - _LOOKED_BACK)
    while day <= today:
        yield day
        day += _DAY


def expected_files_of(settings: Settings, store: Store, clock: Clock) -> ExpectedFiles | None:
    """Make the calendar of the settings' shop; None where nothing is expected."""
    if settings.settlement_shop is None or not settings.settlement_expected:
        return None
    return ExpectedFiles(
        store,
        clock,
        shop_id=shop_id_of(settings.settlement_shop),
        mode=Mode(settings.settlement_mode),
        schedules={name: schedule_of(text) for name, text in settings.settlement_expected.items()},
    )
