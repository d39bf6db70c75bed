"""The command line: reads arguments, calls the rest, and puts every failure into one line that says what to do."""

import asyncio
import errno
import os
import shutil
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from subprocess import SubprocessError
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from coatcheck import __version__

# Everything else is imported by the command that needs it, so that --help answers at once.
if TYPE_CHECKING:
    from uuid import UUID

    from coatcheck.api.gateway import Gateway
    from coatcheck.audit import InvariantResult
    from coatcheck.config import Settings
    from coatcheck.dead_letters import DeadLetter, DeadLetterQuery, DeadLetters, Evidence, Proposal, Replay
    from coatcheck.explain import Story
    from coatcheck.providers.outcome import Outcome
    from coatcheck.store import Store

_Result = TypeVar("_Result")

_EXIT_VIOLATION = 1
_EXIT_UNUSABLE = 2
_EXIT_INTERRUPTED = 130
_SIMULATOR_PORT = 8090
_ROWS_SHOWN = 10
_PORT = click.IntRange(0, 65535)
_WIDTH_OF_A_FILE = 200  # a table that is not for a terminal must not be folded at 80 columns

# The simulator's chaos dial: (field, default, what it does). A test holds it against the simulator's own.
DIAL: tuple[tuple[str, float, str], ...] = (
    ("seed", 1, "Which sendings go wrong; the same seed and keys meet the same faults."),
    ("latency_ms", 0, "Time added to every answer."),
    ("latency_jitter_ms", 0, "Up to so much more of it, at random."),
    ("slow_share", 0.0, "Share of charges that are slow, 0 to 1."),
    ("slow_ms", 2000, "How slow those are."),
    ("drop_after_charge_share", 0.0, "Share charged, then the connection closed without an answer."),
    ("error_before_share", 0.0, "Share answered 500 with nothing done."),
    ("error_after_share", 0.0, "Share charged, then answered 500."),
    ("rate_limit_share", 0.0, "Share answered 429 with nothing done."),
    ("retry_after_s", 1, "The Retry-After of a 429."),
    ("max_faults_per_key", 3, "Faults one key meets before it is left in peace; 0 means no end."),
    ("decline_share", 0.0, "Share declined although the token says otherwise."),
    ("look_up_error_share", 0.0, "Share of look-ups answered 500."),
    ("search_lag_ms", 0, "How long a charge stays invisible to the search by reference."),
    ("refund_settle_ms", 0, "When a refund of tok_refund_pending succeeds; 0 leaves it to the admin API."),
    ("refund_fails_later_ms", 0, "When a refund of tok_refund_fails_later comes back; 0 leaves it to the admin API."),
    ("webhook_lost_share", 0.0, "Share of events never sent."),
    ("webhook_duplicate_share", 0.0, "Share of events sent twice."),
    ("webhook_late_share", 0.0, "Share of events sent late."),
    ("webhook_late_ms", 2000, "How late those are."),
    ("webhook_reorder_share", 0.0, "Share of events held back behind the next one."),
    ("webhook_forged_share", 0.0, "Share of events with a forgery beside them."),
    ("webhook_wrong_amount_share", 0.0, "Share of events with an authentic one of a wrong amount beside them."),
)


class UnusableError(Exception):
    """The command cannot do its work; the text says why and what to do."""


