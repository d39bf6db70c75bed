"""`webhooks`: events of PSPs that nobody could handle."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coatcheck.cli.opening import at_desk, settings_of, with_store
from coatcheck.cli.options import Tool, id_of, with_config, with_person
from coatcheck.cli.tables import print_table

if TYPE_CHECKING:
    from coatcheck.api.gateway import Gateway
    from coatcheck.inbox import Evidence, Foresight, StoredEvent
    from coatcheck.store import Store


@click.group(cls=Tool, short_help="PSPs' events that wait for a person: look, retry, dismiss.")
def webhooks() -> None:
    """Look after events of PSPs that cannot be read, or name an operation that nobody here knows.

    A retry compares the event like any other, so it is safe at any age. Dismissing one moves no money and takes one
    person; what the PSP sent stays stored.
    """


@webhooks.command("list", short_help="List them, oldest first.")
@click.option("--provider", metavar="NAME", help="Only those of this provider.")
@click.option("--cause", metavar="TEXT", help="Only those whose cause has this in it.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="The most shown.")
@with_config
def list_events(*, provider: str | None, cause: str | None, limit: int, config: Path | None) -> int:
    """List the events that wait for a person, the oldest first, and why each does.

    \b
    Example:
      coatcheck webhooks list --provider stripe --cause "not known here"
    """  # noqa: D301
    from coatcheck import inbox  # noqa: PLC0415

    found = with_store(
        settings_of(config), lambda store: inbox.dead(store, provider=provider, cause=cause, limit=limit)
    )
    if not found:
        click.echo("No event waits for a person.")
        return 0
    _print_events(found)
    click.echo("\n`coatcheck webhooks show ID` has the headers and the body.")
    return 0


@webhooks.command("show", short_help="Show one with its headers and body.")
@click.argument("inbox_id", metavar="ID")
@with_config
def show_event(inbox_id: str, config: Path | None) -> int:
    """Show the event ID (in_...), also when it is handled: why it waits, what was done about it, headers and body.

    What looks like a card number is taken out. The body may say who the buyer is.
    """
    from coatcheck.ids import INBOX  # noqa: PLC0415

    wanted = id_of(INBOX, inbox_id)

    async def work(store: "Store") -> "tuple[StoredEvent, list[Evidence]]":
        from coatcheck import inbox  # noqa: PLC0415

        return await inbox.read(store, wanted), await inbox.evidence(store, wanted)

    for line in _event_lines(*with_store(settings_of(config), work)):
        click.echo(_plain(line))
    return 0


@webhooks.command("retry", short_help="Have some handled again.")
@click.argument("inbox_ids", metavar="ID...", nargs=-1, required=True)
@with_person
@with_config
def retry_events(*, inbox_ids: Sequence[str], by: str, config: Path | None) -> int:
    """Have the events ID (in_...) handled again, one more try each, by the next gateway that looks.

    \b
    Example:
      coatcheck webhooks retry in_54c4ouqu2wpojs2lahkotag5ki --by ada
    """  # noqa: D301
    from coatcheck import inbox  # noqa: PLC0415
    from coatcheck.clock import SystemClock  # noqa: PLC0415
    from coatcheck.dead_letters import person_named  # noqa: PLC0415
    from coatcheck.ids import INBOX  # noqa: PLC0415

    wanted, person = {id_of(INBOX, each): each for each in inbox_ids}, person_named(by)
    retried = with_store(settings_of(config), lambda store: inbox.retry(store, SystemClock(), list(wanted), person))
    for inbox_id, printed in wanted.items():
        if inbox_id in retried:
            click.echo(f"{printed} is due now. `coatcheck webhooks show {printed}` says how it went.")
        else:
            click.echo(f"{printed} does not wait for a person: it is due or handled by now, or unknown here.")
    return 0


@webhooks.command("replay", short_help="Have many handled again; --dry-run first.")
@click.option("--provider", metavar="NAME", help="Only those of this provider.")
@click.option("--cause", metavar="TEXT", help="Only those whose cause has this in it.")
@click.option("--older-than-s", type=click.IntRange(0), help="Only those received so many seconds ago.")
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True, help="The most at once.")
@click.option("--dry-run", is_flag=True, help="Only say which, and what would come of each.")
@with_person
@with_config
def replay_events(
    *,
    provider: str | None,
    cause: str | None,
    older_than_s: int | None,
    limit: int,
    dry_run: bool,
    by: str,
    config: Path | None,
) -> int:
    """Have many events handled again, the oldest first, at most 100 at once: one more try each.

    \b
    Example:
      coatcheck webhooks replay --provider stripe --cause "not known here" --by ada --dry-run
    """  # noqa: D301

    async def work(gateway: "Gateway") -> "list[tuple[StoredEvent, Foresight]]":
        from datetime import timedelta  # noqa: PLC0415

        from coatcheck import inbox  # noqa: PLC0415
        from coatcheck.dead_letters import person_named  # noqa: PLC0415

        before = None if older_than_s is None else gateway.clock.now() - timedelta(seconds=older_than_s)
        query = inbox.EventQuery(provider=provider, cause=cause, received_until=before)
        person = person_named(by)
        done = await inbox.replay(gateway.store, gateway.clock, query, person, most=limit, dry_run=dry_run)
        foreseen = await gateway.inbox.foresee([event.inbox_id for event in done.events])
        return [(event, foreseen[event.inbox_id]) for event in done.events]

    done = at_desk(settings_of(config), work)
    _print_replayed(done)
    click.echo(f"{len(done)} {'would be handled again; none was' if dry_run else 'are due now'}.")
    return 0


@webhooks.command("dismiss", short_help="Close one that needs no handling.")
@click.argument("inbox_id", metavar="ID")
@click.option("--reason", required=True, metavar="TEXT", help="Why nothing is to be done; it is written down.")
@with_person
@with_config
def dismiss_event(*, inbox_id: str, reason: str, by: str, config: Path | None) -> int:
    """Close the event ID (in_...) without handling it. It moves no money, and what the PSP sent stays stored.

    \b
    Example:
      coatcheck webhooks dismiss in_... --reason "of the installation we had before" --by ada
    """  # noqa: D301
    from coatcheck import inbox  # noqa: PLC0415
    from coatcheck.clock import SystemClock  # noqa: PLC0415
    from coatcheck.dead_letters import person_named  # noqa: PLC0415
    from coatcheck.ids import INBOX  # noqa: PLC0415

    wanted, person = id_of(INBOX, inbox_id), person_named(by)
    is_new = with_store(settings_of(config), lambda store: inbox.dismiss(store, SystemClock(), wanted, reason, person))
    click.echo(f"{inbox_id} is dismissed." if is_new else f"{inbox_id} was dismissed before; the first reason stays.")
    return 0


def _print_events(events: "Sequence[StoredEvent]") -> None:
    from coatcheck.ids import INBOX, print_id  # noqa: PLC0415

    rows = [
        [
            *(print_id(INBOX, event.inbox_id), event.provider, event.mode.value, event.type or "-", event.event_id),
            *(f"{event.received_at:%Y-%m-%d %H:%M}", str(event.attempts), event.cause or "-"),
        ]
        for event in events
    ]
    print_table(
        ("id", "provider", "mode", "type", "event", "received (UTC)", "attempts", "cause"),
        [[_plain(cell) for cell in row] for row in rows],
    )


def _print_replayed(done: "Sequence[tuple[StoredEvent, Foresight]]") -> None:
    from coatcheck.ids import INBOX, print_id  # noqa: PLC0415

    rows = [
        (
            *(print_id(INBOX, event.inbox_id), event.provider, event.mode.value, event.type or "-", event.event_id),
            *(event.cause or "-", "it is compared" if each.why is None else f"it waits again: {each.why}"),
        )
        for event, each in done
    ]
    print_table(
        ("id", "provider", "mode", "type", "event", "cause", "as things stand"),
        [[_plain(cell) for cell in row] for row in rows],
    )


def _event_lines(event: "StoredEvent", evidence: "Sequence[Evidence]") -> Iterator[str]:
    from coatcheck.ids import INBOX, print_id  # noqa: PLC0415

    what = event.type or "an event of no type that can be read"
    yield f"{print_id(INBOX, event.inbox_id)}: {what}, {event.provider} in {event.mode.value} mode"
    yield f"event      {event.event_id} of the account {event.account}"
    yield f"received   {event.received_at:%Y-%m-%d %H:%M:%S} UTC"
    yield f"state      {_state_of(event)}"
    yield f"cause      {event.cause or 'none is known'}"
    for each in evidence:
        told = ", ".join(
            f"{name} {each.body[name]}" for name in ("alert", "attempt", "cause", "reason", "by") if each.body.get(name)
        )
        yield f"{each.at:%Y-%m-%d %H:%M:%S}  {each.kind}: {told}"
    yield "\nHeaders:"
    yield from (f"{name}: {value}" for name, value in event.headers.items())
    yield f"\nBody:\n{event.body}"


def _state_of(event: "StoredEvent") -> str:
    if event.outcome is not None:
        return f"{event.outcome.value}, {event.handled_at:%Y-%m-%d %H:%M:%S} UTC"
    if event.due_at is not None:
        return f"due {event.due_at:%Y-%m-%d %H:%M:%S} UTC, after {event.attempts} attempts"
    return f"waits for a person, after {event.attempts} attempts"


def _plain(text: str) -> str:
    """Write what would move the cursor, or hide, as an escape: these words come from outside."""
    return "".join(
        each if each.isprintable() or each == "\n" else each.encode("unicode_escape").decode() for each in text
    )
