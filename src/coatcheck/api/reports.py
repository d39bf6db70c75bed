"""`/v1/reports`: revenue, fees and payment volumes over a period; each row is of one currency."""

from collections.abc import Callable
from datetime import date
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, get
from msgspec import Meta

from coatcheck.api.gateway import Gateway
from coatcheck.api.payments import Amount
from coatcheck.api.questions import Parameters, answer, caller_of, parameters_of
from coatcheck.errors import CoatcheckError, ErrorCode, Problem
from coatcheck.money import format_amount
from coatcheck.reporting.reports import Fees, Granularity, Period, Revenue, Volume, fees, revenue, volumes
from coatcheck.shops import Caller

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


@get("/v1/reports/revenue")
async def get_revenue(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Show revenue and commission by period and currency."""
    gateway, caller, period = await _asked(request)
    return answer(revenue_body(await revenue(gateway.store, caller.shop_id, caller.mode, period)))


@get("/v1/reports/fees")
async def get_fees(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Show what each provider kept, by period and currency."""
    gateway, caller, period = await _asked(request)
    return answer(fees_body(await fees(gateway.store, caller.shop_id, caller.mode, period)))


@get("/v1/reports/volumes")
async def get_volumes(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Show payment volumes, success rates and declines by period, provider and currency."""
    gateway, caller, period = await _asked(request)
    return answer(volumes_body(await volumes(gateway.store, caller.shop_id, caller.mode, period)))


async def _asked(request: Request[Any, Any, Any]) -> tuple[Gateway, Caller, Period]:
    gateway, caller = await caller_of(request)
    asked = parameters_of(request, ReportParameters)
    period = Period(asked.since, asked.until, asked.granularity)
    if period.problem is not None:
        raise CoatcheckError(
            ErrorCode.INVALID_REQUEST, f"query parameter to: {period.problem}", [Problem("/to", period.problem)]
        )
    return gateway, caller, period


def revenue_body(rows: list[Revenue]) -> RevenueBody:
    """Put the report into the API's words."""
    return RevenueBody([_revenue_row(row, _written_in(row.currency)) for row in rows])


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


def fees_body(rows: list[Fees]) -> FeesBody:
    """Put the report into the API's words."""
    return FeesBody(
        [
            FeesRowBody(
                *(row.period, row.provider, row.currency, row.kind),
                *(format_amount(row.fees_minor, row.currency), row.transfers),
            )
            for row in rows
        ]
    )


def volumes_body(rows: list[Volume]) -> VolumesBody:
    """Put the report into the API's words."""
    return VolumesBody([_volume_row(row, _written_in(row.currency)) for row in rows])


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
