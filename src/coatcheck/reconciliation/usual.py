"""What is usual of a PSP: what it keeps of a charge, and how long it takes to settle. No input or output."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Final

import msgspec

from coatcheck.config import DAYS, FEE, FEES_APART, Settings
from coatcheck.money import parse_share

_DECIMALS: Final = 4  # of a percentage; a millionth is the unit of a rate


class FeeSchedule(msgspec.Struct, frozen=True, kw_only=True):
    """What a PSP keeps of a charge in one currency: `rate_ppm` millionths of it, and `fixed_minor` on top."""

    currency: str
    rate_ppm: int
    fixed_minor: int


class Usual(msgspec.Struct, frozen=True, kw_only=True):
    """What is usual of each PSP, by its name; where nothing is said, nothing is compared.

    A fee may differ by `fee_tolerance_minor`: PSPs round in their own ways.
    """

    fees: Mapping[str, Sequence[FeeSchedule]] = {}
    fee_tolerance_minor: int = 1
    delays: Mapping[str, timedelta] = {}


def usual_of(settings: Settings) -> Usual:
    """Read what the settings say of PSPs; its form was checked when they were read."""
    return Usual(
        fees={
            name: [_schedule_of(term) for term in text.split(FEES_APART)] for name, text in settings.psp_fees.items()
        },
        fee_tolerance_minor=settings.psp_fee_tolerance_minor,
        delays={name: _days_of(text) for name, text in settings.settlement_delay.items()},
    )


def _schedule_of(term: str) -> FeeSchedule:
    found = FEE.fullmatch(term)
    if found is None:
        raise ValueError(term)
    percent, decimals, fixed, currency = found.groups()
    return FeeSchedule(
        currency=currency,
        rate_ppm=int(percent + (decimals or "").ljust(_DECIMALS, "0")),
        fixed_minor=parse_share(fixed or "0", currency),
    )


def _days_of(text: str) -> timedelta:
    found = DAYS.fullmatch(text)
    if found is None:
        raise ValueError(text)
    return timedelta(days=int(found[1]))
