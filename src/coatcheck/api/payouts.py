"""`/v1/payouts`: money to sellers. A payout's key is its ticket: it pays out once, and never expires."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import Request, Response, get, post
from msgspec import Meta

from coatcheck.api.bodies import answer_post, take
from coatcheck.api.cursors import parse_cursor, print_cursor
from coatcheck.api.edge import Answer
from coatcheck.api.gateway import Gateway
from coatcheck.api.payment_list import NextCursor
from coatcheck.api.payments import Amount
from coatcheck.api.questions import NAME_PATTERN, PageParameters, Parameters, answer, caller_of, own, parameters_of
from coatcheck.api.waiting import run_and_read, still_there
from coatcheck.errors import CoatcheckError, ErrorCode, Problem
from coatcheck.ids import PAYOUT, PAYOUT_RUN, operation_id_of, parse_id, print_id
from coatcheck.money import format_amount, parse_amount
from coatcheck.payouts import PayoutQuery, PayoutRequest, PayoutVerdict, PayoutView
from coatcheck.reporting.read_models import Place
from coatcheck.shops import Caller
from coatcheck.states import OperationKind, PayoutStatus
from coatcheck.validation import parse_payout_request
from coatcheck.wallets import wallet


class PayoutBody(msgspec.Struct, frozen=True):
    """Money on its way to a seller. A payout that was paid may still come back, days later."""

    payout_id: Annotated[str, Meta(examples=["out_dpgs5zdhcp7p3nlvvnjrb7o7cq"])]
    seller_account: Annotated[str, Meta(examples=["seller-42"])]
    amount: Amount
    currency: Annotated[str, Meta(examples=["EUR"])]
    status: PayoutStatus
    provider: str
    destination: Annotated[str, Meta(description="The provider's token, as it was when the payout was asked for.")]
    run_id: Annotated[str | None, Meta(description="The run it is an item of.")]
    decline_code: Annotated[str | None, Meta(description="Why it failed, or came back.")]
    provider_reference: Annotated[str | None, Meta(description="The provider's own id of the payout.")]
    created_at: datetime
    decided_at: datetime | None


class PayoutListBody(msgspec.Struct, frozen=True):
    """Payouts, newest first."""

    payouts: list[PayoutBody]
    next_cursor: NextCursor


class PayoutListParameters(PageParameters, frozen=True, kw_only=True):
    """The filters of the list of payouts; they may be combined."""

    seller_account: (
        Annotated[
            str, Meta(min_length=1, max_length=128, pattern=NAME_PATTERN, description="Only payouts to this seller.")
        ]
        | None
    ) = None
    status: Annotated[PayoutStatus, Meta(description="Only payouts that stand so now.")] | None = None
    run_id: (
        Annotated[
            str, Meta(min_length=1, max_length=128, pattern="^run_[a-z2-7]{26}$", description="Only items of this run.")
        ]
        | None
    ) = None


def payout_body(view: PayoutView) -> PayoutBody:
    """Put a payout into the API's words."""
    return PayoutBody(
        payout_id=print_id(PAYOUT, view.payout_id),
        seller_account=view.seller_account,
        amount=format_amount(view.amount_minor, view.currency),
        currency=view.currency,
        status=view.status,
        provider=view.provider,
        destination=view.destination,
        run_id=None if view.run_id is None else print_id(PAYOUT_RUN, view.run_id),
        decline_code=view.decline_code,
        provider_reference=view.provider_reference,
        created_at=view.created_at,
        decided_at=view.decided_at,
    )


@post("/v1/payouts", status_code=201)
async def create_payout(request: Request[Any, Any, Any]) -> Answer:
    """Pay a seller out, in whole or in part: never more than is available, and once for each key."""
    asked = await take(request, parse_payout_request)
    gateway, body = asked.gateway, asked.body
    wanted = PayoutRequest(
        seller_account=body.seller_account,
        currency=body.currency,
        amount_minor=None if body.amount is None else parse_amount(body.amount, body.currency),
    )
    made = await gateway.payouts.request(asked.caller, wanted, asked.key)
    if not made.verdict.is_good:
        raise await _refused(gateway, asked.caller, wanted, made.verdict)
    operation_id = operation_id_of(made.payout_id, OperationKind.PAYOUT)
    view = await run_and_read(asked, made, made.payout_id, _read, _is_working, operation_id=operation_id)
    is_replay = made.verdict is PayoutVerdict.EXISTS
    return answer_post(gateway, payout_body(view), is_decided=not _is_working(view), is_replay=is_replay)


