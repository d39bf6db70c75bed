"""`dead-letters`: operations that wait for a person."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from coatcheck.cli.failures import UnusableError
from coatcheck.cli.opening import at_desk, settings_of
from coatcheck.cli.options import Tool, id_of, with_config, with_person
from coatcheck.cli.tables import print_table

if TYPE_CHECKING:
    from coatcheck.api.gateway import Gateway
    from coatcheck.dead_letters import (
        DeadLetter,
        DeadLetters,
        Proposal,
        Replay,
        ReplayProposal,
    )
    from coatcheck.operations import Evidence, UndecidedQuery
    from coatcheck.providers.outcome import Outcome

_Result = TypeVar("_Result")


@click.group("dead-letters", cls=Tool, short_help="What waits for a person: look, retry, resolve.")
def dead_letters() -> None:
    """Look after work that used up its retries, or must not be retried.

    Each says what is safe to do. A retry passes the same gate as every attempt: outside the provider's window nothing
    is sent again. What became of one by hand takes two people: one resolves, another confirms.
    """


def _with_filters(command: Callable[..., _Result]) -> Callable[..., _Result]:
    for option in (
        click.option("--older-than-s", type=click.IntRange(0), help="Only those committed so many seconds ago."),
        click.option("--cause", metavar="TEXT", help="Only those whose cause has this in it."),
        click.option("--provider", metavar="NAME", help="Only those of this provider."),
    ):
        command = option(command)
    return command


@dead_letters.command("list", short_help="List them, oldest first.")
@_with_filters
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="The most shown.")
@with_config
def list_letters(
    *, provider: str | None, cause: str | None, older_than_s: int | None, limit: int, config: Path | None
) -> int:
    """List what waits for a person, in every shop, the oldest first, with what is safe to do about each.

    \b
    Example:
      coatcheck dead-letters list --cause "read timeout" --older-than-s 3600
    """  # noqa: D301

    async def work(gateway: "Gateway") -> "list[DeadLetter]":
        query = undecided_query(gateway, provider, cause, older_than_s)
        return await _letters(gateway).find(query, limit=limit)

    found = at_desk(settings_of(config), work)
    if not found:
        click.echo("Nothing waits for a person.")
        return 0
    _print_letters(found)
    click.echo("\n`coatcheck dead-letters show ID` has the evidence and what is safe to do.")
    return 0


@dead_letters.command(short_help="Show one with its evidence.")
@click.argument("operation_id", metavar="ID")
@with_config
def show(operation_id: str, config: Path | None) -> int:
    """Show the dead letter ID (op_...): cause, evidence, age against the provider's window, and what is safe."""

    async def work(gateway: "Gateway") -> "tuple[DeadLetter, list[Evidence]]":
        letter = await _letter(gateway, operation_id)
        return letter, await _letters(gateway).evidence(letter)

    letter, evidence = at_desk(settings_of(config), work)
    for line in _letter_lines(letter, evidence):
        click.echo(line)
    return 0


@dead_letters.command("retry", short_help="Have one asked about again.")
@click.argument("operation_id", metavar="ID")
@with_person
@with_config
def retry_letter(operation_id: str, by: str, config: Path | None) -> int:
    """Have the dead letter ID asked about again, as far as the provider's window allows.

    A gateway that runs takes it within a second. Whether it is sent or only looked up is the gate's decision.
    """

    async def work(gateway: "Gateway") -> "tuple[DeadLetter, bool]":
        from coatcheck.dead_letters import person_named  # noqa: PLC0415

        letter = await _letter(gateway, operation_id)
        return letter, bool(await _letters(gateway).retry([letter], person_named(by)))

    letter, is_due = at_desk(settings_of(config), work)
    if is_due:
        click.echo(f"{operation_id} is due now: the next gateway that looks will {_how(letter)}.")
    else:
        click.echo(f"{operation_id} is being asked about already. `coatcheck explain {operation_id}` says how it goes.")
    return 0


