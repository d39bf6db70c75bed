"""`breaks`: where files and books differ, and what two people say of it."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coatcheck.cli.failures import UnusableError
from coatcheck.cli.opening import at_desk, settings_of
from coatcheck.cli.options import Tool, id_of, with_config, with_person
from coatcheck.cli.tables import print_table

if TYPE_CHECKING:
    from coatcheck.api.gateway import Gateway
    from coatcheck.reconciliation.breaks import BreakProposal, ListedBreak

_DESTINATIONS = ("fee", "dispute_fee", "commission", "seller", "bank", "receivable", "payout", "nothing")


@click.group(cls=Tool, short_help="Where files and books differ: look, explain, confirm.")
def breaks() -> None:
    """Look after breaks: where a settlement file or a bank statement and the books differ.

    What neither a later file nor the provider explains takes two people: one proposes where the money in suspense
    belongs, another confirms it.
    """


@breaks.command("list", short_help="List them, oldest first.")
@click.option("--all", "shows_all", is_flag=True, help="Closed ones, too.")
@click.option("--kind", metavar="KIND", help="Only those of this kind, such as missing_here.")
@click.option("--provider", metavar="NAME", help="Only those of this provider; `bank` for bank statements.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="The most shown.")
@with_config
def list_breaks(*, shows_all: bool, kind: str | None, provider: str | None, limit: int, config: Path | None) -> int:
    """List breaks of every shop, the oldest first.

    \b
    Example:
      coatcheck breaks list --kind missing_here
    """  # noqa: D301

    async def work(gateway: "Gateway") -> "list[ListedBreak]":
        from coatcheck.reconciliation.breaks import BreakKind, BreakQuery, BreakStatus  # noqa: PLC0415

        known = [each.value for each in BreakKind]
        if kind is not None and kind not in known:
            raise click.UsageError(f"{kind!r} is no kind of break: {', '.join(known)}")
        query = BreakQuery(
            status=None if shows_all else BreakStatus.OPEN,
            kind=None if kind is None else BreakKind(kind),
            provider=provider,
        )
        return await gateway.breaks.find(query, limit=limit)

    found = at_desk(settings_of(config), work)
    if not found:
        click.echo("No break is open." if not shows_all else "There are no breaks.")
        return 0
    _print_breaks(found)
    click.echo("\n`coatcheck breaks show ID` has all of one.")
    return 0


@breaks.command(short_help="Show one.")
@click.argument("break_id", metavar="ID")
@with_config
def show(break_id: str, config: Path | None) -> int:
    """Show the break ID (brk_...): what the file says, what the books say, and what somebody has said of it."""

    async def work(gateway: "Gateway") -> "ListedBreak":
        return await _break(gateway, break_id)

    for line in _lines_of(at_desk(settings_of(config), work)):
        click.echo(line)
    return 0


@breaks.command(short_help="Say what one is, for another to confirm.")
@click.argument("break_id", metavar="ID")
@click.argument("destination", type=click.Choice(_DESTINATIONS))
@click.option("--account", metavar="NAME", help="Whose: the seller, the account at the bank, or the provider.")
@click.option("--note", required=True, metavar="TEXT", help="What it is; it is written down.")
@click.option("--evidence", required=True, metavar="TEXT", help="How you know, and where it can be seen.")
@with_person
@with_config
def propose(
    *,
    break_id: str,
    destination: str,
    account: str | None,
    note: str,
    evidence: str,
    by: str,
    config: Path | None,
) -> int:
    """Say where the money of the break ID belongs: the account to which it goes out of suspense.

    Nothing is booked until another person confirms it within 24 hours. `nothing` closes a break of which no money
    stands in suspense.

    \b
    Example:
      coatcheck breaks propose brk_... fee --note "dispute fee" --evidence "invoice 11, page 3" --by ada
    """  # noqa: D301

    async def work(gateway: "Gateway") -> "BreakProposal":
        from coatcheck.dead_letters import person_named  # noqa: PLC0415
        from coatcheck.reconciliation.breaks import BreakQuery, Destination, Explanation  # noqa: PLC0415

        listed = await _break(gateway, break_id)
        said = Explanation(destination=Destination(destination), note=note, evidence=evidence, account=account)
        return await gateway.breaks.propose(listed.found.break_id, BreakQuery(), said, person_named(by))

    proposal = at_desk(settings_of(config), work)
    from coatcheck.ids import print_id  # noqa: PLC0415
    from coatcheck.reconciliation.breaks import PROPOSAL  # noqa: PLC0415

    click.echo(f"Proposed. It needs a second person before {proposal.expires_at:%Y-%m-%d %H:%M} UTC:")
    click.echo(f"  coatcheck breaks confirm {break_id} {print_id(PROPOSAL, proposal.proposal_id)} --by NAME")
    return 0


@breaks.command(short_help="Confirm what another person said: it is booked.")
@click.argument("break_id", metavar="ID")
@click.argument("proposal", metavar="PROPOSAL")
@with_person
@with_config
def confirm(break_id: str, proposal: str, by: str, config: Path | None) -> int:
    """Confirm the PROPOSAL (prop_...) of another person about the break ID: it is closed, and its money moves.

    Look at `coatcheck breaks show ID` and at the evidence yourself first.
    """

    async def work(gateway: "Gateway") -> "ListedBreak":
        from coatcheck.dead_letters import person_named  # noqa: PLC0415
        from coatcheck.reconciliation.breaks import BREAK, PROPOSAL, BreakQuery  # noqa: PLC0415

        named = id_of(BREAK, break_id)
        return await gateway.breaks.confirm(named, id_of(PROPOSAL, proposal), BreakQuery(), person_named(by))

    listed = at_desk(settings_of(config), work)
    where = "" if listed.proposal is None else f", {listed.proposal.account_name or 'nothing'} has its money"
    click.echo(f"Closed by {listed.found.closed_by}{where}.")
    return 0


async def _break(gateway: "Gateway", break_id: str) -> "ListedBreak":
    from coatcheck.reconciliation.breaks import BREAK, BreakQuery  # noqa: PLC0415

    listed = await gateway.breaks.read(id_of(BREAK, break_id), BreakQuery())
    if listed is None:
        raise UnusableError(f"no break {break_id}: `coatcheck breaks list --all` shows those that there are")
    return listed


def _print_breaks(found: "Sequence[ListedBreak]") -> None:
    from coatcheck.api.breaks import break_body  # noqa: PLC0415

    bodies = [break_body(each) for each in found]
    rows = [
        (
            *(each.break_id, each.kind.value, each.provider, each.file or "-", str(each.line or "-")),
            *(each.expected or "-", each.stated or "-", each.in_suspense or "-", each.currency or "-"),
            _state(each.closed_at is None, is_proposed=each.proposal is not None),
        )
        for each in bodies
    ]
    print_table(
        ("id", "kind", "provider", "file", "line", "ours", "the file's", "in suspense", "currency", "state"), rows
    )


def _state(is_open: bool, *, is_proposed: bool) -> str:  # noqa: FBT001 - two words for one cell
    if not is_open:
        return "closed"
    return "proposed" if is_proposed else "open"


def _lines_of(listed: "ListedBreak") -> Iterator[str]:
    from coatcheck.api.breaks import break_body  # noqa: PLC0415

    body = break_body(listed)
    currency = f" {body.currency}" if body.currency else ""
    yield f"{body.break_id}: {body.kind.value}, {body.status.value}"
    yield f"of         {body.provider}" + (f", {body.file}, line {body.line or '-'}" if body.file else "")
    yield f"about      {body.detail}"
    if body.operation_id is not None:
        yield f"operation  {body.operation_id}: `coatcheck explain {body.operation_id}`"
    yield f"ours       {body.expected or '-'}{currency}"
    yield f"theirs     {body.stated or '-'}{currency}"
    if body.in_suspense is not None:
        yield f"suspense   {body.in_suspense}{currency}"
    yield f"since      {body.opened_at:%Y-%m-%d %H:%M:%S} UTC"
    if body.proposal is not None:
        said = body.proposal
        yield f"proposed   {said.proposal_id}, until {said.expires_at:%Y-%m-%d %H:%M:%S} UTC"
        yield f"           {said.proposed_by}: {said.note}; to {said.account_name or 'nowhere'}"
        yield f"           evidence: {said.evidence}"
    if body.closed_at is not None:
        yield f"closed     {body.closed_at:%Y-%m-%d %H:%M:%S} UTC by {body.closed_by}: {body.reason}"
