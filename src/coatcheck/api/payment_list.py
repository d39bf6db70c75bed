"""`GET /v1/payments` and `GET /v1/payments/{payment_id}/events`: what a shop has asked for, and what became of it."""

import asyncio
from datetime import datetime
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, get
from msgspec import Meta

from coatcheck.api.cursors import parse_cursor, print_cursor
from coatcheck.api.gateway import Gateway
from coatcheck.api.payments import PaymentBody, find_payment, payment_body
from coatcheck.api.questions import NAME_PATTERN, PageParameters, answer, caller_of, parameters_of
from coatcheck.events import EventKind
from coatcheck.ids import EVENT, buyer_id_of, payment_id_of, print_id
from coatcheck.payments import PaymentView
from coatcheck.reporting.read_models import PaymentQuery, Place, find_events, find_payments
from coatcheck.shops import Caller
from coatcheck.states import PaymentStatus

NextCursor = Annotated[
    str | None, Meta(description="Send it as `cursor` for the next page; null at the end of the list.")
]

_A_TIME = "2026-05-01T00:00:00Z"


def _name(description: str) -> Meta:
    return Meta(min_length=1, max_length=128, pattern=NAME_PATTERN, description=description)


class PaymentListParameters(PageParameters, frozen=True, kw_only=True):
    """The filters of the list of payments; they may be combined."""

    created_after: (
        Annotated[datetime, Meta(tz=True, description="Only payments created after this moment.", examples=[_A_TIME])]
        | None
    ) = None
    created_before: (
        Annotated[datetime, Meta(tz=True, description="Only payments created before this moment.", examples=[_A_TIME])]
        | None
    ) = None
    status: Annotated[PaymentStatus, Meta(description="Only payments that stand so now.")] | None = None
    checkout_id: Annotated[str, _name("Only the payment of this checkout.")] | None = None
    buyer_reference: Annotated[str, _name("Only payments of this buyer.")] | None = None


class PaymentListBody(msgspec.Struct, frozen=True):
    """Payments, newest first. With a status or a buyer asked for, a page may hold few or none and still have a next."""

    payments: list[PaymentBody]
    next_cursor: NextCursor


class EventBody(msgspec.Struct, frozen=True):
    """What happened, when, and all that a rebuild of the state needs. docs/events.md describes each kind's `body`."""

    event_id: str
    kind: EventKind
    at: datetime
    body: Annotated[msgspec.Raw, Meta(extra_json_schema={"type": "object"})]


class EventListBody(msgspec.Struct, frozen=True):
    """The audit events of a payment, its orders and their operations, oldest first."""

    events: list[EventBody]
    next_cursor: NextCursor


@get("/v1/payments")
async def list_payments(request: Request[Any, Any, Any]) -> Response[bytes]:
    """List payments, newest first, page by page."""
    gateway, caller = await caller_of(request)
    asked = parameters_of(request, PaymentListParameters)
    if asked.checkout_id is not None:
        return answer(PaymentListBody(await _of_checkout(gateway, caller, asked), None))
    list_name = _name_of(caller, asked)
    page = await find_payments(
        gateway.store,
        PaymentQuery(
            shop_id=caller.shop_id,
            mode=caller.mode,
            created_after=asked.created_after,
            created_before=asked.created_before,
            status=asked.status,
            buyer_id=None if asked.buyer_reference is None else _buyer_of(caller, asked.buyer_reference),
        ),
        older_than=parse_cursor(asked.cursor, *list_name),
        limit=asked.limit,
    )
    views = await asyncio.gather(*[gateway.payments.read(payment_id) for payment_id in page.payment_ids])
    # A payment may have moved on since it was found.
    bodies = [payment_body(gateway, view) for view in views if view is not None and asked.status in (None, view.status)]
    return answer(PaymentListBody(bodies, None if page.resume_at is None else print_cursor(page.resume_at, *list_name)))


def _name_of(caller: Caller, asked: PaymentListParameters) -> tuple[str, ...]:
    """Name a list by all that decides what is on it, so that no cursor is taken from one list to another."""
    filters = (asked.created_after, asked.created_before, asked.status, asked.buyer_reference)
    return ("payments", caller.shop_id.hex, caller.mode, *[str(each) for each in filters])


def _buyer_of(caller: Caller, reference: str) -> Any:
    return buyer_id_of(caller.shop_id, caller.mode, reference)


async def _of_checkout(gateway: Gateway, caller: Caller, asked: PaymentListParameters) -> list[PaymentBody]:
    """Find the one payment a checkout can have, unless another filter leaves it out."""
    checkout_id = asked.checkout_id or ""
    parse_cursor(asked.cursor, "checkout", checkout_id)  # this list has one page: no cursor is of it
    view = await gateway.payments.read(payment_id_of(caller.shop_id, caller.mode, checkout_id))
    if view is None or not _is_of(view, caller) or view.checkout_id != checkout_id:
        return []
    is_left_out = (
        (asked.created_after is not None and view.created_at <= asked.created_after)
        or (asked.created_before is not None and view.created_at >= asked.created_before)
        or asked.status not in (None, view.status)
        or asked.buyer_reference not in (None, view.buyer_reference)
    )
    return [] if is_left_out else [payment_body(gateway, view)]


def _is_of(view: PaymentView, caller: Caller) -> bool:
    return (view.shop_id, view.mode) == (caller.shop_id, caller.mode)


@get("/v1/payments/{payment_id:str}/events")
async def list_payment_events(request: Request[Any, Any, Any]) -> Response[bytes]:
    """List what happened to a payment, oldest first, page by page."""
    gateway, caller = await caller_of(request)
    asked = parameters_of(request, PageParameters)
    payment_id = request.path_params["payment_id"]
    view = await find_payment(gateway, caller, payment_id)
    list_name = ("events", payment_id)
    after = parse_cursor(asked.cursor, *list_name)
    found = await find_events(
        gateway.store, view.payment_id, after=None if after is None else after.row_id, limit=asked.limit + 1
    )
    shown = found[: asked.limit]
    bodies = [
        EventBody(print_id(EVENT, event.event_id), EventKind(event.kind), event.at, msgspec.Raw(event.body.encode()))
        for event in shown
    ]
    last = Place(shown[-1].at, shown[-1].event_id) if len(found) > asked.limit else None
    return answer(EventListBody(bodies, None if last is None else print_cursor(last, *list_name)))