@dead_letters.command(short_help="Have many asked about again; --dry-run first.")
@_with_filters
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True, help="The most at once.")
@click.option("--dry-run", is_flag=True, help="Only say which, and how each would be asked.")
@with_person
@with_config
def replay(
    *,
    provider: str | None,
    cause: str | None,
    older_than_s: int | None,
    limit: int,
    dry_run: bool,
    by: str,
    config: Path | None,
) -> int:
    """Have many dead letters asked about again, the oldest first, at most 100 at once and a tenth of a second apart.

    More than the setting replay_alone_most wait until another person confirms them, within 24 hours.

    \b
    Example:
      coatcheck dead-letters replay --provider stripe --by ada --dry-run
    """  # noqa: D301

    async def work(gateway: "Gateway") -> "Replay":
        from coatcheck.dead_letters import person_named  # noqa: PLC0415

        query = undecided_query(gateway, provider, cause, older_than_s)
        return await _letters(gateway).replay(query, person_named(by), most=limit, dry_run=dry_run)

    done = at_desk(settings_of(config), work)
    _print_letters(done.letters)
    told = "would be asked about; nobody was" if dry_run else "are due now"
    if done.proposal is not None:
        _print_proposal(done.proposal, len(done.letters))
        return 0
    click.echo(f"{len(done.letters)} {told}." + (" So many take a second person." if done.takes_two else ""))
    return 0


def _print_proposal(proposal: "ReplayProposal", letters: int) -> None:
    from coatcheck.dead_letters import REPLAY  # noqa: PLC0415
    from coatcheck.ids import print_id  # noqa: PLC0415

    click.echo(f"{letters} need a second person before {proposal.expires_at:%Y-%m-%d %H:%M} UTC; nobody was asked:")
    click.echo(f"  coatcheck dead-letters confirm-replay {print_id(REPLAY, proposal.replay_id)} --by NAME")


@dead_letters.command("confirm-replay", short_help="Confirm that many are asked about again.")
@click.argument("replay_id", metavar="REPLAY")
@with_person
@with_config
def confirm_replay(replay_id: str, by: str, config: Path | None) -> int:
    """Confirm the REPLAY (rpl_...) that another person proposed: what it names is asked about again.

    What was asked about since they were looked at is left alone.
    """

    async def work(gateway: "Gateway") -> "Replay":
        from coatcheck.dead_letters import REPLAY, person_named  # noqa: PLC0415

        return await _letters(gateway).confirm_replay(
            id_of(REPLAY, replay_id), undecided_query(gateway), person_named(by)
        )

    done = at_desk(settings_of(config), work)
    _print_letters(done.letters)
    click.echo(f"{len(done.letters)} are due now.")
    return 0


@dead_letters.command(short_help="Say what became of one, for another to confirm.")
@click.argument("operation_id", metavar="ID")
@click.argument("word", type=click.Choice(["charged", "not_charged", "done", "not_done"]))
@click.option("--reason", required=True, metavar="TEXT", help="How you know; it is written down.")
@click.option("--provider-reference", metavar="ID", help="The provider's own id of it, where it was done.")
@with_person
@with_config
def resolve(
    *, operation_id: str, word: str, reason: str, provider_reference: str | None, by: str, config: Path | None
) -> int:
    """Say what became of the dead letter ID: of a charge charged or not_charged, of others done or not_done.

    Nothing is booked until another person confirms it within 24 hours.

    \b
    Example:
      coatcheck dead-letters resolve op_... charged --provider-reference ch_... --reason "in the dashboard" --by ada
    """  # noqa: D301

    async def work(gateway: "Gateway") -> "Proposal":
        from coatcheck.dead_letters import Finding, Word, person_named  # noqa: PLC0415

        letter = await _letter(gateway, operation_id)
        finding = Finding(word=Word(word), reason=reason, provider_reference=provider_reference)
        query = undecided_query(gateway)
        return await _letters(gateway).propose(letter.operation.intent.operation_id, query, finding, person_named(by))

    proposal = at_desk(settings_of(config), work)
    from coatcheck.dead_letters import PROPOSAL  # noqa: PLC0415
    from coatcheck.ids import print_id  # noqa: PLC0415

    click.echo(f"Proposed. It needs a second person before {proposal.expires_at:%Y-%m-%d %H:%M} UTC:")
    click.echo(f"  coatcheck dead-letters confirm {operation_id} {print_id(PROPOSAL, proposal.proposal_id)} --by NAME")
    return 0


@dead_letters.command(short_help="Confirm what another person said: it is booked.")
@click.argument("operation_id", metavar="ID")
@click.argument("proposal", metavar="PROPOSAL")
@with_person
@with_config
def confirm(operation_id: str, proposal: str, by: str, config: Path | None) -> int:
    """Confirm the PROPOSAL (prop_...) of another person about the dead letter ID: it is booked.

    Look at `coatcheck dead-letters show ID` and at the provider's dashboard yourself first.
    """

    async def work(gateway: "Gateway") -> "Outcome":
        from coatcheck.dead_letters import PROPOSAL, person_named  # noqa: PLC0415
        from coatcheck.ids import OPERATION  # noqa: PLC0415

        named = id_of(OPERATION, operation_id)
        return await _letters(gateway).confirm(
            named, id_of(PROPOSAL, proposal), undecided_query(gateway), person_named(by)
        )

    outcome = at_desk(settings_of(config), work)
    click.echo(f"Booked as {outcome.kind.value}. `coatcheck explain {operation_id}` tells the whole story.")
    return 0