class _Tool(click.Group):
    """A group that lists its commands as they are needed, not by the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(self.commands)


def _with_config(command: Callable[..., _Result]) -> Callable[..., _Result]:
    return click.option(
        "--config",
        "config",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Settings file; without it COATCHECK_CONFIG, then ./coatcheck.toml.",
    )(command)


@click.group(cls=_Tool, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="coatcheck", message="%(prog)s %(version)s")
def coatcheck() -> None:
    """Coatcheck, a payment gateway for marketplaces.

    A retry never charges twice, a crash never loses a payment, and the books always prove it.

    \b
    See it work, in about a minute:
      coatcheck demo

    \b
    Run it:
      coatcheck simulator &                  a PSP to play with, on port 8090
      coatcheck serve &                      the gateway, on port 8080
      coatcheck keys create --shop hats      an API key, shown once
      coatcheck audit                        ask the books whether all is well

    \b
    Charge real cards:
      export COATCHECK_STRIPE_API_KEY=sk_test_...
      coatcheck serve --provider stripe

    Settings come from the environment and a TOML file: `coatcheck settings` shows them. While the gateway runs, its API
    is described at /schema, its health at /health/ready, its figures at /metrics.
    """  # noqa: D301 - \b is click's mark for a paragraph that keeps its lines


@coatcheck.command()
@click.option("--host", help="The address to listen on. [default: 127.0.0.1]")
@click.option("--port", metavar="PORT", type=_PORT, help="The port to listen on; 0 takes a free one. [default: 8080]")
@click.option("--provider", help="The PSP that charges: simulator or stripe. [default: simulator]")
@_with_config
def serve(host: str | None, port: int | None, provider: str | None, config: Path | None) -> int:
    """Run the gateway.

    Starts the embedded PostgreSQL under ./coatcheck-data (or uses DATABASE_URL), brings the schema up to date, and
    serves the API. Any number of gateways may share one database. SIGTERM finishes what is in flight and exits 0.

    \b
    Examples:
      coatcheck serve
      coatcheck serve --port 9000 --config /etc/coatcheck.toml
      COATCHECK_STRIPE_API_KEY=sk_test_... coatcheck serve --provider stripe

    Next: `coatcheck keys create --shop NAME` in another terminal.
    """  # noqa: D301
    settings = _settings(config, host=host, port=port, provider=provider)
    _log_as(settings.log_level, settings.log_format)
    from coatcheck import wiring  # noqa: PLC0415

    return wiring.serve(settings)


def _with_dial(command: Callable[..., _Result]) -> Callable[..., _Result]:
    for name, default, meaning in reversed(DIAL):
        command = click.option(
            "--" + name.replace("_", "-"), name, type=type(default), default=default, show_default=True, help=meaning
        )(command)
    return command


@coatcheck.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", metavar="PORT", type=_PORT, default=_SIMULATOR_PORT, show_default=True, help="0: a free one.")
@click.option(
    "--window-s", type=click.FloatRange(0), default=86_400.0, help="How long a key is remembered. [default: a day]"
)
@click.option("--slow-s", type=click.FloatRange(0), default=3.0, show_default=True, help="How long tok_slow takes.")
@click.option("--no-cache-errors", is_flag=True, help="Remember only successful answers under a key.")
@click.option("--books", type=click.Path(dir_okay=False, path_type=Path), help="Keep the books in this file.")
@click.option(
    "--authorization-life-s",
    type=click.FloatRange(0),
    default=604_800.0,
    help="How long an authorization can be captured. [default: a week]",
)
@click.option(
    "--session-life-s", type=click.FloatRange(0), default=1800.0, show_default=True, help="How long a page can be paid."
)
@click.option("--webhook-url", metavar="URL", help="Where events are sent. [default: nowhere]")
@click.option("--webhook-secret", default="whsec_simulator", show_default=True, help="What signs the events.")
@_with_dial
def simulator(
    *,
    host: str,
    port: int,
    window_s: float,
    slow_s: float,
    no_cache_errors: bool,
    books: Path | None,
    authorization_life_s: float,
    session_life_s: float,
    webhook_url: str | None,
    webhook_secret: str,
    **dial: float,
) -> int:
    """Run a simulated PSP, with faults on request.

    A PSP of its own: idempotency keys that it forgets after --window-s, and books that say what was really charged. The
    options ending in -share turn faults on, for that share of all sendings.

    \b
    Examples:
      coatcheck simulator
      coatcheck simulator --drop-after-charge-share 0.03 --error-after-share 0.01 --decline-share 0.05
    """  # noqa: D301
    import msgspec  # noqa: PLC0415

    from coatcheck.simulator import server  # noqa: PLC0415
    from coatcheck.simulator.chaos import Dial  # noqa: PLC0415

    try:
        turned = msgspec.convert(dial, Dial)
    except msgspec.ValidationError as error:
        raise click.UsageError(f"the chaos options do not fit: {error}") from error
    if webhook_url is not None and not server.is_address(webhook_url):
        raise click.UsageError(f"--webhook-url takes an http or https address, not {webhook_url!r}")
    settings = server.SimulatorSettings(
        host=host,
        port=port,
        key_window_s=window_s,
        cache_errors=not no_cache_errors,
        slow_s=slow_s,
        books=books,
        authorization_life_s=authorization_life_s,
        session_life_s=session_life_s,
        webhook_url=webhook_url,
        webhook_secret=webhook_secret,
        dial=turned,
    )
    with _listening_on(host, port):
        server.run(settings)
    return 0


@coatcheck.group(cls=_Tool)
def keys() -> None:
    """Create, list and revoke API keys."""


@keys.command()
@click.option("--shop", required=True, metavar="NAME", help="The shop; made by this name if it is new.")
@click.option("--live", is_flag=True, help="A key for real money. Test and live are separate worlds.")
@_with_config
def create(*, shop: str, live: bool, config: Path | None) -> int:
    """Print a new API key, once.

    The key alone goes to standard output, so a script can keep it; only its SHA-256 is stored.

    \b
    Example:
      export KEY=$(coatcheck keys create --shop hats)
    """  # noqa: D301
    from coatcheck.clock import SystemClock  # noqa: PLC0415
    from coatcheck.shops import create_key  # noqa: PLC0415
    from coatcheck.states import Mode  # noqa: PLC0415

    mode = Mode.LIVE if live else Mode.TEST
    settings = _settings(config)
    printed, key = _with_store(settings, lambda store: create_key(store, SystemClock(), shop, mode))
    click.echo(printed)
    click.echo(
        f"A {mode} key of the shop {key.shop_name}, id {key.printed_id}. It cannot be shown again: keep it now.\n"
        "With the key in $KEY, try: "
        f'curl -H "Authorization: Bearer $KEY" http://{settings.host}:{settings.port}/v1/payments',
        err=True,
    )
    return 0


@keys.command("list")
@_with_config
def list_(config: Path | None) -> int:
    """List the API keys of every shop, without the keys."""
    from coatcheck.shops import list_keys  # noqa: PLC0415

    found = _with_store(_settings(config), list_keys)
    if not found:
        click.echo("There are no keys yet. `coatcheck keys create --shop NAME` makes one.")
        return 0
    rows = [
        (
            *(key.printed_id, key.shop_name, key.mode.value, f"{key.prefix}...{key.last_four}"),
            f"{key.created_at:%Y-%m-%d %H:%M}",
            "in use" if key.revoked_at is None else f"revoked {key.revoked_at:%Y-%m-%d %H:%M}",
        )
        for key in found
    ]
    _print_table(("id", "shop", "mode", "key", "created (UTC)", "state"), rows)
    return 0


@keys.command(short_help="End an API key, by its id or its letters.")
@click.argument("key")
@_with_config
def revoke(key: str, config: Path | None) -> int:
    """End the API key KEY: its id, or the letters it begins or ends with.

    Every gateway process refuses it within a second. There is no way back: create another one.
    """
    from coatcheck.clock import SystemClock  # noqa: PLC0415
    from coatcheck.shops import revoke_key  # noqa: PLC0415

    ended = _with_store(_settings(config), lambda store: revoke_key(store, SystemClock(), key))
    since = f"{ended.revoked_at:%Y-%m-%d %H:%M}"
    click.echo(f"The key {ended.printed_id} of the shop {ended.shop_name} is revoked since {since} UTC.")
    return 0


@coatcheck.command(short_help="Ask the books whether all is well.")
@_with_config
def audit(config: Path | None) -> int:
    """Ask the books every question that must have no answer.

    Runs all invariants and says for each in words whether it holds. Exits 1 when one does not. It only reads, and may
    run beside the gateway.
    """
    settings = _settings(config)
    from coatcheck.audit import run_invariants  # noqa: PLC0415

    results = _with_store(settings, run_invariants)
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
        return _EXIT_VIOLATION
    click.echo(f"\nAll {len(results)} invariants hold.")
    return 0


def _print_result(result: "InvariantResult") -> None:
    word = click.style("VIOLATED", fg="red", bold=True) if result.violations else click.style("holds   ", fg="green")
    click.echo(f"{word}  {result.name}: {result.meaning}")
    for row in result.violations[:_ROWS_SHOWN]:
        click.echo("            " + ", ".join(f"{name}={value}" for name, value in row.items()))
    if len(result.violations) > _ROWS_SHOWN:
        click.echo(f"            ... and {len(result.violations) - _ROWS_SHOWN} more")


@coatcheck.group("dead-letters", cls=_Tool, short_help="What waits for a person: look, retry, resolve.")
def dead_letters() -> None:
    """Look after work that used up its retries, or must not be retried.

    Each says what is safe to do. A retry passes the same gate as every attempt: outside the provider's window nothing
    is sent again. What became of one by hand takes two people: one resolves, another confirms.
    """


def _with_person(command: Callable[..., _Result]) -> Callable[..., _Result]:
    return click.option("--by", required=True, metavar="NAME", help="Who you are; it is written down.")(command)


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
@_with_config
def list_letters(
    *, provider: str | None, cause: str | None, older_than_s: int | None, limit: int, config: Path | None
) -> int:
    """List what waits for a person, in every shop, the oldest first, with what is safe to do about each.

    \b
    Example:
      coatcheck dead-letters list --cause "read timeout" --older-than-s 3600
    """  # noqa: D301

    async def work(gateway: "Gateway") -> "list[DeadLetter]":
        query = _letter_query(gateway, provider, cause, older_than_s)
        return await _letters(gateway).find(query, limit=limit)

    found = _at_desk(_settings(config), work)
    if not found:
        click.echo("Nothing waits for a person.")
        return 0
    _print_letters(found)
    click.echo("\n`coatcheck dead-letters show ID` has the evidence and what is safe to do.")
    return 0


@dead_letters.command(short_help="Show one with its evidence.")
@click.argument("operation_id", metavar="ID")
@_with_config
def show(operation_id: str, config: Path | None) -> int:
    """Show the dead letter ID (op_...): cause, evidence, age against the provider's window, and what is safe."""

    async def work(gateway: "Gateway") -> "tuple[DeadLetter, list[Evidence]]":
        letter = await _letter(gateway, operation_id)
        return letter, await _letters(gateway).evidence(letter)

    letter, evidence = _at_desk(_settings(config), work)
    for line in _letter_lines(letter, evidence):
        click.echo(line)
    return 0


