"""`/v1/reconciliations`: settlement files and bank statements against the books, and the ageing of what is left."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, get, post
from litestar.response import Stream
from msgspec import Meta

from coatcheck.api.cursors import parse_cursor, print_cursor
from coatcheck.api.edge import JSON, REPLAYED, encode, headers_of
from coatcheck.api.gateway import Gateway
from coatcheck.api.payment_list import NextCursor
from coatcheck.api.payments import Amount
from coatcheck.api.questions import PageParameters, Parameters, answer, caller_of, parameters_of
from coatcheck.api.uploads import file_name_of, plain_name, uploaded
from coatcheck.dead_letters import person_of
from coatcheck.errors import CoatcheckError, ErrorCode, Problem
from coatcheck.ids import OPERATION, parse_id, print_id
from coatcheck.ledger import AccountKind
from coatcheck.money import format_amount
from coatcheck.pan import contains_card_number_in
from coatcheck.reconciliation.ageing import AgedAccount, AgedBreaks, AgedPart, Ageing, read_ageing
from coatcheck.reconciliation.files import Source
from coatcheck.reconciliation.lines import FileRefusedError
from coatcheck.reconciliation.printing import STYLE_DIGEST, amount_of, csv_head, csv_rows, html_page
from coatcheck.reconciliation.report import (
    BREAK,
    MISMATCHES_MOST,
    RECONCILIATION,
    Break,
    CurrencyTotal,
    Report,
    Summary,
    breaks_of,
    find_files,
    read_report,
    whose_file,
)
from coatcheck.reporting.read_models import NEWEST, Place

CSV, HTML = "text/csv", "text/html"
_PAGE_HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{STYLE_DIGEST}'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
_UNNAMED = "upload"

ReconciliationId = Annotated[str, Meta(examples=["rec_dpgs5zdhcp7p3nlvvnjrb7o7cq"])]


class ReportFormat(StrEnum):
    """What a report is wanted as."""

    JSON = "json"
    CSV = "csv"
    HTML = "html"


_BY_MEDIA_TYPE = {JSON: ReportFormat.JSON, CSV: ReportFormat.CSV, HTML: ReportFormat.HTML}


class UploadParameters(Parameters, frozen=True, kw_only=True):
    """What may be said of a file beside its content."""

    name: (
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=200,
                description="What you call the file; without it the name in `Content-Disposition`. It decides nothing.",
                examples=["settlement-2026-11-20.csv"],
            ),
        ]
        | None
    ) = None


class ReconciliationParameters(Parameters, frozen=True, kw_only=True):
    """In which form a report is wanted."""

    format: (
        Annotated[ReportFormat, Meta(description="JSON, CSV or one HTML page; without it, what `Accept` asks for.")]
        | None
    ) = None


class CurrencyTotalBody(msgspec.Struct, frozen=True, kw_only=True):
    """One currency of a file. Amounts of different currencies are never added."""

    currency: str
    lines: int
    matched: Annotated[int, Meta(description="Lines that agree with the books; the others are breaks.")]
    settled: Annotated[int, Meta(description="Breaks of lines that are closed by now.")]
    gross: Amount
    fees: Amount
    paid_out: Annotated[Amount, Meta(description="Of a bank's statement: payouts that were due, and have arrived.")]


class MismatchBody(msgspec.Struct, frozen=True, kw_only=True):
    """A break: where the file and the books differ. Amounts are null where one side has none."""

    break_id: Annotated[str, Meta(examples=["brk_dpgs5zdhcp7p3nlvvnjrb7o7cq"])]
    kind: Annotated[str, Meta(examples=["missing_here"])]
    line: Annotated[int | None, Meta(description="The line of the file, from 1; null: of the whole file.")]
    batch: str | None
    operation_id: str | None
    currency: Annotated[str | None, Meta(description="Null where the two sides are counts, not amounts.")]
    ours: str | None
    the_files: str | None
    in_suspense: Annotated[str, Meta(description="What of it stands in the suspense account until it is closed.")]
    about: str
    opened_at: datetime
    closed_at: datetime | None
    closed_by: str | None
    reason: str | None


class ReconciliationSummaryBody(msgspec.Struct, frozen=True, kw_only=True):
    """A file that was taken, and how many breaks it has."""

    reconciliation_id: ReconciliationId
    name: str
    provider: Annotated[str, Meta(description="Whose file it is; `bank` for a bank's statement.")]
    format: str
    lines: int
    breaks: int
    open_breaks: int
    received_at: datetime
    received_by: str


class ReconciliationBody(ReconciliationSummaryBody, frozen=True, kw_only=True):
    """What became of a file: totals by currency, and where it differs from the books."""

    matched: int
    totals: list[CurrencyTotalBody]
    mismatches: Annotated[
        list[MismatchBody], Meta(description=f"The first {MISMATCHES_MOST} of `breaks`; the CSV has all.")
    ]


class ReconciliationListBody(msgspec.Struct, frozen=True):
    """Files that were taken, newest first."""

    reconciliations: list[ReconciliationSummaryBody]
    next_cursor: NextCursor


class AgedAmountsBody(msgspec.Struct, frozen=True):
    """Sums by age, in days."""

    days_0_to_1: Amount
    days_2_to_5: Amount
    days_6_to_30: Amount
    days_over_30: Amount


class AgedPartBody(msgspec.Struct, frozen=True):
    """What a part of a balance is made of: how many, and their sums by age."""

    part: Annotated[str, Meta(examples=["unsettled_records"])]
    items: int
    aged: AgedAmountsBody


class AgedAccountBody(msgspec.Struct, frozen=True):
    """A clearing account. `aged` and `undated` together are its balance."""

    name: Annotated[str, Meta(examples=["psp:stripe:receivable"])]
    kind: AccountKind
    currency: str
    balance: Amount
    aged: AgedAmountsBody
    undated: Annotated[Amount, Meta(description="What no item says the age of; nothing is guessed.")]
    parts: list[AgedPartBody]


class AgedBreaksBody(msgspec.Struct, frozen=True):
    """The open breaks of one kind: how many, by age in days."""

    kind: Annotated[str, Meta(examples=["missing_here"])]
    days_0_to_1: int
    days_2_to_5: int
    days_6_to_30: int
    days_over_30: int


class AgeingBody(msgspec.Struct, frozen=True):
    """How long what stands in the clearing accounts has stood there, and the open breaks."""

    at: datetime
    accounts: list[AgedAccountBody]
    breaks: list[AgedBreaksBody]


@post("/v1/reconciliations", status_code=201)
async def create_reconciliation(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Hold a settlement file or a bank's statement against the books.

    Send the file itself as the body, in whatever format it came. What the PSP paid out and kept, or what has arrived at
    the bank, is posted; every difference is a break. All of a file or nothing is taken. It is known by its content: the
    same file again changes nothing, and is answered with what became of it.
    """
    gateway, caller = await caller_of(request)
    asked = parameters_of(request, UploadParameters)
    disposition = headers_of(request.scope, b"content-disposition")[0]
    if disposition is not None and contains_card_number_in(disposition):
        raise CoatcheckError(ErrorCode.CARD_NUMBER_REFUSED, "Never send card numbers, not even in a file's name.")
    name = plain_name(asked.name) or file_name_of(disposition) or _UNNAMED
    settings = gateway.settings
    async with uploaded(
        request.receive, limit_bytes=settings.settlement_limit_bytes, deadline_s=settings.settlement_deadline_s
    ) as path:
        source = Source(path=path, name=name, shop_id=caller.shop_id, mode=caller.mode, brought_by=person_of(caller))
        try:
            report = await gateway.arrivals.take(source)
        except FileRefusedError as refusal:
            raise _refused(name, refusal) from refusal
    headers = REPLAYED if report.is_repeat else {}
    return Response(encode(reconciliation_body(report)), status_code=201, media_type=JSON, headers=headers)


