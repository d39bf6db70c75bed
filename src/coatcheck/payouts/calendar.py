"""Cron expressions, in UTC only: no hour is skipped or comes twice, whatever clocks do elsewhere (hazards D14, F8)."""

from datetime import UTC, datetime, timedelta

from cronsim import CronSim, CronSimError

_FIELDS = 5
_MINUTE = timedelta(minutes=1)


class CronError(ValueError):
    """The expression cannot be used; the text says what to write instead."""


def canonical(expression: str) -> str:
    """Write a cron expression in its one usual form. Raises CronError for what is none, or never comes."""
    fields = expression.upper().split()
    if len(fields) != _FIELDS:
        raise CronError("write five fields, such as 0 6 * * 1 for Mondays at 6:00 UTC")
    text = " ".join(fields)
    first_after(text, datetime(2024, 1, 1, tzinfo=UTC))
    return text


def first_after(cron: str, at: datetime) -> datetime:
    """Name the first time of an expression after a moment. Raises CronError."""
    return _next_of(cron, _minute_of(at), is_back=False)


def last_until(cron: str, at: datetime) -> datetime:
    """Name the last time of an expression up to a moment, that moment's minute among them. Raises CronError."""
    return _next_of(cron, _minute_of(at) + _MINUTE, is_back=True)


def _next_of(cron: str, start: datetime, *, is_back: bool) -> datetime:
    try:
        found: datetime = next(CronSim(cron, start, reverse=is_back))
    except (CronSimError, StopIteration):
        raise CronError(f"{cron} is no time that comes; write such as 0 6 * * 1 for Mondays at 6:00 UTC") from None
    return found.replace(tzinfo=UTC)


def _minute_of(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(second=0, microsecond=0, tzinfo=None)
