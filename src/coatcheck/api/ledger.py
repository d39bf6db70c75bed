"""`GET /v1/ledger/trial_balance`: every account of a shop and mode, and the proof that the books agree."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, get
from msgspec import UNSET, Meta, UnsetType

from coatcheck.api.cursors import parse_cursor, print_cursor
from coatcheck.api.payment_list import NextCursor
from coatcheck.api.payments import Amount
from coatcheck.api.questions import Parameters, answer, caller_of, parameters_of
from coatcheck.api.statements import place_after, place_of, statements_of
from coatcheck.ledger import AccountKind
from coatcheck.money import format_amount
from coatcheck.reporting.account_statements import Standing, Total


class AccountBody(msgspec.Struct, frozen=True):
    """A ledger account. `balance` counts on the side that makes the account grow; pending is what holds may post."""

    name: Annotated[str, Meta(examples=["seller:seller-42:pending"])]
    kind: AccountKind
    debits: Amount
    credits: Amount
    debits_pending: Annotated[Amount | None, Meta(description="Null for a moment that is past.")]
    credits_pending: Annotated[Amount | None, Meta(description="Null for a moment that is past.")]
    balance: Amount


class CurrencyBody(msgspec.Struct, frozen=True):
    """The accounts of one currency. The totals are of all its accounts, and equal: or the books are wrong."""

    currency: str
    debits: Amount
    credits: Amount
    accounts: list[AccountBody]


class TrialBalanceBody(msgspec.Struct, frozen=True):
    """The trial balance, one part per currency: amounts of different currencies are never added."""

    currencies: list[CurrencyBody]
    next_cursor: NextCursor | UnsetType = UNSET  # only where a limit was asked for: there were no pages at first


class TrialBalanceParameters(Parameters, frozen=True, kw_only=True):
    """The books of which moment, and how much of them; without a limit all of them."""

    at: (
        Annotated[
            datetime,
            Meta(
                tz=True,
                description="The books as they stood when this moment began; without it, as they stand now.",
                examples=["2026-05-01T00:00:00Z"],
            ),
        ]
        | None
    ) = None
    limit: Annotated[int, Meta(ge=1, le=1000, description="The most accounts on the page.", examples=[100])] | None = (
        None
    )
    cursor: (
        Annotated[str, Meta(description="`next_cursor` of the page before, unchanged and with the same `at`.")] | None
    ) = None


@get("/v1/ledger/trial_balance")
async def get_trial_balance(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Show every ledger account of the shop, now or at any moment, with the totals per currency."""
    gateway, caller = await caller_of(request)
    asked = parameters_of(request, TrialBalanceParameters)
    list_name = ("trial_balance", caller.shop_id.hex, caller.mode, str(asked.at))
    after = await place_after(gateway, caller, parse_cursor(asked.cursor, *list_name))
    most = None if asked.limit is None else asked.limit + 1
    found, totals = await statements_of(gateway).standings(
        caller.shop_id, caller.mode, at=asked.at, after=after, limit=most
    )
    shown = found[: asked.limit]
    last = place_of(shown[-1]) if len(found) > len(shown) else None
    more = None if last is None else print_cursor(last, *list_name)
    return answer(trial_balance_body(shown, totals, UNSET if asked.limit is None else more))


def trial_balance_body(
    shown: Sequence[Standing], totals: Sequence[Total], more: str | UnsetType | None = UNSET
) -> TrialBalanceBody:
    """Put accounts, which come by currency, and the totals of their currencies into the API's words."""
    accounts: dict[str, list[AccountBody]] = {}
    for each in shown:
        accounts.setdefault(each.currency, []).append(_account_body(each))
    return TrialBalanceBody(
        [
            CurrencyBody(
                total.currency,
                format_amount(total.debits_minor, total.currency),
                format_amount(total.credits_minor, total.currency),
                accounts[total.currency],
            )
            for total in totals
            if total.currency in accounts
        ],
        more,
    )


def _account_body(account: Standing) -> AccountBody:
    def amount(minor: int) -> str:
        return format_amount(minor, account.currency)

    debits, credits_ = account.debits_pending_minor, account.credits_pending_minor
    return AccountBody(
        name=account.name,
        kind=account.kind,
        debits=amount(account.debits_minor),
        credits=amount(account.credits_minor),
        debits_pending=None if debits is None else amount(debits),
        credits_pending=None if credits_ is None else amount(credits_),
        balance=amount(account.balance_minor),
    )
