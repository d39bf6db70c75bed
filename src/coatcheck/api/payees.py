"""`/v1/sellers/{seller_account}/payout_destination` and `.../payout_schedule`: where a seller is paid, and when."""

from datetime import datetime
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, get, put
from msgspec import Meta

from coatcheck.api.bodies import take_unkeyed
from coatcheck.api.gateway import Gateway
from coatcheck.api.payments import Amount
from coatcheck.api.questions import Parameters, answer, caller_of, name_in_path, parameters_of
from coatcheck.dead_letters import person_of
from coatcheck.errors import CoatcheckError, ErrorCode
from coatcheck.money import format_amount, parse_amount
from coatcheck.payouts import Destination, Schedule
from coatcheck.shops import Caller
from coatcheck.validation import parse_payout_destination, parse_payout_schedule

_NAME_PLACE = 2  # /v1/sellers/{seller_account}/...
_By = Annotated[str, Meta(examples=["key key_dpgs5zdhcp7p3nlvvnjrb7o7cq"])]


class DestinationBody(msgspec.Struct, frozen=True):
    """Where a seller's money of one currency goes. Nothing is paid to it before `usable_from`."""

    currency: str
    provider: str
    token: Annotated[str, Meta(description="The provider's token of the bank account; bank details are nowhere here.")]
    changed_by: _By
    changed_at: datetime
    usable_from: datetime


class DestinationsBody(msgspec.Struct, frozen=True):
    """Where a seller's money goes, by currency."""

    seller_account: str
    destinations: list[DestinationBody]


class ScheduleBody(msgspec.Struct, frozen=True):
    """When a seller's money of one currency is paid out unasked; without cron it is not."""

    currency: str
    cron: Annotated[str | None, Meta(examples=["0 6 * * 1"])]
    threshold: Amount
    changed_by: _By
    changed_at: datetime
    next_at: datetime | None


class SchedulesBody(msgspec.Struct, frozen=True):
    """When a seller's money is paid out unasked, by currency."""

    seller_account: str
    schedules: list[ScheduleBody]


@put("/v1/sellers/{seller_account:str}/payout_destination")
async def put_destination(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Say where a seller's money of one currency goes: a token, never bank details. A changed one cools down."""
    gateway, caller, body = await take_unkeyed(request, parse_payout_destination)
    seller = _seller_of(request, caller)
    await gateway.payees.put_destination(
        caller, seller, body.currency, body.token, provider=body.provider, by=person_of(caller)
    )
    return await _destinations(gateway, caller, seller)


@get("/v1/sellers/{seller_account:str}/payout_destination")
async def get_destination(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Show where a seller's money goes, for each currency."""
    gateway, caller = await caller_of(request)
    parameters_of(request, Parameters)
    return await _destinations(gateway, caller, _seller_of(request, caller))


@put("/v1/sellers/{seller_account:str}/payout_schedule")
async def put_schedule(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Say when a seller's money of one currency is paid out unasked: at times, from a threshold on, or both."""
    gateway, caller, body = await take_unkeyed(request, parse_payout_schedule)
    seller = _seller_of(request, caller)
    threshold = None if body.threshold is None else parse_amount(body.threshold, body.currency)
    await gateway.payees.put_schedule(
        caller, seller, body.currency, cron=body.cron, threshold_minor=threshold, by=person_of(caller)
    )
    return await _schedules(gateway, caller, seller)


@get("/v1/sellers/{seller_account:str}/payout_schedule")
async def get_schedule(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Show when a seller's money is paid out unasked, for each currency."""
    gateway, caller = await caller_of(request)
    parameters_of(request, Parameters)
    return await _schedules(gateway, caller, _seller_of(request, caller))


def _seller_of(request: Request[Any, Any, Any], caller: Caller) -> str:
    name = name_in_path(request, _NAME_PLACE)
    if name is None or ":" in name:
        raise _nothing(caller, "of that name")
    return name


def _nothing(caller: Caller, named: str) -> CoatcheckError:
    return CoatcheckError(
        ErrorCode.NOT_FOUND, f"Nothing is arranged for seller {named} in shop {caller.shop_name}, {caller.mode} mode."
    )


async def _destinations(gateway: Gateway, caller: Caller, seller: str) -> Response[bytes]:
    found = await gateway.payees.destinations(caller.shop_id, caller.mode, seller)
    if not found:
        raise _nothing(caller, seller)
    return answer(DestinationsBody(seller, [_destination_body(each) for each in found]))


def _destination_body(each: Destination) -> DestinationBody:
    return DestinationBody(each.currency, each.provider, each.token, each.changed_by, each.changed_at, each.usable_from)


async def _schedules(gateway: Gateway, caller: Caller, seller: str) -> Response[bytes]:
    found = await gateway.payees.schedules(caller.shop_id, caller.mode, seller)
    if not found:
        raise _nothing(caller, seller)
    return answer(SchedulesBody(seller, [_schedule_body(each) for each in found]))


def _schedule_body(each: Schedule) -> ScheduleBody:
    threshold = format_amount(each.threshold_minor, each.currency)
    return ScheduleBody(each.currency, each.cron, threshold, each.changed_by, each.changed_at, each.next_at)
