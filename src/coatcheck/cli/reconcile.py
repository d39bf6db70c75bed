"""`reconcile`: a PSP's settlement file, or a bank's statement, against the books; and how old what is left is."""

import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from coatcheck.cli.failures import UnusableError
from coatcheck.cli.opening import at_desk, settings_of
from coatcheck.cli.options import with_config
from coatcheck.cli.tables import print_table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from msgspec import Struct

    from coatcheck.api.gateway import Gateway
    from coatcheck.reconciliation.ageing import Ageing
    from coatcheck.reconciliation.files import Progress, Source
    from coatcheck.reconciliation.nightly import NightlyReport
    from coatcheck.reconciliation.report import Break, Report
    from coatcheck.states import Mode

_BREAKS_SHOWN: Final = 20
EXIT_BREAKS: Final = 1
_FORMATS: Final = ("text", "json", "csv", "html")


@click.command(short_help="Hold a settlement file or bank statement against the books.")
@click.argument("file", metavar="[FILE]", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--shop", metavar="NAME", help="Whose account at the PSP the file is about.")
@click.option("--live", is_flag=True, help="The file is about live mode; without it, test mode.")
@click.option("--by", metavar="NAME", help="Who you are; it is written down. Needed to take a file.")
@click.option(
    "--format", "form", type=click.Choice(_FORMATS), default="text", show_default=True, help="How to print the report."
)
@click.option(
    "--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the report here, too."
)
@click.option("--nightly", is_flag=True, help="Take what has come for the shop of the settings, now.")
@click.option("--ageing", is_flag=True, help="Show how old what stands in the clearing accounts is.")
@with_config
def reconcile(file: Path | None, *, nightly: bool, ageing: bool, config: Path | None, **told: Any) -> int:
    """Compare FILE with the books: a PSP's settlement file, or a bank's statement. Every difference is named.

    What the PSP paid out and kept, and what has arrived at the bank, is posted. The format is found by the content. A
    file that is not whole is refused, and then nothing is posted; the same file again changes nothing. Exits 1 when
    the file and the books differ.

    \b
    Examples:
      coatcheck reconcile settlement-2026-11-20.csv --shop hats --live --by ada
      coatcheck reconcile settlement-2026-11-20.csv --shop hats --live --by ada --format html > report.html
      coatcheck reconcile --nightly --by ada
      coatcheck reconcile --ageing --shop hats --live
    """  # noqa: D301
    if (file is not None) + nightly + ageing != 1:
        raise click.UsageError("give a FILE, or --nightly, or --ageing: one of them")
    if nightly:
        return _take_nightly(config, by=_needed(told, "by"))
    if ageing:
        return _show_ageing(config, shop=_needed(told, "shop"), live=told["live"], form=told["form"])
    source = _source_of(file or Path(), shop=_needed(told, "shop"), live=told["live"], by=_needed(told, "by"))
    return _take_file(config, source, form=told["form"], json_path=told["json_path"])


def _needed(told: dict[str, Any], name: str) -> str:
    if not told[name]:
        raise click.UsageError(f"missing option '--{name}'")
    given: str = told[name]
    return given


def _mode_of(*, live: bool) -> "Mode":
    from coatcheck.states import Mode  # noqa: PLC0415

    return Mode.LIVE if live else Mode.TEST


def _source_of(file: Path, *, shop: str, live: bool, by: str) -> "Source":
    from coatcheck.dead_letters import person_named  # noqa: PLC0415
    from coatcheck.reconciliation.files import Source  # noqa: PLC0415
    from coatcheck.shops import shop_id_of  # noqa: PLC0415

    return Source(
        path=file, name=file.name, shop_id=shop_id_of(shop), mode=_mode_of(live=live), brought_by=person_named(by)
    )


def _take_file(config: Path | None, source: "Source", *, form: str, json_path: Path | None) -> int:
    from coatcheck.reconciliation.lines import FileRefusedError  # noqa: PLC0415

    async def work(gateway: "Gateway") -> "Report":
        await _check_shop(gateway, source.shop_id)
        with click.progressbar(
            length=source.path.stat().st_size, label="reading", file=sys.stderr, hidden=not sys.stderr.isatty()
        ) as bar:
            report = await gateway.arrivals.take(source, _shown_on(bar))
        await _PRINTERS[form](gateway, report)
        return report

    try:
        report = at_desk(settings_of(config), work)
    except FileRefusedError as error:
        raise UnusableError(f"{source.name} was refused, and nothing of it was taken: {error}") from error
    if json_path is not None:
        json_path.write_bytes(_json_of(report))
    return 0 if report.is_clean else EXIT_BREAKS


async def _check_shop(gateway: "Gateway", shop_id: "UUID") -> None:
    if await gateway.store.pool.fetchval("SELECT true FROM shop WHERE shop_id = $1", shop_id) is None:
        raise UnusableError("no such shop: `coatcheck keys list` shows those that there are")


def _shown_on(bar: Any) -> "Progress":
    def show(read: int, _size: int) -> None:
        bar.update(read - bar.pos)

    return show


async def _print_text(_: "Gateway", report: "Report") -> None:
    _print_report(report)


async def _print_json(_: "Gateway", report: "Report") -> None:
    click.echo(_json_of(report))


def _json_of(report: "Report") -> bytes:
    """Print a report as the API does, so that a program reads the same whichever way it asked."""
    from coatcheck.api.reconciliations import reconciliation_body  # noqa: PLC0415

    return _indented(reconciliation_body(report))


def _indented(body: "Struct") -> bytes:
    import msgspec  # noqa: PLC0415

    from coatcheck.api.edge import encode  # noqa: PLC0415

    return msgspec.json.format(encode(body))


async def _print_csv(gateway: "Gateway", report: "Report") -> None:
    from coatcheck.reconciliation.printing import csv_head, csv_rows  # noqa: PLC0415
    from coatcheck.reconciliation.report import breaks_of  # noqa: PLC0415

    found: AsyncIterator[Sequence[Break]] = breaks_of(gateway.store, report.file_id)
    click.echo(csv_head(report), nl=False)
    async for breaks in found:
        click.echo(csv_rows(breaks), nl=False)


async def _print_html(_: "Gateway", report: "Report") -> None:
    from coatcheck.reconciliation.printing import html_page  # noqa: PLC0415

    click.echo(html_page(report), nl=False)


_PRINTERS: Final[dict[str, Callable[["Gateway", "Report"], Any]]] = {
    "text": _print_text,
    "json": _print_json,
    "csv": _print_csv,
    "html": _print_html,
}


def _print_report(report: "Report") -> None:
    again = ", which had been taken before: nothing was done" if report.is_repeat else ""
    if report.is_of_a_bank:
        told = f"{report.lines} entries of a bank, {report.matched} of them payouts that were due"
    else:
        told = f"{report.lines} lines of {report.provider} ({report.format})"
    click.echo(f"{report.name}: {told}{again}\n")
    print_table(
        ("currency", "lines", "matched", "settled since", "gross", "fees", "paid out"),
        [
            [
                *(total.currency, str(total.lines), str(total.matched), str(total.settled)),
                *(_money(each, total.currency) for each in (total.gross_minor, total.fee_minor, total.payout_minor)),
            ]
            for total in report.totals
        ],
    )
    _print_breaks(report)


def _print_breaks(report: "Report") -> None:
    open_breaks = [each for each in report.mismatches if each.closed_at is None]
    if report.is_clean:
        click.echo("\nThe file and the books agree.")
        return
    click.echo(f"\n{report.open_breaks} breaks:")
    print_table(
        ("kind", "line", "ours", "the file's", "about"), [_row_of(each) for each in open_breaks[:_BREAKS_SHOWN]]
    )
    if report.open_breaks > _BREAKS_SHOWN:
        click.echo(f"... and {report.open_breaks - _BREAKS_SHOWN} more; --format csv has all of them.")


def _row_of(each: "Break") -> list[str]:
    from coatcheck.reconciliation.printing import amount_of  # noqa: PLC0415

    line = "-" if each.line_no is None else str(each.line_no)
    currency = f" {each.currency}" if each.currency else ""
    amounts = [amount_of(minor, each.currency) for minor in (each.expected_minor, each.stated_minor)]
    return [each.kind, line, *["-" if amount is None else f"{amount}{currency}" for amount in amounts], each.detail]


def _money(minor: int, currency: str) -> str:
    from coatcheck.money import format_amount  # noqa: PLC0415

    return f"{format_amount(minor, currency)} {currency}"


def _take_nightly(config: Path | None, *, by: str) -> int:
    from coatcheck.dead_letters import person_named  # noqa: PLC0415
    from coatcheck.wiring import make_nightly  # noqa: PLC0415

    settings, person = settings_of(config), person_named(by)

    async def work(gateway: "Gateway") -> "NightlyReport":
        nightly = make_nightly(gateway)
        if nightly is None:
            raise UnusableError("the settings name no shop whose files are taken: set COATCHECK_SETTLEMENT_SHOP")
        if not await nightly.is_of_a_shop():
            raise UnusableError("no such shop: `coatcheck keys list` shows those that there are")
        return await nightly.run(person)

    report = at_desk(settings, work)
    for taken in report.taken:
        _print_report(taken)
        click.echo()
    for what, left in (("refused", report.refused), ("not taken yet", report.waiting)):
        for each in left:
            click.echo(f"{each.name}: {what}: {each.why}")
    click.echo(f"{len(report.taken)} taken, {len(report.refused)} refused, {len(report.waiting)} not taken yet.")
    is_clean = not report.refused and not report.waiting and all(taken.is_clean for taken in report.taken)
    return 0 if is_clean else EXIT_BREAKS


def _show_ageing(config: Path | None, *, shop: str, live: bool, form: str) -> int:
    from coatcheck.api.reconciliations import ageing_body  # noqa: PLC0415
    from coatcheck.shops import shop_id_of  # noqa: PLC0415

    if form not in ("text", "json"):
        raise click.UsageError("--ageing is printed as text or json")

    async def work(gateway: "Gateway") -> "Ageing":
        from coatcheck.reconciliation.ageing import read_ageing  # noqa: PLC0415

        await _check_shop(gateway, shop_id_of(shop))
        return await read_ageing(gateway.store, gateway.clock, shop_id_of(shop), _mode_of(live=live))

    ageing = at_desk(settings_of(config), work)
    if form == "json":
        click.echo(_indented(ageing_body(ageing)))
    else:
        _print_ageing(ageing)
    return 0


def _print_ageing(ageing: "Ageing") -> None:
    from coatcheck.reconciliation.ageing import BUCKETS  # noqa: PLC0415

    rows: list[list[str]] = []
    for account in ageing.accounts:
        currency = account.currency
        minors = (account.balance_minor, *account.aged_minor, account.undated_minor)
        rows.append([account.name, "", *[_money(minor, currency) for minor in minors]])
        for part in account.parts:
            what = part.part.replace("_", " ")
            rows.append([f"  {what}", str(part.items), "", *[_money(minor, currency) for minor in part.aged_minor], ""])
    click.echo(f"Clearing accounts on {ageing.at:%Y-%m-%d %H:%M} UTC, by age in days:\n")
    print_table(("account", "items", "balance", *BUCKETS, "undated"), rows)
    if ageing.breaks:
        click.echo("\nOpen breaks, by age in days:\n")
        print_table(("kind", *BUCKETS), [[each.kind, *map(str, each.aged)] for each in ageing.breaks])
