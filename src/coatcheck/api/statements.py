"""`/v1/ledger/accounts`: the accounts of a shop, and the statement of each."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import unquote
from uuid import UUID

import msgspec
from litestar import Request, Response, get
from msgspec import Meta

from coatcheck.api.cursors import parse_cursor, print_cursor
from coatcheck.api.gateway import Gateway
from coatcheck.api.payment_list import NextCursor
from coatcheck.api.payments import Amount
from coatcheck.api.questions import PageParameters, answer, caller_of, parameters_of, wrong_parameter
from coatcheck.errors import CoatcheckError, ErrorCode
from coatcheck.ledger import AccountKind
from coatcheck.money import format_amount
from coatcheck.reporting.account_statements import AccountStatements, Standing, Statement
from coatcheck.reporting.read_models import Place
from coatcheck.shops import Caller

CURRENCY_PATTERN = "^[A-Z]{3}$"
_NAME_PLACE = 3  # /v1/ledger/accounts/{account_name}/statement
_NAME = re.compile("[!-~]{1,200}")
_A_TIME = "2026-05-01T00:00:00Z"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class LedgerAccountBody(msgspec.Struct, frozen=True):
    """A ledger account as it stands. `balance` counts on the side that makes the account grow."""

    name: Annotated[str, Meta(examples=["seller:seller-42:pending"])]
    kind: AccountKind
    currency: Annotated[str, Meta(examples=["EUR"])]
    debits: Amount
    credits: Amount
    debits_pending: Annotated[Amount, Meta(description="What holds may still debit.")]
    credits_pending: Annotated[Amount, Meta(description="What holds may still credit.")]
    balance: Amount
    opened_at: datetime


class LedgerAccountListBody(msgspec.Struct, frozen=True):
    """A shop's accounts, by currency and name."""

    accounts: list[LedgerAccountBody]
    next_cursor: NextCursor


class LineBody(msgspec.Struct, frozen=True):
    """A transfer on an account's statement: one of `debit` and `credit` is zero. `balance` is that after it."""

    at: datetime
    transfer_id: UUID
    kind: Annotated[str, Meta(examples=["charge"])]
    counter_account: Annotated[str, Meta(description="The account on the other side.")]
    subject_id: Annotated[UUID, Meta(description="What moved it: a payment, a refund, a settlement file.")]
    debit: Amount
    credit: Amount
    balance: Amount


class StatementBody(msgspec.Struct, frozen=True):
    """A page of an account's statement, oldest first. It has everything that was committed before `as_of`."""

    account: Annotated[str, Meta(examples=["seller:seller-42:pending"])]
    kind: AccountKind
    currency: Annotated[str, Meta(examples=["EUR"])]
    opening_balance: Annotated[Amount, Meta(description="The balance before the first line of the whole period.")]
    closing_balance: Annotated[Amount, Meta(description="The balance after the last line of the whole period.")]
    as_of: datetime
    lines: list[LineBody]
    next_cursor: NextCursor


class StatementParameters(PageParameters, frozen=True, kw_only=True, rename={"since": "from", "until": "to"}):
    """Which statement: one currency, from one moment on and before another."""

    currency: Annotated[
        str,
        Meta(
            min_length=3,
            max_length=3,
            pattern=CURRENCY_PATTERN,
            description="An account has one currency; this says which of the accounts of that name.",
            examples=["EUR"],
        ),
    ]
    since: (
        Annotated[datetime, Meta(tz=True, description="Lines at or after this moment.", examples=[_A_TIME])] | None
    ) = None
    until: Annotated[datetime, Meta(tz=True, description="Lines before this moment.", examples=[_A_TIME])] | None = None


@get("/v1/ledger/accounts")
async def list_accounts(request: Request[Any, Any, Any]) -> Response[bytes]:
    """List the shop's ledger accounts by currency and name, page by page."""
    gateway, caller = await caller_of(request)
    asked = parameters_of(request, PageParameters)
    list_name = ("accounts", caller.shop_id.hex, caller.mode)
    after = await place_after(gateway, caller, parse_cursor(asked.cursor, *list_name))
    found, _ = await statements_of(gateway).standings(caller.shop_id, caller.mode, after=after, limit=asked.limit + 1)
    shown = found[: asked.limit]
    more = print_cursor(place_of(shown[-1]), *list_name) if len(found) > len(shown) else None
    return answer(LedgerAccountListBody([_account_body(each) for each in shown], more))


