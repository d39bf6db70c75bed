"""`audit verify`: whether history is as it was sealed; and `audit` itself, the group it belongs to."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from inspect import cleandoc
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coatcheck.cli import asking
from coatcheck.cli.failures import EXIT_VIOLATION, UnusableError
from coatcheck.cli.opening import log_as, settings_of
from coatcheck.cli.options import Tool, with_config
from coatcheck.cli.replay import replay

if TYPE_CHECKING:
    from coatcheck.audit.sealing.verifier import Report

_PATH = click.Path(path_type=Path)


@click.group(
    cls=Tool,
    invoke_without_command=True,
    short_help=asking.audit.short_help,
    help=f"{cleandoc(asking.audit.help or '')}\n\nWhether history was rewritten is asked by "
    "`coatcheck audit verify`, and whether it makes the very rows that are stored by `coatcheck audit replay`.",
)
@with_config
@click.pass_context
def audit(context: click.Context, config: Path | None) -> int:
    """Run the invariants, unless a command of the group is asked for."""
    if context.invoked_subcommand is not None:
        if config is not None:
            raise click.UsageError(f"give --config after {context.invoked_subcommand}, whose settings it is")
        return 0
    status: int = context.invoke(asking.audit, config=config)
    return status


@audit.command(short_help="Ask the seals whether history was rewritten.")
@click.option("--database-url", metavar="URL", help="The database; any role that may read it will do.")
@click.option("--anchor", metavar="FILE", type=_PATH, help="The anchor: the seals, outside the database.")
@click.option(
    "--public-key",
    "public_keys",
    metavar="FILE",
    type=_PATH,
    multiple=True,
    help="Who may have sealed; may be repeated.",
)
@click.option("--ignore-late", is_flag=True, help="Rows that were sealed as late are told, and are no finding.")
@with_config
def verify(
    *,
    database_url: str | None,
    anchor: Path | None,
    public_keys: tuple[Path, ...],
    ignore_late: bool,
    config: Path | None,
) -> int:
    """Compare every event and transfer with the seals, and the seals with the anchor.

    Names each row that was changed, removed, inserted or moved, each seal that was rewritten, and a tail that was cut.
    Exits 1 when it finds any. It only reads, and may run beside the gateway. It is a program of its own, and takes
    nothing of this installation but, where an option is missing, the place of a file.

    \b
    Example, from another machine:
      coatcheck audit verify --database-url postgresql://auditor@db/coatcheck \\
          --anchor /safe/anchor --public-key /safe/seal.pub
    """  # noqa: D301
    report = asyncio.run(_verify(database_url, anchor, public_keys, config))
    if ignore_late:
        for late in report.set_late_aside():
            click.echo(str(late))
    for finding in report.findings:
        click.echo(click.style(str(finding), fg="red"))
    click.echo(_summary_of(report))
    click.echo(report.line)
    return 0 if report.is_ok else EXIT_VIOLATION


audit.add_command(replay)


async def _verify(
    database_url: str | None, anchor: Path | None, public_keys: tuple[Path, ...], config: Path | None
) -> "Report":
    from coatcheck.audit.sealing.verifier import UnreadableError, verify_database  # noqa: PLC0415

    if database_url is None or anchor is None or not public_keys:
        from coatcheck.audit.sealing.places import places_of  # noqa: PLC0415

        places = places_of(settings_of(config))
        anchor, public_keys = anchor or places.anchor, public_keys or (places.public_key,)
    async with _database(database_url, config) as address:
        try:
            return await verify_database(address, anchor, public_keys)
        except UnreadableError as error:
            raise UnusableError(str(error)) from error


@asynccontextmanager
async def _database(database_url: str | None, config: Path | None) -> AsyncIterator[str]:
    """Give the database's address, starting the embedded one where it is meant. Its schema is left as it is."""
    if database_url is None:
        settings = settings_of(config)
        if settings.database_url is None:
            log_as("warning", "console")
            from coatcheck.store.embedded import start_embedded  # noqa: PLC0415

            server = await start_embedded(settings.data_dir)
            try:
                yield server.url()
            finally:
                await server.stop()
            return
        database_url = settings.database_url
    yield database_url


def _summary_of(report: "Report") -> str:
    if not report.seals:
        return f"There are no seals: nothing is proved about {report.rows} rows."
    young = f", {report.unsealed} of them younger than their seal" if report.unsealed else ""
    unanchored = f"\n{report.unanchored} seals are not in the anchor." if report.unanchored else ""
    told = f"{report.rows} rows{young}, {report.seals} seals, the last one of {report.sealed_at}.{unanchored}"
    if report.is_ok:
        return f"{told}\nHistory is as it was sealed."
    return f"{told}\nHistory is not as it was sealed: {len(report.findings)} findings. Nothing was changed by looking."
