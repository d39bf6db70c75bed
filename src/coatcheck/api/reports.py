"""`/v1/reports`: revenue, fees and payment volumes over a period; each row is of one currency."""

from collections.abc import Callable
from datetime import UTC, date, datetime, time
from typing import Annotated, Any, TypeVar
from uuid import UUID

import msgspec
from litestar import Request, Response, get
from msgspec import UNSET, Meta, UnsetType

from coatcheck.api.cursors import parse_cursor, print_cursor, unknown_cursor
from coatcheck.api.payment_list import NextCursor
from coatcheck.api.payments import Amount
from coatcheck.api.questions import Parameters, answer, caller_of, parameters_of, wrong_parameter
from coatcheck.ids import derive_id
from coatcheck.money import format_amount
from coatcheck.reporting.read_models import Place
from coatcheck.reporting.reports import Fees, Granularity, Period, Revenue, Volume, fees, revenue, volumes
from coatcheck.states import Mode
from coatcheck.store import Store

_Row = TypeVar("_Row", Revenue, Fees, Volume)

Rate = Annotated[
    str | None,
    Meta(
        description="Of the orders that succeeded or failed, how many succeeded, from 0.0000 to 1.0000; null of none.",
        extra_json_schema={"examples": ["0.9731"]},
    ),
]


class ReportParameters(Parameters, frozen=True, kw_only=True, rename={"since": "from", "until": "to"}):
    """The period of a report, in days of UTC."""

    since: Annotated[date, Meta(description="The first day of the report.", examples=["2026-05-01"])]
    until: Annotated[date, Meta(description="The day before which the report ends.", examples=["2026-06-01"])]
    granularity: Annotated[Granularity, Meta(description="What a row sums up.")] = Granularity.DAY
    limit: Annotated[int, Meta(ge=1, le=1000, description="The most rows on the page.", examples=[100])] | None = None
    cursor: (
        Annotated[str, Meta(description="`next_cursor` of the page before, unchanged and with the same period.")] | None
    ) = None


class RevenueRowBody(msgspec.Struct, frozen=True):
    """What buyers paid and got back in one period and currency, and what the platform earned and paid."""

    period: Annotated[date, Meta(description="Its first day.")]
    currency: Annotated[str, Meta(examples=["EUR"])]
    charged: Amount
    refunded: Amount
    commission: Annotated[Amount, Meta(description="What the platform earned.")]
    commission_returned: Annotated[Amount, Meta(description="What of it went back with refunds.")]
    psp_fees: Amount
    dispute_fees: Amount
    net: Annotated[Amount, Meta(description="commission - commission_returned - psp_fees - dispute_fees.")]


class RevenueBody(msgspec.Struct, frozen=True):
    """Revenue and commission by period and currency; periods in which nothing moved are left out."""

    rows: list[RevenueRowBody]
    next_cursor: NextCursor | UnsetType = UNSET  # only where a limit was asked for, in all three


class FeesRowBody(msgspec.Struct, frozen=True):
    """What one provider kept in one period and currency, by the kind of the transfers."""

    period: Annotated[date, Meta(description="Its first day.")]
    provider: Annotated[str, Meta(examples=["stripe"])]
    currency: Annotated[str, Meta(examples=["EUR"])]
    kind: Annotated[str, Meta(examples=["psp_fee"])]
    fees: Amount
    transfers: int


class FeesBody(msgspec.Struct, frozen=True):
    """The fees of each provider by period and currency."""

    rows: list[FeesRowBody]
    next_cursor: NextCursor | UnsetType = UNSET


class DeclinesBody(msgspec.Struct, frozen=True):
    """Orders that failed for one reason."""

    code: Annotated[str | None, Meta(description="The provider's word, or risk_blocked.")]
    orders: int
    amount: Amount


class VolumeRowBody(msgspec.Struct, frozen=True):
    """Payment orders accepted in one period, of one provider and currency, as they stand now."""

    period: Annotated[date, Meta(description="Its first day.")]
    provider: Annotated[str, Meta(examples=["stripe"])]
    currency: Annotated[str, Meta(examples=["EUR"])]
    orders: int
    succeeded: Annotated[int, Meta(description="Charged, or authorized.")]
    failed: int
    cancelled: int
    open: Annotated[int, Meta(description="Not decided yet.")]
    success_rate: Rate
    amount: Annotated[Amount, Meta(description="What was asked for.")]
    captured: Amount
    refunded: Amount
    declines: list[DeclinesBody]


class VolumesBody(msgspec.Struct, frozen=True):
    """Payment volumes, success rates and declines by period, provider and currency."""

    rows: list[VolumeRowBody]
    next_cursor: NextCursor | UnsetType = UNSET


