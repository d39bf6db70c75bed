"""`export`: the whole ledger of a shop, for other programs."""

import os
import sys
from datetime import date, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING
from uuid import uuid4

import click

from coatcheck.cli.opening import settings_of, with_store
from coatcheck.cli.options import with_config
from coatcheck.cli.worlds import shop_named

if TYPE_CHECKING:
    from coatcheck.reporting.exports import Format
    from coatcheck.store import Store

_DAY = click.DateTime(["%Y-%m-%d"])


@click.command(short_help="Write a shop's ledger as CSV, JSON, hledger or beancount.")
@click.option(
    "--format",
    "form",
    required=True,
    type=click.Choice(["csv", "json", "hledger", "beancount"]),
    help="csv: the transfers; json: accounts and transfers; the other two can be checked by those programs.",
)
@click.option("--shop", required=True, metavar="NAME", help="Whose ledger.")
@click.option("--live", is_flag=True, help="Of live mode; without it, of test mode.")
@click.option("--from", "since", type=_DAY, metavar="DAY", help="The first day (UTC); without it, from the beginning.")
@click.option("--to", "until", type=_DAY, metavar="DAY", help="The day before which it ends; without it, all there is.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write here, when all of it is there; without it, to standard output.",
)
@with_config
def export(
    *,
    form: str,
    shop: str,
    live: bool,
    since: datetime | None,
    until: datetime | None,
    output: Path | None,
    config: Path | None,
) -> int:
    """Write every transfer of a shop that counts, with the balances of its accounts. Holds are not in it.

    For hledger and beancount the closing balances of the books are assertions: `hledger check` and `bean-check` add all
    transfers up again and refuse the file where the books are wrong.

    \b
    Example:
      coatcheck export --format beancount --shop hats --live --output hats.beancount
    """  # noqa: D301
    from coatcheck.reporting.exports import Format  # noqa: PLC0415

    days = _day_of(since), _day_of(until)
    if days[0] is not None and days[1] is not None and days[1] <= days[0]:
        raise click.UsageError("--to must be a day after --from: it is not in the export any more")
    settings = settings_of(config)
    if output is None:
        with_store(settings, lambda store: _write(store, Format(form), (shop, live), days, sys.stdout))
        return 0
    waiting = output.with_name(f".{output.name}.{uuid4().hex}")
    try:
        with waiting.open("w", encoding="utf-8", newline="") as file:
            with_store(settings, lambda store: _write(store, Format(form), (shop, live), days, file))
            file.flush()
            os.fsync(file.fileno())
        waiting.replace(output)
    finally:
        waiting.unlink(missing_ok=True)
    return 0


async def _write(
    store: "Store", form: "Format", world: tuple[str, bool], days: tuple[date | None, date | None], file: IO[str]
) -> None:
    from coatcheck.clock import SystemClock  # noqa: PLC0415
    from coatcheck.reporting.exports import Scope, open_book, write  # noqa: PLC0415

    shop_id, mode = await shop_named(store, *world)
    scope = Scope(shop_id=shop_id, shop_name=world[0], mode=mode, since=days[0], until=days[1])
    async with open_book(store, SystemClock(), scope) as book:
        async for part in write(book, form):
            file.write(part)


def _day_of(moment: datetime | None) -> date | None:
    return None if moment is None else moment.date()
