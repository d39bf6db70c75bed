"""`GET /v1/ledger/trial_balance`: every account of a shop and mode, and the proof that the books agree."""

from typing import Annotated, Any

import msgspec
from litestar import Request, Response, get
from msgspec import Meta

from coatcheck.api.payments import Amount
from coatcheck.api.questions import Parameters, answer, caller_of, parameters_of
from coatcheck.ledger import AccountKind, Balance, Ledger, TrialBalance
from coatcheck.money import format_amount


class AccountBody(msgspec.Struct, frozen=True):
    """A ledger account. `balance` counts on the side that makes the account grow; pending is what holds may post."""

    name: Annotated[str, Meta(examples=["seller:seller-42:pending"])]
    kind: AccountKind
    debits: Amount
    credits: Amount
    debits_pending: Amount
    credits_pending: Amount
    balance: Amount


class CurrencyBody(msgspec.Struct, frozen=True):
    """The accounts of one currency. Debits and credits are equal, or the books are wrong."""

    currency: str
    debits: Amount
    credits: Amount
    accounts: list[AccountBody]


class TrialBalanceBody(msgspec.Struct, frozen=True):
    """The trial balance, one part per currency: amounts of different currencies are never added."""

    currencies: list[CurrencyBody]


@get("/v1/ledger/trial_balance")
async def get_trial_balance(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Show every ledger account of the shop, with the totals per currency."""
    gateway, caller = await caller_of(request)
    parameters_of(request, Parameters)
    balances = await Ledger(gateway.store).trial_balance(caller.shop_id, caller.mode)
    return answer(TrialBalanceBody([_currency_body(balance) for balance in balances]))


def _currency_body(balance: TrialBalance) -> CurrencyBody:
    return CurrencyBody(
        balance.currency,
        format_amount(balance.total_debits_minor, balance.currency),
        format_amount(balance.total_credits_minor, balance.currency),
        [_account_body(account, balance.currency) for account in balance.accounts],
    )


def _account_body(account: Balance, currency: str) -> AccountBody:
    return AccountBody(
        account.name,
        account.kind,
        format_amount(account.debits_posted_minor, currency),
        format_amount(account.credits_posted_minor, currency),
        format_amount(account.debits_pending_minor, currency),
        format_amount(account.credits_pending_minor, currency),
        format_amount(account.balance_minor, currency),
    )