async def _refused(gateway: Gateway, caller: Caller, wanted: PayoutRequest, verdict: PayoutVerdict) -> CoatcheckError:
    """Put into words why there is no such payout, and how much there could be."""
    seller, currency = wanted.seller_account, wanted.currency
    if verdict is PayoutVerdict.KEY_REUSED:
        return CoatcheckError(
            ErrorCode.IDEMPOTENCY_KEY_REUSED,
            "This key stands for another payout, for ever. Use a new key for a new payout; to ask again, send the "
            "first request unchanged.",
        )
    balances = await wallet(gateway.store, caller.shop_id, caller.mode, seller)
    available = next((each.payable_minor for each in balances if each.currency == currency), 0)
    put = f"PUT /v1/sellers/{seller}/payout_destination"
    why = {
        PayoutVerdict.NO_DESTINATION: f"There is nowhere to pay {seller}'s {currency} to: {put} says where.",
        PayoutVerdict.COOLING_DOWN: f"{seller}'s destination was changed and cools down: {put.replace('PUT', 'GET')} "
        "says until when.",
        PayoutVerdict.NOTHING_AVAILABLE: f"{seller} has nothing available in {currency}. What is pending is released "
        "later, and what is owed after refunds is kept back.",
        PayoutVerdict.TOO_MUCH: f"That is more than {seller} has available.",
    }[verdict]
    is_amount = verdict in (PayoutVerdict.TOO_MUCH, PayoutVerdict.NOTHING_AVAILABLE)
    told = f"{why} Available: {format_amount(available, currency)} {currency}."
    return CoatcheckError(
        ErrorCode.PAYOUT_NOT_POSSIBLE, told, [Problem("/amount" if is_amount else "/seller_account", why)]
    )


async def _read(gateway: Gateway, payout_id: UUID) -> PayoutView:
    return still_there(await gateway.payouts.read(payout_id), "payout's row is")


def _is_working(view: PayoutView) -> bool:
    return view.status is PayoutStatus.PENDING


@get("/v1/payouts/{payout_id:str}")
async def get_payout(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Show one payout as it stands now."""
    gateway, caller = await caller_of(request)
    parameters_of(request, Parameters)
    printed_id = request.path_params["payout_id"]
    payout_id = parse_id(PAYOUT, printed_id)
    view = None if payout_id is None else await gateway.payouts.read(payout_id)
    return answer(payout_body(own(caller, view, f"payout {printed_id}")))


@get("/v1/payouts")
async def list_payouts(request: Request[Any, Any, Any]) -> Response[bytes]:
    """List payouts, newest first, page by page."""
    gateway, caller = await caller_of(request)
    asked = parameters_of(request, PayoutListParameters)
    list_name = (
        *("payouts", caller.shop_id.hex, caller.mode.value, asked.seller_account or ""),
        *(asked.status or "", asked.run_id or ""),
    )
    place = parse_cursor(asked.cursor, *list_name)
    query = PayoutQuery(
        shop_id=caller.shop_id,
        mode=caller.mode,
        seller_account=asked.seller_account,
        status=asked.status,
        run_id=None if asked.run_id is None else parse_id(PAYOUT_RUN, asked.run_id) or UUID(int=0),
    )
    before = None if place is None else (place.at, place.row_id)
    found = await gateway.payouts.find(query, before=before, limit=asked.limit + 1)
    shown = found[: asked.limit]
    last = Place(shown[-1].created_at, shown[-1].payout_id) if len(found) > len(shown) else None
    bodies = [payout_body(view) for view in shown]
    return answer(PayoutListBody(bodies, None if last is None else print_cursor(last, *list_name)))