@dead_letters.command("retry", short_help="Have one asked about again.")
@click.argument("operation_id", metavar="ID")
@_with_person
@_with_config
def retry_letter(operation_id: str, by: str, config: Path | None) -> int:
    """Have the dead letter ID asked about again, as far as the provider's window allows.

    A gateway that runs takes it within a second. Whether it is sent or only looked up is the gate's decision.
    """

    async def work(gateway: "Gateway") -> "tuple[DeadLetter, bool]":
        from coatcheck.dead_letters import person_named  # noqa: PLC0415

        letter = await _letter(gateway, operation_id)
        return letter, bool(await _letters(gateway).retry([letter], person_named(by)))

    letter, is_due = _at_desk(_settings(config), work)
    if is_due:
        click.echo(f"{operation_id} is due now: the next gateway that looks will {_how(letter)}.")
    else:
        click.echo(f"{operation_id} is being asked about already. `coatcheck explain {operation_id}` says how it goes.")
    return 0


@dead_letters.command(short_help="Have many asked about again; --dry-run first.")
@_with_filters
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True, help="The most at once.")
@click.option("--dry-run", is_flag=True, help="Only say which, and how each would be asked.")
@_with_person
@_with_config
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

    \b
    Example:
      coatcheck dead-letters replay --provider stripe --by ada --dry-run
    """  # noqa: D301

    async def work(gateway: "Gateway") -> "Replay":
        from coatcheck.dead_letters import person_named  # noqa: PLC0415

        query = _letter_query(gateway, provider, cause, older_than_s)
        return await _letters(gateway).replay(query, person_named(by), most=limit, dry_run=dry_run)

    done = _at_desk(_settings(config), work)
    _print_letters(done.letters)
    told = "would be asked about; nobody was" if dry_run else "are due now"
    click.echo(f"{len(done.letters)} {told}.")
    return 0


@dead_letters.command(short_help="Say what became of one, for another to confirm.")
@click.argument("operation_id", metavar="ID")
@click.argument("word", type=click.Choice(["charged", "not_charged", "done", "not_done"]))
@click.option("--reason", required=True, metavar="TEXT", help="How you know; it is written down.")
@click.option("--provider-reference", metavar="ID", help="The provider's own id of it, where it was done.")
@_with_person
@_with_config
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
        query = _letter_query(gateway)
        return await _letters(gateway).propose(letter.operation.intent.operation_id, query, finding, person_named(by))

    proposal = _at_desk(_settings(config), work)
    from coatcheck.dead_letters import PROPOSAL  # noqa: PLC0415
    from coatcheck.ids import print_id  # noqa: PLC0415

    click.echo(f"Proposed. It needs a second person before {proposal.expires_at:%Y-%m-%d %H:%M} UTC:")
    click.echo(f"  coatcheck dead-letters confirm {operation_id} {print_id(PROPOSAL, proposal.proposal_id)} --by NAME")
    return 0


@dead_letters.command(short_help="Confirm what another person said: it is booked.")
@click.argument("operation_id", metavar="ID")
@click.argument("proposal", metavar="PROPOSAL")
@_with_person
@_with_config
def confirm(operation_id: str, proposal: str, by: str, config: Path | None) -> int:
    """Confirm the PROPOSAL (prop_...) of another person about the dead letter ID: it is booked.

    Look at `coatcheck dead-letters show ID` and at the provider's dashboard yourself first.
    """

    async def work(gateway: "Gateway") -> "Outcome":
        from coatcheck.dead_letters import PROPOSAL, person_named  # noqa: PLC0415
        from coatcheck.ids import OPERATION  # noqa: PLC0415

        named = _id_of(OPERATION, operation_id)
        return await _letters(gateway).confirm(
            named, _id_of(PROPOSAL, proposal), _letter_query(gateway), person_named(by)
        )

    outcome = _at_desk(_settings(config), work)
    click.echo(f"Booked as {outcome.kind.value}. `coatcheck explain {operation_id}` tells the whole story.")
    return 0


@coatcheck.group(cls=_Tool, invoke_without_command=True, short_help="What somebody should look at now.")
@_with_config
@click.pass_context
def alerts(ctx: click.Context, config: Path | None) -> int:
    """List what the watcher has found and is still so, the longest-standing first.

    Each has its page in docs/runbooks: what it means, what to look at, what is safe. Exits 1 while there is one.
    """
    ctx.obj = config
    if ctx.invoked_subcommand is not None:
        return 0
    from coatcheck.watcher import list_alerts  # noqa: PLC0415

    found = _with_store(_settings(config), list_alerts)
    for alert in found:
        click.echo(f"{alert.since:%Y-%m-%d %H:%M:%S}  {alert.kind.value}  {alert.subject}")
        click.echo(f"    {alert.text}")
        click.echo(f"    {alert.runbook}")
    if not found:
        click.echo("There is nothing to look at.")
    return _EXIT_VIOLATION if found else 0


@alerts.command(short_help="Close a charged_twice alert you have seen to.")
@click.argument("order_id", metavar="ORDER")
@click.option("--reason", required=True, metavar="TEXT", help="What you did about it; it is written down.")
@_with_person
@_with_config
@click.pass_context
def acknowledge(ctx: click.Context, *, order_id: str, reason: str, by: str, config: Path | None) -> int:
    """Say that you have seen to the second charge of ORDER (po_...): the next look closes its alert.

    It moves no money: the other charge is refunded at the provider. All other alerts close of themselves.
    """
    from coatcheck import watcher  # noqa: PLC0415
    from coatcheck.clock import SystemClock  # noqa: PLC0415
    from coatcheck.dead_letters import person_named  # noqa: PLC0415
    from coatcheck.ids import ORDER  # noqa: PLC0415

    wanted, person = _id_of(ORDER, order_id), person_named(by)
    done = _with_store(
        _settings(config or ctx.obj),
        lambda store: watcher.acknowledge(store, SystemClock(), wanted, by=person, reason=reason),
    )
    if not done:
        raise UnusableError(f"no charged_twice alert of {order_id} is open; `coatcheck alerts` lists what is")
    click.echo("Written down. The watcher closes the alert at its next look.")
    return 0


@coatcheck.command(short_help="Tell the whole story of a payment.")
@click.argument("named", metavar="ID")
@click.option("--shop", metavar="NAME", help="ID is this shop's own payment_order_id.")
@click.option("--live", is_flag=True, help="... in live mode; without it, in test mode.")
@_with_config
def explain(named: str, shop: str | None, live: bool, config: Path | None) -> int:  # noqa: FBT001 - click's flag
    """Tell what happened to a payment (pay_...), operation (op_...), refund (rf_...) or order, and what comes next.

    \b
    Examples:
      coatcheck explain pay_54c4ouqu2wpojs2lahkotag5ki
      coatcheck explain order-7001-a --shop hats
    """  # noqa: D301

    async def work(gateway: "Gateway") -> "Story":
        from coatcheck import explain as storyteller  # noqa: PLC0415
        from coatcheck.states import Mode  # noqa: PLC0415

        return await storyteller.explain(
            gateway.store,
            gateway.operations,
            named,
            shop=shop,
            mode=Mode.LIVE if live else Mode.TEST,
            advise=_letters(gateway).advise,
            at=gateway.clock.now(),
        )

    story = _at_desk(_settings(config), work)
    click.echo(story.title)
    for moment in story.moments:
        click.echo(f"{moment.at:%Y-%m-%d %H:%M:%S}.{moment.at.microsecond // 1000:03d}  {moment.text}")
    click.echo("\nWhere it stands:")
    for line in story.standing:
        click.echo(f"- {line}")
    return 0


def _letters(gateway: "Gateway") -> "DeadLetters":
    from coatcheck.api.dead_letters import dead_letters_of  # noqa: PLC0415

    return dead_letters_of(gateway)


def _letter_query(
    gateway: "Gateway", provider: str | None = None, cause: str | None = None, older_than_s: int | None = None
) -> "DeadLetterQuery":
    from datetime import timedelta  # noqa: PLC0415

    from coatcheck.dead_letters import DeadLetterQuery  # noqa: PLC0415

    before = None if older_than_s is None else gateway.clock.now() - timedelta(seconds=older_than_s)
    return DeadLetterQuery(provider=provider, cause=cause, made_until=before)


async def _letter(gateway: "Gateway", operation_id: str) -> "DeadLetter":
    from coatcheck.ids import OPERATION  # noqa: PLC0415

    letter = await _letters(gateway).read(_id_of(OPERATION, operation_id), _letter_query(gateway))
    if letter is None:
        raise UnusableError(
            f"no dead letter {operation_id}: it is unknown here, or decided by now; `coatcheck explain {operation_id}` "
            "says which"
        )
    return letter


def _id_of(prefix: str, text: str) -> "UUID":
    from coatcheck.ids import parse_id  # noqa: PLC0415

    found = parse_id(prefix, text)
    if found is None:
        raise click.UsageError(f"{text!r} is not an id of ours: it begins with {prefix}_ and has 26 letters after it")
    return found


def _amount_of(letter: "DeadLetter") -> str:
    from coatcheck.money import format_amount  # noqa: PLC0415

    intent = letter.operation.intent
    return f"{format_amount(intent.amount_minor, intent.currency)} {intent.currency}"


def _print_letters(letters: "Sequence[DeadLetter]") -> None:
    rows = [
        (
            *(letter.operation.intent.reference, letter.operation.intent.kind.value, letter.payment_order_id),
            _amount_of(letter),
            *(letter.operation.provider, str(letter.operation.attempt), letter.operation.cause or "-"),
            "being asked" if letter.is_retrying else letter.advice.action.value.replace("_", " "),
        )
        for letter in letters
    ]
    _print_table(("id", "asks", "order", "amount", "provider", "attempts", "cause", "safe"), rows)


def _how(letter: "DeadLetter") -> str:
    """Say what the gate would do with a dead letter now."""
    words = {"send": "send it under the same key", "look_up": "look it up", "register": "register it, then send it"}
    step = letter.advice.step
    return "not ask: it has no settings for the provider" if step is None else words[step.value]


def _letter_lines(letter: "DeadLetter", evidence: "Sequence[Evidence]") -> Iterator[str]:
    from coatcheck.dead_letters import PROPOSAL  # noqa: PLC0415
    from coatcheck.ids import PAYMENT, print_id  # noqa: PLC0415

    operation, intent, advice = letter.operation, letter.operation.intent, letter.advice
    yield f"{intent.reference}: a {intent.kind.value} of {_amount_of(letter)} at {operation.provider}"
    yield f"payment    {print_id(PAYMENT, operation.payment_id)}, order {letter.payment_order_id}"
    yield f"cause      {operation.cause or 'none is known'}, after {operation.attempt} attempts"
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


def _at_desk(settings: "Settings", work: "Callable[[Gateway], Awaitable[_Result]]") -> _Result:
    """Open a gateway that takes over no work, do one thing, close it again."""
    _log_as("warning", "console")
    from coatcheck import wiring  # noqa: PLC0415

    async def run() -> _Result:
        async with wiring.open_desk(settings) as gateway:
            return await work(gateway)

    return asyncio.run(run())


@coatcheck.command(short_help="Show every setting, its value and its source.")
@_with_config
def settings(config: Path | None) -> int:
    """Show every setting: its present value, where that comes from, and what it means.

    Secrets are hidden. A setting NAME is COATCHECK_NAME in the environment and name in the TOML file.
    """
    from coatcheck.config import SETTINGS, read_settings, show  # noqa: PLC0415

    present, sources = read_settings(os.environ, config)
    rows = [
        (
            name,
            show(getattr(present, name), is_secret=about.is_secret),
            sources.get(name, "default"),
            about.meaning,
        )
        for name, about in SETTINGS.items()
    ]
    _print_table(("setting", "value", "from", "meaning"), rows)
    return 0


@coatcheck.command(short_help="Play a shopping evening and prove the result.")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="COATCHECK_DATA_DIR",
    default=Path("coatcheck-data"),
    show_default=True,
    help="Where the data is kept; it stays, and may be there from an earlier evening.",
)
@click.option("--checkouts", type=click.IntRange(1, 100_000), default=3000, show_default=True, help="How many.")
@click.option("--shoppers", type=click.IntRange(1, 512), default=64, show_default=True, help="How many at once.")
@click.option("--seed", type=click.IntRange(0), help="Plan the same evening as before. [default: a new one]")
@click.option("--port", metavar="PORT", type=_PORT, default=0, help="The gateway's port. [default: a free one]")
def demo(*, data_dir: Path, checkouts: int, shoppers: int, seed: int | None, port: int) -> int:
    """Play a shopping evening against a faulty PSP, and prove the result.

    Starts a simulator and a gateway as processes of their own, sends thousands of checkouts through the public API
    while the PSP drops answers and fails, then compares the gateway's books with the PSP's. Exits 1 if anything was
    charged twice or lost. The data stays: `coatcheck serve` opens it.
    """
    from coatcheck.demo import DemoError, run_demo  # noqa: PLC0415

    try:
        return run_demo(data_dir, checkouts=checkouts, seed=seed, at_once=shoppers, port=port)
    except DemoError as error:
        raise UnusableError(str(error)) from error


@coatcheck.command(short_help="Break everything on purpose and prove that no money was lost.")
@click.option(
    "--seconds",
    type=click.FloatRange(5, 86_400),
    default=300.0,
    show_default=True,
    help="How long clients are let loose.",
)
@click.option("--seed", type=click.IntRange(0), help="Plan the same drill as before. [default: a new one]")
@click.option("--clients", type=click.IntRange(2, 512), default=128, show_default=True, help="How many at once.")
@click.option("--keep", is_flag=True, help="Keep the data and logs; they are kept anyway when something was found.")
@click.option(
    "--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the report here, too."
)
def drill(*, seconds: float, seed: int | None, clients: int, keep: bool, json_path: Path | None) -> int:
    """Run the failure drill before you go live.

    Two installations of real processes on one PostgreSQL, with clients that retry everything. Gateways and PostgreSQL
    are killed, lines are cut before and after the bytes, the PSPs fail in every way they know. Then a judge that
    shares no code with the gateway compares the PSPs' books, the rows and the events. Exits 1 if anything differs.
    It has a directory of its own: your data and settings are not touched.

    \b
    Examples:
      coatcheck drill --seconds 60
      coatcheck drill --seconds 60 --seed 447251
    """  # noqa: D301
    from coatcheck.drill import DrillError, DrillPlan, run_drill  # noqa: PLC0415

    try:
        return run_drill(DrillPlan(seconds=seconds, seed=seed, clients=clients, keep=keep, json_path=json_path))
    except DrillError as error:
        raise UnusableError(str(error)) from error


def _settings(config: Path | None, **flags: Any) -> "Settings":
    from coatcheck.config import load_settings  # noqa: PLC0415

    return load_settings(os.environ, config, {name: value for name, value in flags.items() if value is not None})


def _log_as(level: str, log_format: str) -> None:
    from coatcheck.logs import configure_logs  # noqa: PLC0415

    configure_logs(level, log_format)


def _with_store(settings: "Settings", work: "Callable[[Store], Awaitable[_Result]]") -> _Result:
    """Open the database, do one thing, close it again."""
    _log_as("warning", "console")
    from coatcheck import wiring  # noqa: PLC0415

    async def run() -> _Result:
        async with wiring.open_store(settings) as store:
            return await work(store)

    return asyncio.run(run())


def _print_table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in names:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # as text: a shop's name is not markup
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _WIDTH_OF_A_FILE
    Console(width=width).print(table)


@contextmanager
def _listening_on(host: str, port: int) -> Iterator[None]:
    """Put what keeps a server from listening into words."""
    reasons: Mapping[int, str] = {
        errno.EADDRINUSE: f"port {port} of {host} is in use; stop the other process, or take another with --port "
        "(0 takes a free one)",
        errno.EACCES: f"port {port} of {host} may not be opened by this user; take one above 1023 with --port",
        errno.EADDRNOTAVAIL: f"{host} is not an address of this machine; take 127.0.0.1 or 0.0.0.0 with --host",
    }
    try:
        yield
    except OSError as error:
        reason = reasons.get(error.errno or 0)
        if reason is None or error.filename is not None:
            raise
        raise UnusableError(reason) from error


def _in_words(error: BaseException) -> list[str] | None:
    """Say what went wrong and what to do, a line for each thing; None when it is a fault of the program."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    import asyncpg  # noqa: PLC0415

    from coatcheck.config import SettingsError  # noqa: PLC0415
    from coatcheck.errors import CoatcheckError  # noqa: PLC0415
    from coatcheck.store import StoreError  # noqa: PLC0415

    lines = None
    match error:
        case SettingsError():
            lines = error.problems
        case CoatcheckError():
            lines = [error.detail, *(f"{problem.pointer}: {problem.detail}" for problem in error.problems)]
        case UnusableError() | StoreError():
            lines = [str(error)]
        case asyncpg.PostgresError() | asyncpg.InterfaceError():
            lines = [
                f"the database failed ({error}); check that it runs and that DATABASE_URL is right, then try again"
            ]
        case SubprocessError():
            lines = ["the embedded PostgreSQL did not start; its log in the data directory (postgresql/log) says why"]
        case OSError():
            about = f"{error.filename}: " if error.filename else ""
            what = error.strerror or str(error) or type(error).__name__
            lines = [f"{about}{what}; check the path, its owner and the space left"]
    return lines


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; returns its exit status. Only a fault of the program itself raises."""
    try:
        status = coatcheck.main(args=arguments, prog_name="coatcheck", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _EXIT_INTERRUPTED
    except BrokenPipeError:  # whoever read our output has seen enough
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - lives as long as the process
        return 1
    except Exception as error:
        lines = _in_words(error)
        if lines is None:
            raise
        from coatcheck.logs import redact_text  # noqa: PLC0415

        for line in lines:
            click.echo(f"coatcheck: {redact_text(line)}", err=True)
        return _EXIT_UNUSABLE
    return status if isinstance(status, int) else 0


def main() -> NoReturn:
    """Be the program `coatcheck`."""
    sys.exit(run())