def _refused(name: str, refusal: FileRefusedError) -> CoatcheckError:
    told = refusal.problem
    if contains_card_number_in(told.encode()):  # it may quote the file
        told = "it cannot be read as its format says"
    where = "" if refusal.line_no is None else f"/{refusal.line_no}"
    line = "" if refusal.line_no is None else f"line {refusal.line_no}: "
    return CoatcheckError(ErrorCode.FILE_REFUSED, f"{name} was refused: {line}{told}.", [Problem(where, told)])


@get("/v1/reconciliations")
async def list_reconciliations(request: Request[Any, Any, Any]) -> Response[bytes]:
    """List the files that were taken, newest first, page by page."""
    gateway, caller = await caller_of(request)
    asked = parameters_of(request, PageParameters)
    list_name = ("reconciliations", caller.shop_id.hex, caller.mode)
    place = parse_cursor(asked.cursor, *list_name) or NEWEST
    found = await find_files(
        gateway.store, caller.shop_id, caller.mode, older_than=(place.at, place.row_id), limit=asked.limit + 1
    )
    shown = found[: asked.limit]
    last = None
    if len(found) > asked.limit:
        last = print_cursor(Place(shown[-1].received_at, shown[-1].file_id), *list_name)
    return answer(ReconciliationListBody([ReconciliationSummaryBody(**_summary_of(each)) for each in shown], last))


