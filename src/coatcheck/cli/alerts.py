"""`alerts`: what the watcher has found."""

from pathlib import Path

import click

from coatcheck.cli.failures import EXIT_VIOLATION, UnusableError
from coatcheck.cli.opening import settings_of, with_store
from coatcheck.cli.options import Tool, id_of, with_config, with_person


@click.group(cls=Tool, invoke_without_command=True, short_help="What somebody should look at now.")
@with_config
@click.pass_context
def alerts(ctx: click.Context, config: Path | None) -> int:
    """List what the watcher has found and is still so, the longest-standing first.

    Each has its page in docs/runbooks: what it means, what to look at, what is safe. Exits 1 while there is one.
    """
    ctx.obj = config
    if ctx.invoked_subcommand is not None:
        return 0
    from coatcheck.watcher import list_alerts  # noqa: PLC0415

    found = with_store(settings_of(config), list_alerts)
    for alert in found:
        click.echo(f"{alert.since:%Y-%m-%d %H:%M:%S}  {alert.kind.value}  {alert.subject}")
        click.echo(f"    {alert.text}")
        click.echo(f"    {alert.runbook}")
    if not found:
        click.echo("There is nothing to look at.")
    return EXIT_VIOLATION if found else 0


@alerts.command(short_help="Close an alert about money that moved twice, once you have seen to it.")
@click.argument("order_id", metavar="ORDER")
@click.option("--reason", required=True, metavar="TEXT", help="What you did about it; it is written down.")
@with_person
@with_config
@click.pass_context
def acknowledge(ctx: click.Context, *, order_id: str, reason: str, by: str, config: Path | None) -> int:
    """Say that you have seen to ORDER (po_...): charged twice, or refunded and disputed; its alert closes.

    It moves no money: that is done at the provider. All other alerts close of themselves.
    """
    from coatcheck import watcher  # noqa: PLC0415
    from coatcheck.clock import SystemClock  # noqa: PLC0415
    from coatcheck.dead_letters import person_named  # noqa: PLC0415
    from coatcheck.ids import ORDER  # noqa: PLC0415

    wanted, person = id_of(ORDER, order_id), person_named(by)
    done = with_store(
        settings_of(config or ctx.obj),
        lambda store: watcher.acknowledge(store, SystemClock(), wanted, by=person, reason=reason),
    )
    if not done:
        raise UnusableError(
            f"no charged_twice alert of {order_id} is open, nor a refunded_and_disputed one; see `coatcheck alerts`"
        )
    click.echo("Written down. The watcher closes the alert at its next look.")
    return 0
