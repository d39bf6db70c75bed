"""`recover`: make books that were restored from a backup whole."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coatcheck.cli.failures import UnusableError
from coatcheck.cli.opening import at_desk, settings_of
from coatcheck.cli.options import with_config, with_person
from coatcheck.cli.tables import print_table

if TYPE_CHECKING:
    from coatcheck.api.gateway import Gateway
    from coatcheck.reconciliation.recovery import RecoveryReport

EXIT_STRANGE = 1


@click.command(short_help="After a restore: fetch what the books forgot.")
@click.option("--since", required=True, metavar="TIME", help="When the backup was made, with its zone (RFC 3339).")
@with_person
@with_config
def recover(since: str, by: str, config: Path | None) -> int:
    """Make the books whole after a restore from a backup made at TIME: before any gateway serves again.

    Everything that asks a provider for money is refused until this has finished, also when it breaks off: run it again.
    It lists what the providers have made since, an hour more for safety, takes over what is missing here, disputes
    included, and asks about what was undecided. It charges nothing. Exits 1 when something is left for a person.

    \b
    Example:
      coatcheck recover --since 2026-11-20T03:00:00Z --by ada
    """  # noqa: D301
    when = _time(since)

    async def work(gateway: "Gateway") -> "RecoveryReport":
        from coatcheck.dead_letters import person_named  # noqa: PLC0415
        from coatcheck.providers.protocol import NotListedError  # noqa: PLC0415
        from coatcheck.reconciliation.recovery import RecoveryError  # noqa: PLC0415

        try:
            return await gateway.recovery.run(when, person_named(by))
        except (NotListedError, RecoveryError) as error:
            raise UnusableError(
                f"the recovery has not finished, and nothing is charged until it has: {error}. Run it again."
            ) from error

    report = at_desk(settings_of(config), work)
    _print(report)
    return EXIT_STRANGE if report.strange else 0


def _time(text: str) -> datetime:
    try:
        when = datetime.fromisoformat(text)
    except ValueError as error:
        raise click.UsageError(f"{text!r} is no time: write one such as 2026-11-20T03:00:00Z") from error
    if when.tzinfo is None:
        raise click.UsageError(f"{text!r} has no zone: write Z for UTC, or +01:00")
    return when.astimezone(UTC)


def _print(report: "RecoveryReport") -> None:
    click.echo(f"The providers have made {report.listed} objects since {report.since:%Y-%m-%d %H:%M:%S} UTC.")
    click.echo(f"{report.adopted} of them were missing here and are in the books now.")
    click.echo(f"{report.asked} operations of before were undecided; the providers were asked about each.")
    if report.disputes:
        click.echo(f"{report.disputes} disputes were opened or have moved since, and stand as the providers have them.")
    if report.strange:
        click.echo(f"\n{len(report.strange)} could not be taken over. Look at each in the provider's dashboard:")
        from coatcheck.money import format_amount  # noqa: PLC0415

        print_table(
            ("provider", "its id", "reference", "amount", "why"),
            [
                [
                    *(each.provider, each.provider_reference, each.reference or "-"),
                    f"{format_amount(each.amount_minor, each.currency)} {each.currency}" if each.currency else "-",
                    each.why.value.replace("_", " "),
                ]
                for each in report.strange
            ],
        )
    click.echo("\nThe recovery has finished: traffic is let in.")
