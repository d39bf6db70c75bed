"""`retry-queue`: operations that are not decided and go on by themselves."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coatcheck.cli.dead_letters import undecided_query
from coatcheck.cli.failures import UnusableError
from coatcheck.cli.opening import at_desk, settings_of
from coatcheck.cli.options import Tool, id_of, with_config
from coatcheck.cli.tables import print_table

if TYPE_CHECKING:
    from datetime import timedelta

    from coatcheck.api.gateway import Gateway
    from coatcheck.operations import Evidence
    from coatcheck.retry_queue import Retry


@click.group("retry-queue", cls=Tool, short_help="What goes on by itself: look.")
def retry_queue() -> None:
    """Look at operations that are not decided and go on by themselves: how often, when next, and what then.

    Nothing is to be done about them. What does not go on by itself is in `coatcheck dead-letters`.
    """


@retry_queue.command("list", short_help="List them, oldest first.")
@click.option("--provider", metavar="NAME", help="Only those of this provider.")
@click.option("--cause", metavar="TEXT", help="Only those whose cause has this in it.")
@click.option("--older-than-s", type=click.IntRange(0), help="Only those committed so many seconds ago.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="The most shown.")
@with_config
def list_retries(
    *, provider: str | None, cause: str | None, older_than_s: int | None, limit: int, config: Path | None
) -> int:
    """List what goes on by itself, in every shop, the oldest first, with its tries and its next time.

    \b
    Example:
      coatcheck retry-queue list --provider stripe --older-than-s 600
    """  # noqa: D301

    async def work(gateway: "Gateway") -> "list[Retry]":
        from coatcheck.api.retry_queue import retry_queue_of  # noqa: PLC0415

        return await retry_queue_of(gateway).find(undecided_query(gateway, provider, cause, older_than_s), limit=limit)

    found = at_desk(settings_of(config), work)
    if not found:
        click.echo("Nothing is being retried.")
        return 0
    _print_retries(found)
    click.echo("\n`coatcheck retry-queue show ID` has the evidence and what happens next.")
    return 0


@retry_queue.command(short_help="Show one with its evidence.")
@click.argument("operation_id", metavar="ID")
@with_config
def show(operation_id: str, config: Path | None) -> int:
    """Show the operation ID (op_...): cause, tries, age against the provider's window, and what happens next."""
    from coatcheck.ids import OPERATION  # noqa: PLC0415

    wanted = id_of(OPERATION, operation_id)

    async def work(gateway: "Gateway") -> "tuple[Retry, list[Evidence]]":
        from coatcheck.api.retry_queue import retry_queue_of  # noqa: PLC0415

        queue = retry_queue_of(gateway)
        retry = await queue.read(wanted, undecided_query(gateway))
        if retry is None:
            raise UnusableError(
                f"{operation_id} does not go on by itself: it is unknown here, at its first attempt, decided by now, "
                f"or a dead letter; `coatcheck explain {operation_id}` says which"
            )
        return retry, await queue.evidence(retry)

    for line in _lines(*at_desk(settings_of(config), work)):
        click.echo(line)
    return 0


def _print_retries(retries: "Sequence[Retry]") -> None:
    rows = [
        (
            *(each.operation.intent.reference, each.operation.intent.kind.value, _belongs_to(each), _amount_of(each)),
            *(each.operation.provider, each.operation.status.value, _tries_of(each), each.operation.cause or "-"),
            *(_left(each.outlook.safe_for), f"{each.outlook.at:%Y-%m-%d %H:%M:%S}", _next_of(each)),
        )
        for each in retries
    ]
    names = ("id", "asks", "of", "amount", "provider", "status", "tries", "cause", "key known for", "at (UTC)", "next")
    print_table(names, rows)


def _belongs_to(retry: "Retry") -> str:
    from coatcheck.ids import PAYOUT, REFUND, print_id  # noqa: PLC0415

    operation = retry.operation
    if operation.refund_id is not None:
        return print_id(REFUND, operation.refund_id)
    return retry.payment_order_id or print_id(PAYOUT, operation.order_id)


def _amount_of(retry: "Retry") -> str:
    from coatcheck.money import format_amount  # noqa: PLC0415

    intent = retry.operation.intent
    return f"{format_amount(intent.amount_minor, intent.currency)} {intent.currency}"


def _tries_of(retry: "Retry") -> str:
    return f"{retry.operation.tries} of {retry.retry_budget}"


def _left(safe_for: "timedelta | None") -> str:
    if safe_for is None:
        return "-"
    seconds = int(safe_for.total_seconds())
    return "over" if seconds == 0 else f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def _window_in_words(safe_for: "timedelta | None") -> str:
    if safe_for is None:
        return ""
    return f"; the provider is sure to know our key {f'for {_left(safe_for)} more' if safe_for else 'no longer'}"


def _next_of(retry: "Retry") -> str:
    if retry.outlook.is_running:
        return "being asked"
    return "nothing" if retry.outlook.step is None else retry.outlook.step.value.replace("_", " ")


def _lines(retry: "Retry", evidence: "Sequence[Evidence]") -> Iterator[str]:
    from coatcheck.ids import PAYMENT, REFUND, print_id  # noqa: PLC0415
    from coatcheck.states import OperationKind  # noqa: PLC0415

    operation, intent, outlook = retry.operation, retry.operation.intent, retry.outlook
    what = f"a {intent.kind.value} of {_amount_of(retry)}"
    yield f"{intent.reference}: {what} at {operation.provider}, {operation.status.value}"
    if intent.kind is OperationKind.PAYOUT:
        yield f"payout     {_belongs_to(retry)}, to seller {operation.seller_account}"
    else:
        yield f"payment    {print_id(PAYMENT, operation.payment_id)}, order {retry.payment_order_id}"
    if operation.refund_id is not None:
        yield f"refund     {print_id(REFUND, operation.refund_id)}"
    yield f"cause      {operation.cause or 'none is known'}, after {operation.attempt} attempts"
    yield f"tries      {_tries_of(retry)} of the retry budget"
    sent = "never sent" if intent.first_sent_at is None else f"first sent {intent.first_sent_at:%Y-%m-%d %H:%M:%S} UTC"
    yield f"age        {sent}" + _window_in_words(outlook.safe_for)
    yield f"next       {outlook.text}"
    for each in evidence:
        told = ", ".join(
            f"{name} {each.body[name]}"
            for name in ("attempt", "outcome", "cause", "evidence", "by")
            if each.body.get(name)
        )
        yield f"{each.at:%Y-%m-%d %H:%M:%S}  {each.kind}: {told}"