@get("/v1/ledger/accounts/{account_name:str}/statement")
async def get_statement(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Show the transfers of one ledger account by time, with the balance after each, page by page."""
    gateway, caller = await caller_of(request)
    asked = parameters_of(request, StatementParameters)
    if asked.since is not None and asked.until is not None and asked.until <= asked.since:
        raise wrong_parameter("to", "Write a time after `from`.")
    name = _name_in(request)
    list_name = (
        *("statement", caller.shop_id.hex, caller.mode, name or "", asked.currency),
        *(str(each) for each in (asked.since, asked.until)),
    )
    after = parse_cursor(asked.cursor, *list_name)
    page = None
    if name is not None:
        page = await statements_of(gateway).page(
            (caller.shop_id, caller.mode, name, asked.currency),
            since=asked.since,
            until=asked.until,
            after=None if after is None else (after.at, after.row_id),
            limit=asked.limit,
        )
    if page is None:
        named = "of that name" if name is None else f"{name} in {asked.currency}"
        raise CoatcheckError(ErrorCode.NOT_FOUND, f"No account {named} in shop {caller.shop_name}, {caller.mode} mode.")
    last = Place(page.lines[-1].at, page.lines[-1].transfer_id) if page.has_more else None
    return answer(statement_body(page, None if last is None else print_cursor(last, *list_name)))


def statements_of(gateway: Gateway) -> AccountStatements:
    """Construct what reads statements in a gateway's database."""
    return AccountStatements(gateway.store, gateway.clock)


def place_of(standing: Standing) -> Place:
    """Give an account's place in a list by currency and name: its id alone, which says both."""
    return Place(_EPOCH, standing.account_id)


async def place_after(gateway: Gateway, caller: Caller, place: Place | None) -> tuple[str, str] | None:
    """Find the currency and name that a cursor stands for. Raises CoatcheckError INVALID_CURSOR."""
    if place is None:
        return None
    found = await statements_of(gateway).find(place.row_id, caller.shop_id, caller.mode)
    if found is None:  # an account is never closed, so no cursor of ours names another
        raise CoatcheckError(ErrorCode.INVALID_CURSOR, "Begin again without a cursor.")
    return found


def statement_body(page: Statement, next_cursor: str | None) -> StatementBody:
    """Put a page of a statement into the API's words."""

    def amount(minor: int) -> str:
        return format_amount(minor, page.currency)

    return StatementBody(
        account=page.name,
        kind=page.kind,
        currency=page.currency,
        opening_balance=amount(page.opening_minor),
        closing_balance=amount(page.closing_minor),
        as_of=page.as_of,
        lines=[
            LineBody(
                *(line.at, line.transfer_id, line.kind, line.counter_account, line.subject_id),
                *(amount(line.debit_minor), amount(line.credit_minor), amount(line.balance_minor)),
            )
            for line in page.lines
        ],
        next_cursor=next_cursor,
    )


def _name_in(request: Request[Any, Any, Any]) -> str | None:
    """Read the account's name from the address as sent; None when no name can look like it."""
    segments = [segment for segment in request.scope["raw_path"].split(b"/") if segment]
    name = unquote(segments[_NAME_PLACE].decode("latin-1"))
    return name if _NAME.fullmatch(name) else None


def _account_body(standing: Standing) -> LedgerAccountBody:
    def amount(minor: int | None) -> str:
        return format_amount(minor or 0, standing.currency)

    return LedgerAccountBody(
        name=standing.name,
        kind=standing.kind,
        currency=standing.currency,
        debits=amount(standing.debits_minor),
        credits=amount(standing.credits_minor),
        debits_pending=amount(standing.debits_pending_minor),
        credits_pending=amount(standing.credits_pending_minor),
        balance=amount(standing.balance_minor),
        opened_at=standing.opened_at,
    )
