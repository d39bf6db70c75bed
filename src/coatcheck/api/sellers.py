"""`GET /v1/sellers/{seller_account}/wallet`: what a seller has, per currency."""

from typing import Any

import msgspec
from litestar import Request, Response, get

from coatcheck.api.payments import Amount
from coatcheck.api.questions import Parameters, answer, caller_of, name_in_path, parameters_of
from coatcheck.errors import CoatcheckError, ErrorCode
from coatcheck.money import format_amount
from coatcheck.wallets import wallet

_NAME_PLACE = 2  # /v1/sellers/{seller_account}/wallet


class WalletBalanceBody(msgspec.Struct, frozen=True):
    """A seller's money of one currency; pending may be negative after refunds and chargebacks."""

    currency: str
    pending: Amount
    available: Amount
    in_payout: Amount


class WalletBody(msgspec.Struct, frozen=True):
    """What a seller earned and cannot be paid yet, can be paid, and is being paid."""

    seller_account: str
    balances: list[WalletBalanceBody]


@get("/v1/sellers/{seller_account:str}/wallet")
async def get_wallet(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Show a seller's wallet, by the shop's own id of the seller."""
    gateway, caller = await caller_of(request)
    parameters_of(request, Parameters)
    name = name_in_path(request, _NAME_PLACE)
    balances = [] if name is None else await wallet(gateway.store, caller.shop_id, caller.mode, name)
    if name is None or not balances:
        named = "of that name" if name is None else name
        raise CoatcheckError(
            ErrorCode.NOT_FOUND,
            f"Seller {named} has no wallet in shop {caller.shop_name}, {caller.mode} mode: it is opened by the first "
            "payment order.",
        )
    return answer(
        WalletBody(
            name,
            [
                WalletBalanceBody(
                    balance.currency,
                    format_amount(balance.pending_minor, balance.currency),
                    format_amount(balance.available_minor, balance.currency),
                    format_amount(balance.in_payout_minor, balance.currency),
                )
                for balance in balances
            ],
        )
    )
