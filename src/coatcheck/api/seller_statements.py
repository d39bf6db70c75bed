"""`GET /v1/sellers/{seller_account}/statement`: a period of a seller's money, as JSON, CSV or PDF."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, get
from msgspec import Meta

from coatcheck.api.payments import Amount
from coatcheck.api.questions import Parameters, answer, caller_of, name_in_path, parameters_of, wrong_parameter
from coatcheck.errors import CoatcheckError, ErrorCode
from coatcheck.money import format_amount
from coatcheck.reporting.seller_statements import (
    Balances,
    CurrencyStatement,
    Statement,
    TooLongError,
    csv_of,
    read_statement,
)
from coatcheck.states import Mode

CSV, PDF = "text/csv", "application/pdf"
_NAME_PLACE = 2  # /v1/sellers/{seller_account}/statement
_SCRIBE = ThreadPoolExecutor(1, thread_name_prefix="statement")


class StatementFormat(StrEnum):
    """How a statement is written."""

    JSON = "json"
    CSV = "csv"
    PDF = "pdf"


class SellerStatementParameters(Parameters, frozen=True, kw_only=True):
    """The period of a statement, and how it is written."""

    from_: Annotated[
        datetime, Meta(tz=True, description="Where the period begins.", examples=["2026-05-01T00:00:00Z"])
    ] = msgspec.field(name="from")
    to: (
        Annotated[
            datetime,
            Meta(
                tz=True, description="Where it ends, exclusive; now when left out.", examples=["2026-06-01T00:00:00Z"]
            ),
        ]
        | None
    ) = None
    format: Annotated[StatementFormat, Meta(description="How it is written.")] = StatementFormat.JSON


class BalancesBody(msgspec.Struct, frozen=True):
    """What the platform owes a seller, or, of a movement, what it changed."""

    pending: Amount
    available: Amount
    in_payout: Amount
    reserved: Amount
    total: Amount


class MovementBody(msgspec.Struct, frozen=True):
    """One movement of a seller's accounts."""

    at: datetime
    kind: Annotated[str, Meta(description="What it was for: a transfer's kind.", examples=["charge"])]
    about: Annotated[str, Meta(description="Its payment or payout.")]
    transfer_id: str
    change: BalancesBody
    balance: Annotated[Amount, Meta(description="All there was after it.")]


class CurrencyStatementBody(msgspec.Struct, frozen=True):
    """One currency's part: opening + movements = closing."""

    currency: str
    opening: BalancesBody
    movements: list[MovementBody]
    closing: BalancesBody


class SellerStatementBody(msgspec.Struct, frozen=True, rename={"from_": "from"}):
    """A seller's statement: opening balance, every movement, closing balance, for each currency."""

    seller_account: str
    mode: Mode
    from_: datetime
    to: datetime
    currencies: list[CurrencyStatementBody]


@get("/v1/sellers/{seller_account:str}/statement")
async def get_seller_statement(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Write a seller's statement of a period: opening balance, every movement, closing balance."""
    gateway, caller = await caller_of(request)
    asked = parameters_of(request, SellerStatementParameters)
    name = name_in_path(request, _NAME_PLACE)
    ends_at = asked.to or gateway.clock.now()
    if ends_at <= asked.from_:
        raise wrong_parameter("to", "Write a time after `from`.")
    try:
        statement = (
            None
            if name is None
            else await read_statement(
                gateway.store, caller.shop_id, caller.mode, name, begins_at=asked.from_, ends_at=ends_at
            )
        )
    except TooLongError as error:
        raise wrong_parameter("from", str(error)) from None
    if statement is None:
        named = "of that name" if name is None else name
        raise CoatcheckError(
            ErrorCode.NOT_FOUND, f"Seller {named} has no accounts in shop {caller.shop_name}, {caller.mode} mode."
        )
    return await _written(statement, asked.format)


async def _written(statement: Statement, wanted: StatementFormat) -> Response[bytes]:
    if wanted is StatementFormat.JSON:
        return answer(statement_body(statement))
    if wanted is StatementFormat.CSV:
        return _file(csv_of(statement).encode(), CSV, statement)
    from coatcheck.reporting.seller_statements.pdf_file import pdf_of  # noqa: PLC0415 - a quarter of a second of every start

    # It takes processor time, and the loop has payments to run: beside it, and one at a time.
    try:
        raw = await asyncio.get_running_loop().run_in_executor(_SCRIBE, pdf_of, statement)
    except TooLongError as error:
        raise wrong_parameter("format", str(error)) from None
    return _file(raw, PDF, statement)


def _file(raw: bytes, media_type: str, statement: Statement) -> Response[bytes]:
    ending = media_type.rpartition("/")[2]
    # The seller's name is the shop's text, and has no place in a header.
    name = f"statement-{statement.begins_at:%Y-%m-%d}-{statement.ends_at:%Y-%m-%d}.{ending}"
    return Response(raw, media_type=media_type, headers={"Content-Disposition": f'attachment; filename="{name}"'})


def statement_body(statement: Statement) -> SellerStatementBody:
    """Put a statement into the API's words."""
    return SellerStatementBody(
        statement.seller_account,
        statement.mode,
        statement.begins_at,
        statement.ends_at,
        [_part_body(part) for part in statement.currencies],
    )


def _part_body(part: CurrencyStatement) -> CurrencyStatementBody:
    currency = part.currency
    return CurrencyStatementBody(
        currency,
        _balances_body(part.opening, currency),
        [
            MovementBody(
                each.at,
                each.kind,
                each.about,
                each.transfer_id,
                _balances_body(each.change, currency),
                format_amount(each.balance.total_minor, currency),
            )
            for each in part.movements
        ],
        _balances_body(part.closing, currency),
    )


def _balances_body(balances: Balances, currency: str) -> BalancesBody:
    return BalancesBody(
        format_amount(balances.pending_minor, currency),
        format_amount(balances.available_minor, currency),
        format_amount(balances.in_payout_minor, currency),
        format_amount(balances.reserved_minor, currency),
        format_amount(balances.total_minor, currency),
    )
