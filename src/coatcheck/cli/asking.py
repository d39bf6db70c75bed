"""`audit` and `explain`: what the books say."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from coatcheck.cli.failures import EXIT_VIOLATION, UnusableError
from coatcheck.cli.opening import at_desk, settings_of, with_store
from coatcheck.cli.options import with_config

if TYPE_CHECKING:
    from coatcheck.api.gateway import Gateway
    from coatcheck.audit.invariants import InvariantResult
    from coatcheck.explain import Story

_ROWS_SHOWN = 10


@click.command(short_help="Ask the books whether all is well.")
@with_config
def audit(config: Path | None) -> int:
    """Ask the books every question that must have no answer.

    Runs all invariants and says for each in words whether it holds. Exits 1 when one does not. It only reads, and may
    run beside the gateway.
    """
    settings = settings_of(config)
    from coatcheck.audit.invariants import run_invariants  # noqa: PLC0415

    results = with_store(settings, run_invariants)
    if not results:
        raise UnusableError("no invariants were found; this installation is not complete, install coatcheck again")
    violated = [result for result in results if result.violations]
    for result in results:
        _print_result(result)
    if violated:
        click.echo(
            f"\n{len(violated)} of {len(results)} invariants do not hold: {', '.join(r.name for r in violated)}."
        )
        click.echo("Nothing was changed. Keep the rows above, and stop payouts until they are explained.")
        return EXIT_VIOLATION
    click.echo(f"\nAll {len(results)} invariants hold.")
    return 0


def _print_result(result: "InvariantResult") -> None:
    word = click.style("VIOLATED", fg="red", bold=True) if result.violations else click.style("holds   ", fg="green")
    click.echo(f"{word}  {result.name}: {result.meaning}")
    for row in result.violations[:_ROWS_SHOWN]:
        click.echo("            " + ", ".join(f"{name}={value}" for name, value in row.items()))
    if len(result.violations) > _ROWS_SHOWN:
        click.echo(f"            ... and {len(result.violations) - _ROWS_SHOWN} more")


@click.command(short_help="Tell the whole story of a payment.")
@click.argument("named", metavar="ID")
@click.option("--shop", metavar="NAME", help="ID is this shop's own payment_order_id.")
@click.option("--live", is_flag=True, help="... in live mode; without it, in test mode.")
@with_config
def explain(named: str, shop: str | None, live: bool, config: Path | None) -> int:  # noqa: FBT001 - click's flag
    """Tell what happened to a payment (pay_...), operation (op_...), refund (rf_...) or order, and what comes next.

    \b
    Examples:
      coatcheck explain pay_54c4ouqu2wpojs2lahkotag5ki
      coatcheck explain order-7001-a --shop hats
    """  # noqa: D301

    async def work(gateway: "Gateway") -> "Story":
        from coatcheck import explain as storyteller  # noqa: PLC0415
        from coatcheck.api.dead_letters import dead_letters_of  # noqa: PLC0415
        from coatcheck.states import Mode  # noqa: PLC0415

        return await storyteller.explain(
            gateway.store,
            gateway.operations,
            named,
            shop=shop,
            mode=Mode.LIVE if live else Mode.TEST,
            advise=dead_letters_of(gateway).advise,
            at=gateway.clock.now(),
        )

    story = at_desk(settings_of(config), work)
    click.echo(story.title)
    for moment in story.moments:
        click.echo(f"{moment.at:%Y-%m-%d %H:%M:%S}.{moment.at.microsecond // 1000:03d}  {moment.text}")
    click.echo("\nWhere it stands:")
    for line in story.standing:
        click.echo(f"- {line}")
    return 0
