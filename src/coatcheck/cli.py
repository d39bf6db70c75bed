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
    from coatcheck.audit import InvariantResult
    from coatcheck.config import Settings
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
@_with_dial
def simulator(
    *, host: str, port: int, window_s: float, slow_s: float, no_cache_errors: bool, books: Path | None, **dial: float
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
    settings = server.SimulatorSettings(
        host=host,
        port=port,
        key_window_s=window_s,
        cache_errors=not no_cache_errors,
        slow_s=slow_s,
        books=books,
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