@get("/v1/reconciliations/{reconciliation_id:str}")
async def get_reconciliation(request: Request[Any, Any, Any]) -> Response[Any]:
    """Show what became of a file, as JSON, as CSV for a spreadsheet, or as one HTML page.

    The CSV has a row for each currency's totals and for each break; what a spreadsheet might compute is text.
    """
    gateway, caller = await caller_of(request)
    asked = parameters_of(request, ReconciliationParameters)
    printed = request.path_params["reconciliation_id"]
    file_id = parse_id(RECONCILIATION, printed)
    if file_id is None or await whose_file(gateway.store, file_id) != (caller.shop_id, caller.mode):
        raise CoatcheckError(ErrorCode.NOT_FOUND, f"No reconciliation {printed} in this shop and mode.")
    report = await read_report(gateway.store, file_id, is_repeat=True)
    match asked.format or _wanted(headers_of(request.scope, b"accept")[0]):
        case ReportFormat.CSV:
            headers = {"Content-Disposition": f'attachment; filename="{print_id(RECONCILIATION, file_id)}.csv"'}
            return Stream(_csv_of(gateway, report), media_type=CSV, headers=headers)
        case ReportFormat.HTML:
            return Response(html_page(report).encode(), media_type=HTML, headers=_PAGE_HEADERS)
    return answer(reconciliation_body(report))


async def _csv_of(gateway: Gateway, report: Report) -> AsyncIterator[bytes]:
    yield csv_head(report).encode()
    async for breaks in breaks_of(gateway.store, report.file_id):
        yield csv_rows(breaks).encode()


def _wanted(accept: bytes | None) -> ReportFormat:
    """Find the first form that a caller names and that there is; JSON where there is none."""
    named = [part.partition(";")[0].strip().lower() for part in (accept or b"").decode("latin-1").split(",")]
    return next((_BY_MEDIA_TYPE[each] for each in named if each in _BY_MEDIA_TYPE), ReportFormat.JSON)


@get("/v1/reports/ageing")
async def get_ageing(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Show how long what stands in the clearing accounts has stood there, what it is, and the open breaks by age."""
    gateway, caller = await caller_of(request)
    parameters_of(request, Parameters)
    return answer(ageing_body(await read_ageing(gateway.store, gateway.clock, caller.shop_id, caller.mode)))


def reconciliation_body(report: Report) -> ReconciliationBody:
    """Put a report into the API's words."""
    return ReconciliationBody(
        **_summary_of(report),
        matched=report.matched,
        totals=[_total_body(total) for total in report.totals],
        mismatches=[_mismatch_body(each) for each in report.mismatches],
    )


def _summary_of(summary: Summary) -> dict[str, Any]:
    return {
        "reconciliation_id": print_id(RECONCILIATION, summary.file_id),
        "name": summary.name,
        "provider": summary.provider,
        "format": summary.format,
        "lines": summary.lines,
        "breaks": summary.breaks,
        "open_breaks": summary.open_breaks,
        "received_at": summary.received_at,
        "received_by": summary.received_by,
    }


def _total_body(total: CurrencyTotal) -> CurrencyTotalBody:
    return CurrencyTotalBody(
        currency=total.currency,
        lines=total.lines,
        matched=total.matched,
        settled=total.settled,
        gross=format_amount(total.gross_minor, total.currency),
        fees=format_amount(total.fee_minor, total.currency),
        paid_out=format_amount(total.payout_minor, total.currency),
    )


def _mismatch_body(each: Break) -> MismatchBody:
    return MismatchBody(
        break_id=print_id(BREAK, each.break_id),
        kind=each.kind,
        line=each.line_no,
        batch=each.batch,
        operation_id=None if each.operation_id is None else print_id(OPERATION, each.operation_id),
        currency=each.currency,
        ours=amount_of(each.expected_minor, each.currency),
        the_files=amount_of(each.stated_minor, each.currency),
        in_suspense=amount_of(each.suspense_minor, each.currency) or "0",
        about=each.detail,
        opened_at=each.opened_at,
        closed_at=each.closed_at,
        closed_by=each.closed_by,
        reason=each.reason,
    )


def ageing_body(ageing: Ageing) -> AgeingBody:
    """Put the ageing into the API's words."""
    return AgeingBody(
        ageing.at,
        [_account_body(account) for account in ageing.accounts],
        [_breaks_body(breaks) for breaks in ageing.breaks],
    )


def _account_body(account: AgedAccount) -> AgedAccountBody:
    return AgedAccountBody(
        account.name,
        account.kind,
        account.currency,
        format_amount(account.balance_minor, account.currency),
        _amounts_body(account.aged_minor, account.currency),
        format_amount(account.undated_minor, account.currency),
        [_part_body(part, account.currency) for part in account.parts],
    )


def _part_body(part: AgedPart, currency: str) -> AgedPartBody:
    return AgedPartBody(part.part, part.items, _amounts_body(part.aged_minor, currency))


def _amounts_body(aged_minor: Sequence[int], currency: str) -> AgedAmountsBody:
    return AgedAmountsBody(*[format_amount(minor, currency) for minor in aged_minor])


def _breaks_body(breaks: AgedBreaks) -> AgedBreaksBody:
    return AgedBreaksBody(breaks.kind, *breaks.aged)
