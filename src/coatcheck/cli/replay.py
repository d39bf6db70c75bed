"""`audit replay`: the rows, rebuilt from the events alone."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from coatcheck.cli.failures import EXIT_VIOLATION, UnusableError
from coatcheck.cli.opening import settings_of, with_store
from coatcheck.cli.options import with_config

if TYPE_CHECKING:
    from coatcheck.audit.replay import Difference, Replayed

_SHOWN = 20
_WIDEST = 120  # letters of a value that are shown; a file has all of them


@click.command(short_help="Rebuild the rows from the events alone, and compare.")
@click.option(
    "--json",
    "path",
    metavar="PATH",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write every difference to this file.",
)
@with_config
def replay(path: Path | None, config: Path | None) -> int:
    """Rebuild payments, orders, operations, refunds, wallets and the ledger from the audit events alone, and compare.

    Names every value that is not what the events make of it: the first 20 here, all of them in the file of --json.
    Exits 1 when there is one. It writes only temporary tables, and may run beside the gateway.

    \b
    Example:
      coatcheck audit replay --json differences.json
    """  # noqa: D301
    settings = settings_of(config)
    import asyncpg  # noqa: PLC0415

    from coatcheck.audit.replay import replay as rebuild_and_compare  # noqa: PLC0415

    with _report(path) as report:
        try:
            replayed = with_store(settings, lambda store: rebuild_and_compare(store, report.tell))
        except asyncpg.InsufficientPrivilegeError as error:
            raise UnusableError(
                f"the database does not let us make temporary tables ({error}); allow it with GRANT TEMPORARY ON "
                "DATABASE ... TO coatcheck_app, then try again"
            ) from error
        report.end(replayed)
    for table, rows in replayed.rows.items():
        click.echo(f"{table:<17} {rows:>12,} rows")
    if replayed.differences:
        click.echo(
            "Nothing was changed. Keep the database and the lines above, and stop payouts until they are explained."
        )
    click.echo(f"REPLAY rows={replayed.rows_compared} difference={replayed.differences}")
    return EXIT_VIOLATION if replayed.differences else 0


class _Report:
    """Shows the first differences, and writes all of them where a file is wanted: one by one, for there may be many."""

    def __init__(self, file: TextIO | None) -> None:
        self._file = file
        self._told = 0
        if file is not None:
            file.write('{"differences":[')

    def tell(self, difference: "Difference") -> None:
        """Take a difference."""
        if self._told < _SHOWN:
            click.echo(_in_words(difference))
        if self._file is not None:
            fields = {name: getattr(difference, name) for name in difference.__struct_fields__}
            self._file.write(f"{',' if self._told else ''}\n{json.dumps(fields)}")
        self._told += 1

    def end(self, replayed: "Replayed") -> None:
        """Close the list."""
        if self._told > _SHOWN:
            rest = f"... and {self._told - _SHOWN:,} more"
            click.echo(rest if self._file is not None else f"{rest}; --json PATH writes all of them")
        if self._file is not None:
            counts = {"events": replayed.events, "rows": dict(replayed.rows), "difference": replayed.differences}
            self._file.write(f"\n],{json.dumps(counts)[1:]}\n")


@contextmanager
def _report(path: Path | None) -> Iterator[_Report]:
    if path is None:
        yield _Report(None)
        return
    with path.open("w", encoding="utf-8") as file:
        yield _Report(file)


def _in_words(difference: "Difference") -> str:
    from coatcheck.logs import redact_text  # noqa: PLC0415

    def shown(value: str | None) -> str:
        text = "NULL" if value is None else redact_text(value)
        return text if len(text) <= _WIDEST else f"{text[:_WIDEST]}..."

    where = f"{difference.table} {difference.key} {difference.column}"
    return f"{where}: replayed {shown(difference.replayed)}, stored {shown(difference.stored)}"
