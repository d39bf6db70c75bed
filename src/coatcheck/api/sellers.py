"""`/v1/sellers/{seller_account}`: what a seller has, per currency and at any moment, and the terms it matures under."""

import re
from datetime import datetime
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, get, put
from msgspec import Meta

from coatcheck.api.edge import headers_of, read_body, require_json
from coatcheck.api.gateway import Gateway
from coatcheck.api.payments import Amount
from coatcheck.api.questions import Parameters, answer, caller_of, name_in_path, parameters_of
from coatcheck.errors import CoatcheckError, ErrorCode, Problem
from coatcheck.ids import KEY, print_id
from coatcheck.money import format_amount
from coatcheck.pan import contains_card_number_in
from coatcheck.seller_terms import Seller, SellerTerms, Terms, read_terms, set_terms, usual_terms_of
from coatcheck.shops import Caller
from coatcheck.strict_json import decode_strict
from coatcheck.wallets import Wallet, wallet, wallet_at

_NAME_PLACE = 2  # /v1/sellers/{seller_account}/wallet
_A_FIELD = re.compile(r"field `(\w+)`| - at `\$\.(\w+)`$")
_HoldDays = Annotated[
    int,
    Meta(ge=0, le=730, description="Days from the settlement of a charge until it can be paid.", examples=[7]),
]
_ReserveBasisPoints = Annotated[
    int,
    Meta(
        ge=0,
        le=10_000,
        description="What is kept in reserve of each release, in hundredths of a percent.",
        examples=[500],
    ),
]
_ReserveDays = Annotated[
    int, Meta(ge=0, le=730, description="Days that the reserve is kept after the charge was due.", examples=[90])
]


class WalletParameters(Parameters, frozen=True, kw_only=True):
    """When."""

    at: (
        Annotated[
            datetime,
            Meta(
                tz=True,
                description="The wallet as it was at this moment; now when left out.",
                examples=["2026-01-31T23:59:59Z"],
            ),
        ]
        | None
    ) = None


class WalletBalanceBody(msgspec.Struct, frozen=True):
    """A seller's money of one currency; pending may be negative after refunds and chargebacks."""

    currency: str
    pending: Amount
    available: Amount
    in_payout: Amount
    reserve: Annotated[Amount, Meta(description="What is kept of releases for a while.")]


class WalletBody(msgspec.Struct, frozen=True):
    """What a seller earned and cannot be paid yet, can be paid, is being paid, and what is kept in reserve."""

    seller_account: str
    balances: list[WalletBalanceBody]