@get("/v1/reports/revenue")
async def get_revenue(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Show revenue and commission by period and currency."""
    asked = await _asked(request)
    return answer(revenue_body(*asked.page_of(await revenue(asked.store, *asked.world, asked.period))))


@get("/v1/reports/fees")
async def get_fees(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Show what each provider kept, by period and currency."""
    asked = await _asked(request)
    return answer(fees_body(*asked.page_of(await fees(asked.store, *asked.world, asked.period))))


@get("/v1/reports/volumes")
async def get_volumes(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Show payment volumes, success rates and declines by period, provider and currency."""
    asked = await _asked(request)
    return answer(volumes_body(*asked.page_of(await volumes(asked.store, *asked.world, asked.period))))


class _Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What a report was asked for. Its rows never go away, so a page begins behind the last row of the one before."""

    store: Store
    world: tuple[UUID, Mode]
    period: Period
    limit: int | None
    after: Place | None
    list_name: tuple[str, ...]

    def page_of(self, rows: list[_Row]) -> tuple[list[_Row], str | UnsetType | None]:
        """Cut the page out of the whole report, with the cursor of the next. Raises CoatcheckError INVALID_CURSOR."""
        places = [_place_of(row) for row in rows]
        if self.after is not None and self.after not in places:
            raise unknown_cursor()
        start = 0 if self.after is None else places.index(self.after) + 1
        if self.limit is None:
            return rows[start:], UNSET
        end = start + self.limit
        return rows[start:end], None if end >= len(rows) else print_cursor(places[end - 1], *self.list_name)


def _place_of(row: Revenue | Fees | Volume) -> Place:
    names = [getattr(row, name, "") for name in ("provider", "currency", "kind")]
    return Place(datetime.combine(row.period, time(), UTC), derive_id("report", *names))


async def _asked(request: Request[Any, Any, Any]) -> _Asked:
    gateway, caller = await caller_of(request)
    asked = parameters_of(request, ReportParameters)
    period = Period(asked.since, asked.until, asked.granularity)
    if period.problem is not None:
        raise wrong_parameter("to", period.problem)
    days = (asked.since.isoformat(), asked.until.isoformat(), asked.granularity.value)
    list_name = (request.scope["path"], caller.shop_id.hex, caller.mode.value, *days)
    return _Asked(
        store=gateway.store,
        world=(caller.shop_id, caller.mode),
        period=period,
        limit=asked.limit,
        after=parse_cursor(asked.cursor, *list_name),
        list_name=list_name,
    )


def revenue_body(rows: list[Revenue], more: str | UnsetType | None = UNSET) -> RevenueBody:
    """Put the report into the API's words."""
    return RevenueBody([_revenue_row(row, _written_in(row.currency)) for row in rows], more)


def _revenue_row(row: Revenue, amount: Callable[[int], str]) -> RevenueRowBody:
    return RevenueRowBody(
        period=row.period,
        currency=row.currency,
        charged=amount(row.charged_minor),
        refunded=amount(row.refunded_minor),
        commission=amount(row.commission_minor),
        commission_returned=amount(row.commission_returned_minor),
        psp_fees=amount(row.psp_fees_minor),
        dispute_fees=amount(row.dispute_fees_minor),
        net=amount(row.net_minor),
    )


def fees_body(rows: list[Fees], more: str | UnsetType | None = UNSET) -> FeesBody:
    """Put the report into the API's words."""
    return FeesBody(
        [
            FeesRowBody(
                *(row.period, row.provider, row.currency, row.kind),
                *(format_amount(row.fees_minor, row.currency), row.transfers),
            )
            for row in rows
        ],
        more,
    )


def volumes_body(rows: list[Volume], more: str | UnsetType | None = UNSET) -> VolumesBody:
    """Put the report into the API's words."""
    return VolumesBody([_volume_row(row, _written_in(row.currency)) for row in rows], more)


def _volume_row(row: Volume, amount: Callable[[int], str]) -> VolumeRowBody:
    return VolumeRowBody(
        period=row.period,
        provider=row.provider,
        currency=row.currency,
        orders=row.orders,
        succeeded=row.succeeded,
        failed=row.failed,
        cancelled=row.cancelled,
        open=row.open,
        success_rate=row.success_rate,
        amount=amount(row.amount_minor),
        captured=amount(row.captured_minor),
        refunded=amount(row.refunded_minor),
        declines=[DeclinesBody(each.code, each.orders, amount(each.amount_minor)) for each in row.declines],
    )


def _written_in(currency: str) -> Callable[[int], str]:
    return lambda minor: format_amount(minor, currency)
