"""`reconcile`: a PSP's settlement file, or a bank's statement, against the books."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coatcheck.cli.failures import UnusableError
from coatcheck.cli.opening import at_desk, settings_of
from coatcheck.cli.options import with_config, with_person
from coatcheck.cli.tables import print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coatcheck.api.gateway import Gateway
    from coatcheck.reconciliation.files import Progress, Source
    from coatcheck.reconciliation.report import Break, Report
    from coatcheck.reconciliation.statements import StatementReport

_BREAKS_SHOWN = 20
EXIT_BREAKS = 1


@click.command(short_help="Hold a settlement file or bank statement against the books.")
@click.argument("file", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--shop", required=True, metavar="NAME", help="Whose account at the PSP the file is about.")
@click.option("--live", is_flag=True, help="The file is about live mode; without it, test mode.")
@click.option(
    "--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the report here, too."
)
@with_person
@with_config
def reconcile(file: Path, *, shop: str, live: bool, json_path: Path | None, by: str, config: Path | None) -> int:
    """Compare FILE with the books: a PSP's settlement file, or a bank's statement. Every difference is named.

    What the PSP paid out and kept, and what has arrived at the bank, is posted. The format is found by the content. A
    file that is not whole is refused, and then nothing is posted; the same file again changes nothing. Exits 1 when
    the file and the books differ.

    \b
    Example:
      coatcheck reconcile settlement-2026-11-20.csv --shop hats --live --by ada
    """  # noqa: D301
    import msgspec  # noqa: PLC0415

    from coatcheck.dead_letters import person_named  # noqa: PLC0415
    from coatcheck.reconciliation.files import Source  # noqa: PLC0415
    from coatcheck.reconciliation.lines import FileRefusedError  # noqa: PLC0415
    from coatcheck.reconciliation.statements import StatementReport  # noqa: PLC0415
    from coatcheck.shops import shop_id_of  # noqa: PLC0415
    from coatcheck.states import Mode  # noqa: PLC0415

    mode = Mode.LIVE if live else Mode.TEST
    source = Source(path=file, name=file.name, shop_id=shop_id_of(shop), mode=mode, brought_by=person_named(by))
    try:
        report = _taken(config, source)
    except FileRefusedError as error:
        raise UnusableError(f"{file.name} was refused, and nothing of it was taken: {error}") from error
    if isinstance(report, StatementReport):
        _print_statement(report)
    else:
        _print_report(report)
    if json_path is not None:
        json_path.write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    return 0 if report.is_clean else EXIT_BREAKS


def _taken(config: Path | None, source: "Source") -> "Report | StatementReport":
    from coatcheck.api.breaks import corrections_of  # noqa: PLC0415
    from coatcheck.reconciliation.files import recognised  # noqa: PLC0415
    from coatcheck.reconciliation.reconciler import Reconciler  # noqa: PLC0415
    from coatcheck.reconciliation.report import read_report  # noqa: PLC0415
    from coatcheck.reconciliation.statements import Statements  # noqa: PLC0415

    async def work(gateway: "Gateway") -> "Report | StatementReport":
        store = gateway.store
        known = await store.pool.fetchval("SELECT true FROM shop WHERE shop_id = $1", source.shop_id)
        if known is None:
            raise UnusableError("no such shop: `coatcheck keys list` shows those that there are")
        with click.progressbar(
            length=source.path.stat().st_size, label="reading", hidden=not sys.stdout.isatty()
        ) as bar:
            if recognised(source).form.provider is None:
                return await Statements(store, gateway.clock).take(source, _shown_on(bar))
            report = await Reconciler(store, gateway.clock).take(source, _shown_on(bar))
        corrections = corrections_of(gateway)
        if await corrections.correct(report.file_id):
            report = await read_report(store, report.file_id, is_repeat=report.is_repeat)
        await corrections.give_up_absent(source.shop_id, source.mode, report.provider)
        return report

    return at_desk(settings_of(config), work)


def _shown_on(bar: Any) -> "Progress":
    def show(read: int, _size: int) -> None:
        bar.update(read - bar.pos)

    return show


def _print_report(report: "Report") -> None:
    again = ", which had been taken before: nothing was done" if report.is_repeat else ""
    click.echo(f"{report.name}: {report.lines} lines of {report.provider} ({report.format}){again}\n")
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
    _print_breaks(report.mismatches)


def _print_statement(report: "StatementReport") -> None:
    again = ", which had been taken before: nothing was done" if report.is_repeat else ""
    click.echo(
        f"{report.name}: {report.lines} entries of a bank, {report.matched} of them payouts that were due{again}"
    )
    _print_breaks(report.mismatches)


def _print_breaks(mismatches: "Sequence[Break]") -> None:
    open_breaks = [each for each in mismatches if each.closed_at is None]
    if not open_breaks:
        click.echo("\nThe file and the books agree.")
        return
    click.echo(f"\n{len(open_breaks)} breaks:")
    print_table(
        ("kind", "line", "ours", "the file's", "about"), [_row_of(each) for each in open_breaks[:_BREAKS_SHOWN]]
    )
    if len(open_breaks) > _BREAKS_SHOWN:
        click.echo(f"... and {len(open_breaks) - _BREAKS_SHOWN} more; --json has all of them.")


def _row_of(each: "Break") -> list[str]:
    line = "-" if each.line_no is None else str(each.line_no)
    return [each.kind, line, _stated(each.expected_minor, each), _stated(each.stated_minor, each), each.detail]


def _stated(minor: int | None, each: "Break") -> str:
    if minor is None:
        return "-"
    return str(minor) if each.currency is None else _money(minor, each.currency)


def _money(minor: int, currency: str) -> str:
    from coatcheck.money import format_amount  # noqa: PLC0415

    return f"{format_amount(minor, currency)} {currency}"