def _letters(gateway: "Gateway") -> "DeadLetters":
    from coatcheck.api.dead_letters import dead_letters_of  # noqa: PLC0415

    return dead_letters_of(gateway)


def undecided_query(
    gateway: "Gateway", provider: str | None = None, cause: str | None = None, older_than_s: int | None = None
) -> "UndecidedQuery":
    """Say which undecided operations of all shops whoever runs the gateway means."""
    from datetime import timedelta  # noqa: PLC0415

    from coatcheck.operations import UndecidedQuery  # noqa: PLC0415

    before = None if older_than_s is None else gateway.clock.now() - timedelta(seconds=older_than_s)
    return UndecidedQuery(provider=provider, cause=cause, made_until=before)


async def _letter(gateway: "Gateway", operation_id: str) -> "DeadLetter":
    from coatcheck.ids import OPERATION  # noqa: PLC0415

    letter = await _letters(gateway).read(id_of(OPERATION, operation_id), undecided_query(gateway))
    if letter is None:
        raise UnusableError(
            f"no dead letter {operation_id}: it is unknown here, or decided by now; `coatcheck explain {operation_id}` "
            "says which"
        )
    return letter


def _amount_of(letter: "DeadLetter") -> str:
    from coatcheck.money import format_amount  # noqa: PLC0415

    intent = letter.operation.intent
    return f"{format_amount(intent.amount_minor, intent.currency)} {intent.currency}"


def _print_letters(letters: "Sequence[DeadLetter]") -> None:
    rows = [
        (
            *(letter.operation.intent.reference, letter.operation.intent.kind.value, letter.payment_order_id),
            _amount_of(letter),
            *(letter.operation.provider, _tries_of(letter), letter.operation.cause or "-"),
            "being asked" if letter.is_retrying else letter.advice.action.value.replace("_", " "),
        )
        for letter in letters
    ]
    print_table(("id", "asks", "order", "amount", "provider", "tries", "cause", "safe"), rows)


def _tries_of(letter: "DeadLetter") -> str:
    return f"{letter.operation.tries} of {letter.retry_budget}"


def _how(letter: "DeadLetter") -> str:
    """Say what the gate would do with a dead letter now."""
    words = {"send": "send it under the same key", "look_up": "look it up", "register": "register it, then send it"}
    step = letter.advice.step
    return "not ask: it has no settings for the provider" if step is None else words[step.value]


def _letter_lines(letter: "DeadLetter", evidence: "Sequence[Evidence]") -> Iterator[str]:
    from coatcheck.dead_letters import PROPOSAL  # noqa: PLC0415
    from coatcheck.ids import PAYMENT, print_id  # noqa: PLC0415
    from coatcheck.states import OperationKind  # noqa: PLC0415

    operation, intent, advice = letter.operation, letter.operation.intent, letter.advice
    yield f"{intent.reference}: a {intent.kind.value} of {_amount_of(letter)} at {operation.provider}"
    if intent.kind is OperationKind.PAYOUT:
        yield f"payout     {letter.payment_order_id}, to seller {operation.seller_account}"
    else:
        yield f"payment    {print_id(PAYMENT, operation.payment_id)}, order {letter.payment_order_id}"
    yield f"cause      {operation.cause or 'none is known'}, after {operation.attempt} attempts"
    yield f"tries      {_tries_of(letter)} of the retry budget"
    sent = "never sent" if intent.first_sent_at is None else f"first sent {intent.first_sent_at:%Y-%m-%d %H:%M:%S} UTC"
    yield f"age        {sent}" + (
        "" if advice.window is None else f"; the provider remembers our key for {advice.window}"
    )
    yield f"safe       {advice.text}"
    if letter.proposal is not None:
        said = letter.proposal
        yield f"proposed   {print_id(PROPOSAL, said.proposal_id)}, until {said.expires_at:%Y-%m-%d %H:%M:%S} UTC"
        yield f"           {said.proposed_by} says {said.word.value}: {said.reason}"
    for each in evidence:
        told = ", ".join(
            f"{name} {each.body[name]}"
            for name in ("attempt", "outcome", "cause", "evidence", "by")
            if each.body.get(name)
        )
        yield f"{each.at:%Y-%m-%d %H:%M:%S}  {each.kind}: {told}"
