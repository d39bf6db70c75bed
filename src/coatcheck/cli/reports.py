"""`reports`: the books of a shop, on the terminal or for another program."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click

from coatcheck.cli.failures import UnusableError
from coatcheck.cli.opening import settings_of, with_store
from coatcheck.cli.options import Tool, with_config
from coatcheck.cli.tables import print_table
from coatcheck.cli.worlds import shop_named

if TYPE_CHECKING:
    from uuid import UUID

    import msgspec

    from coatcheck.reporting.account_statements import AccountStatements
    from coatcheck.reporting.reports import Period
    from coatcheck.states import Mode
    from coatcheck.store import Store

_Result = TypeVar("_Result")
_DAY = click.DateTime(["%Y-%m-%d"])
_MOMENT = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S"])
_PAGE = 1_000


@click.group(cls=Tool, short_help="Statements, trial balance, revenue, fees and payment volumes.")
def reports() -> None:
    """Show what the books say. Times and days are UTC; amounts of different currencies are never added.

    The same is served by the API at /v1/ledger and /v1/reports. `coatcheck export` has every transfer.
    """


def _with_world(command: Callable[..., _Result]) -> Callable[..., _Result]:
    for option in (
        click.option(
            "--format",
            "form",
            type=click.Choice(["table", "csv", "json"]),
            default="table",
            show_default=True,
            help="For people, for a spreadsheet or for a program.",
        ),
        click.option("--live", is_flag=True, help="Of live mode; without it, of test mode."),
        click.option("--shop", required=True, metavar="NAME", help="Whose books."),
    ):
        command = option(command)
    return with_config(command)


def _with_period(command: Callable[..., _Result]) -> Callable[..., _Result]:
    for option in (
        click.option(
            "--granularity",
            type=click.Choice(["day", "month"]),
            default="day",
            show_default=True,
            help="What a row sums up.",
        ),
        click.option("--to", "until", required=True, type=_DAY, metavar="DAY", help="The day before which it ends."),
        click.option("--from", "since", required=True, type=_DAY, metavar="DAY", help="The first day."),
    ):
        command = option(command)
    return _with_world(command)


@reports.command("trial-balance", short_help="Every account, now or at any moment.")
@click.option("--at", type=_MOMENT, metavar="TIME", help="As the books stood when this moment began (UTC).")
@_with_world
def trial_balance(*, at: datetime | None, shop: str, live: bool, form: str, config: Path | None) -> int:
    """Show every account with its debits and credits. Per currency both are the same, or the books are wrong.

    \b
    Example:
      coatcheck reports trial-balance --shop hats --at 2026-12-01
    """  # noqa: D301

    async def read(statements: "AccountStatements", shop_id: "UUID", mode: "Mode") -> "msgspec.Struct":
        from coatcheck.api.ledger import trial_balance_body  # noqa: PLC0415

        standings, totals = await statements.standings(shop_id, mode, at=_utc(at))
        return trial_balance_body(standings, totals)

    body: Any = _of_statements(config, shop, live, read)
    names = ("currency", "account", "debits", "credits", "balance")
    rows = [
        [part.currency, account.name, account.debits, account.credits, account.balance]
        for part in body.currencies
        for account in part.accounts
    ]
    if form == "table":
        rows += [[part.currency, "all accounts", part.debits, part.credits, ""] for part in body.currencies]
    _show(form, body, names, rows)
    return 0


@reports.command(short_help="The transfers of one account, with the balance after each.")
@click.argument("account", metavar="ACCOUNT")
@click.option("--currency", required=True, metavar="CODE", help="Which of the accounts of that name.")
@click.option("--from", "since", type=_MOMENT, metavar="TIME", help="Transfers at or after this moment (UTC).")
@click.option("--to", "until", type=_MOMENT, metavar="TIME", help="Transfers before this moment (UTC).")
@_with_world
def statement(
    *,
    account: str,
    currency: str,
    since: datetime | None,
    until: datetime | None,
    shop: str,
    live: bool,
    form: str,
    config: Path | None,
) -> int:
    """Show the statement of ACCOUNT, such as seller:seller-42:pending; `reports trial-balance` names them all.

    \b
    Example:
      coatcheck reports statement platform:commission --currency EUR --shop hats --from 2026-11-01 --to 2026-12-01
    """  # noqa: D301
    if since is not None and until is not None and until <= since:
        raise click.UsageError("--to is after --from")

    async def read(statements: "AccountStatements", shop_id: "UUID", mode: "Mode") -> "msgspec.Struct":
        from coatcheck.api.statements import statement_body  # noqa: PLC0415

        return statement_body(
            await _whole(statements, (shop_id, mode, account, currency), _utc(since), _utc(until)), None
        )

    body: Any = _of_statements(config, shop, live, read)
    names = ("time (UTC)", "kind", "other account", "debit", "credit", "balance", "transfer")
    rows = [
        [
            *(f"{line.at:%Y-%m-%d %H:%M:%S}", line.kind, line.counter_account, line.debit, line.credit, line.balance),
            str(line.transfer_id),
        ]
        for line in body.lines
    ]
    if form == "table":
        click.echo(f"{body.account}, {body.currency}, as of {body.as_of:%Y-%m-%d %H:%M:%S} UTC")
        click.echo(f"opening balance {body.opening_balance}, closing balance {body.closing_balance}\n")
    _show(form, body, names, rows)
    return 0


async def _whole(
    statements: "AccountStatements",
    account: "tuple[UUID, Mode, str, str]",
    since: datetime | None,
    until: datetime | None,
) -> Any:
    """Read all pages of a statement. What is posted meanwhile is in the closing balance only if its line is here."""
    import msgspec  # noqa: PLC0415

    lines: list[Any] = []
    first, after = None, None
    while True:
        page = await statements.page(account, since=since, until=until, after=after, limit=_PAGE)
        if page is None:
            raise UnusableError(f"no account {account[2]} in {account[3]}: `coatcheck reports trial-balance` has them")
        first = first or page
        lines += page.lines
        if not page.has_more:
            closing = lines[-1].balance_minor if lines else page.closing_minor
            return msgspec.structs.replace(first, lines=lines, closing_minor=closing, has_more=False)
        after = page.lines[-1].at, page.lines[-1].transfer_id


@reports.command(short_help="What was turned over and earned.")
@_with_period
def revenue(**asked: Any) -> int:
    """Show what buyers paid and got back, the commission, and the fees, by period and currency.

    \b
    Example:
      coatcheck reports revenue --shop hats --from 2026-11-01 --to 2026-12-01 --granularity month
    """  # noqa: D301

    async def read(store: "Store", shop_id: "UUID", mode: "Mode", period: "Period") -> "msgspec.Struct":
        from coatcheck.api.reports import revenue_body  # noqa: PLC0415
        from coatcheck.reporting.reports import revenue as report  # noqa: PLC0415

        return revenue_body(await report(store, shop_id, mode, period))

    return _over_period(asked, read)


@reports.command(short_help="What each provider kept.")
@_with_period
def fees(**asked: Any) -> int:
    """Show the fees of each provider, by period and currency.

    \b
    Example:
      coatcheck reports fees --shop hats --from 2026-11-01 --to 2026-12-01 --format csv
    """  # noqa: D301

    async def read(store: "Store", shop_id: "UUID", mode: "Mode", period: "Period") -> "msgspec.Struct":
        from coatcheck.api.reports import fees_body  # noqa: PLC0415
        from coatcheck.reporting.reports import fees as report  # noqa: PLC0415

        return fees_body(await report(store, shop_id, mode, period))

    return _over_period(asked, read)


@reports.command(short_help="How many payment orders came, and how many succeeded.")
@_with_period
def volumes(**asked: Any) -> int:
    """Show payment volumes, success rates and declines, by period, provider and currency.

    \b
    Example:
      coatcheck reports volumes --shop hats --from 2026-11-01 --to 2026-12-01
    """  # noqa: D301

    async def read(store: "Store", shop_id: "UUID", mode: "Mode", period: "Period") -> "msgspec.Struct":
        from coatcheck.api.reports import volumes_body  # noqa: PLC0415
        from coatcheck.reporting.reports import volumes as report  # noqa: PLC0415

        return volumes_body(await report(store, shop_id, mode, period))

    return _over_period(asked, read)


def _over_period(
    asked: dict[str, Any], read: "Callable[[Store, UUID, Mode, Period], Awaitable[msgspec.Struct]]"
) -> int:
    import msgspec  # noqa: PLC0415

    from coatcheck.reporting.reports import Granularity, Period  # noqa: PLC0415

    period = Period(asked["since"].date(), asked["until"].date(), Granularity(asked["granularity"]))
    if period.problem is not None:
        raise click.UsageError(f"--to: {period.problem}")

    async def work(store: "Store") -> "msgspec.Struct":
        return await read(store, *await shop_named(store, asked["shop"], asked["live"]), period)

    body: Any = with_store(settings_of(asked["config"]), work)
    rows = [[_cell(cell) for cell in msgspec.structs.astuple(row)] for row in body.rows]
    _show(asked["form"], body, _columns_of(body), rows)
    return 0


def _columns_of(body: "msgspec.Struct") -> tuple[str, ...]:
    """Name the fields of a report's rows, also where there is no row."""
    import msgspec  # noqa: PLC0415

    (rows,) = [field for field in msgspec.structs.fields(body) if field.name == "rows"]
    row: type[msgspec.Struct] = get_args(rows.type)[0]
    return row.__struct_fields__


def _cell(value: Any) -> str:
    if isinstance(value, list):  # declines
        return ", ".join(f"{each.code or 'no code'}: {each.orders}" for each in value)
    return "-" if value is None else str(value)


def _of_statements(
    config: Path | None,
    shop: str,
    live: bool,  # noqa: FBT001 - click's flag
    read: "Callable[[AccountStatements, UUID, Mode], Awaitable[msgspec.Struct]]",
) -> "msgspec.Struct":
    async def work(store: "Store") -> "msgspec.Struct":
        from coatcheck.clock import SystemClock  # noqa: PLC0415
        from coatcheck.reporting.account_statements import AccountStatements  # noqa: PLC0415

        return await read(AccountStatements(store, SystemClock()), *await shop_named(store, shop, live))

    return with_store(settings_of(config), work)


def _show(form: str, body: "msgspec.Struct", names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    import msgspec  # noqa: PLC0415

    from coatcheck.reporting.exports.cells import csv_line  # noqa: PLC0415

    if form == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(body)).decode())
    elif form == "csv":
        for row in (names, *rows):
            click.echo(csv_line(row), nl=False)
    elif rows:
        print_table(names, rows)
    else:
        click.echo("Nothing moved in that time.")


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=UTC)