class SetSellerTerms(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a seller's money can be paid, and what of it is kept in reserve: for what is settled from now on."""

    hold_days: _HoldDays
    reserve_basis_points: _ReserveBasisPoints
    reserve_days: _ReserveDays


class SellerTermsBody(msgspec.Struct, frozen=True, kw_only=True):
    """The terms that hold for a seller: those set for him, or the gateway's usual ones."""

    seller_account: str
    hold_days: int
    reserve_basis_points: int
    reserve_days: int
    set_by: Annotated[
        str | None,
        Meta(description="Who set them; null: nobody has.", examples=["key key_dpgs5zdhcp7p3nlvvnjrb7o7cq"]),
    ]
    set_at: datetime | None


@get("/v1/sellers/{seller_account:str}/wallet")
async def get_wallet(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Show a seller's wallet, by the shop's own id of the seller: as it is, or as it was at a moment."""
    gateway, caller = await caller_of(request)
    moment = parameters_of(request, WalletParameters).at
    name = name_in_path(request, _NAME_PLACE)
    balances = [] if name is None else await _balances(gateway, caller, name, moment)
    if name is None or not balances:
        named = "of that name" if name is None else name
        when = "" if moment is None else f" at {moment:%Y-%m-%dT%H:%M:%SZ}"
        raise CoatcheckError(
            ErrorCode.NOT_FOUND,
            f"Seller {named} has no wallet in shop {caller.shop_name}, {caller.mode} mode{when}: it is opened by the "
            "first payment order.",
        )
    return answer(WalletBody(name, [_balance_body(balance) for balance in balances]))


async def _balances(gateway: Gateway, caller: Caller, name: str, moment: datetime | None) -> list[Wallet]:
    if moment is None:
        return await wallet(gateway.store, caller.shop_id, caller.mode, name)
    if moment > gateway.clock.now():
        why = "Write a moment that has come: what a wallet will be nobody knows."
        raise CoatcheckError(ErrorCode.INVALID_REQUEST, f"query parameter at: {why}", [Problem("/at", why)])
    return await wallet_at(gateway.store, caller.shop_id, caller.mode, name, moment)


def _balance_body(balance: Wallet) -> WalletBalanceBody:
    return WalletBalanceBody(
        balance.currency,
        format_amount(balance.pending_minor, balance.currency),
        format_amount(balance.available_minor, balance.currency),
        format_amount(balance.in_payout_minor, balance.currency),
        format_amount(balance.reserve_minor, balance.currency),
    )


@get("/v1/sellers/{seller_account:str}/terms")
async def get_seller_terms(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Show when a seller's money can be paid, and what of it is kept in reserve."""
    gateway, caller = await caller_of(request)
    parameters_of(request, Parameters)
    return answer(await _terms_body(gateway, caller, _name_of(request)))


@put("/v1/sellers/{seller_account:str}/terms", status_code=200)
async def put_seller_terms(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Set a seller's terms, for what is settled from now on; the same again changes nothing."""
    gateway, caller = await caller_of(request)
    parameters_of(request, Parameters)
    name = _name_of(request)
    asked = await _take_terms(request, gateway)
    terms = Terms(asked.hold_days, asked.reserve_basis_points, asked.reserve_days)
    by = f"key {print_id(KEY, caller.key_id)}"
    await set_terms(gateway.store, gateway.clock, Seller(caller.shop_id, caller.mode, name), terms, by=by)
    return answer(await _terms_body(gateway, caller, name))


def _name_of(request: Request[Any, Any, Any]) -> str:
    name = name_in_path(request, _NAME_PLACE)
    if name is None or ":" in name:  # as payment orders name their sellers
        raise CoatcheckError(ErrorCode.NOT_FOUND, "No seller can have that name.")
    return name


async def _terms_body(gateway: Gateway, caller: Caller, name: str) -> SellerTermsBody:
    usual = usual_terms_of(gateway.settings)
    found: SellerTerms = await read_terms(gateway.store, Seller(caller.shop_id, caller.mode, name), usual)
    return SellerTermsBody(
        seller_account=name,
        hold_days=found.terms.hold_days,
        reserve_basis_points=found.terms.reserve_basis_points,
        reserve_days=found.terms.reserve_days,
        set_by=found.set_by,
        set_at=found.set_at,
    )


async def _take_terms(request: Request[Any, Any, Any], gateway: Gateway) -> SetSellerTerms:
    """Read a body strictly. It needs no key: terms that are set again are as they were."""
    require_json(headers_of(request.scope, b"content-type")[0])
    settings = gateway.settings
    raw = await read_body(request.receive, limit_bytes=settings.body_limit_bytes, deadline_s=settings.body_deadline_s)
    if contains_card_number_in(raw):
        raise CoatcheckError(ErrorCode.CARD_NUMBER_REFUSED, "Never send card numbers. Nothing of the request was kept.")
    document = decode_strict(raw, depth=settings.body_depth)
    try:
        return msgspec.convert(document, SetSellerTerms)
    except msgspec.ValidationError as error:
        found = _A_FIELD.search(str(error))
        pointer = "" if found is None else f"/{found[1] or found[2]}"
        raise CoatcheckError(ErrorCode.INVALID_REQUEST, f"{error}.", [Problem(pointer, f"{error}.")]) from None
