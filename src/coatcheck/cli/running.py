"""`serve`, `simulator` and `settings`: what runs, and with what."""

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from coatcheck.cli.failures import listening_on
from coatcheck.cli.opening import log_as, settings_of
from coatcheck.cli.options import PORT, with_config
from coatcheck.cli.tables import print_table

_Result = TypeVar("_Result")

_SIMULATOR_PORT = 8090

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
    ("payout_settle_ms", 0, "When a payout to dest_pending is paid; 0 leaves it to the admin API."),
    ("payout_returns_later_ms", 0, "When a payout to dest_returns comes back; 0 leaves it to the admin API."),
    ("webhook_lost_share", 0.0, "Share of events never sent."),
    ("webhook_duplicate_share", 0.0, "Share of events sent twice."),
    ("webhook_late_share", 0.0, "Share of events sent late."),
    ("webhook_late_ms", 2000, "How late those are."),
    ("webhook_reorder_share", 0.0, "Share of events held back behind the next one."),
    ("webhook_forged_share", 0.0, "Share of events with a forgery beside them."),
    ("webhook_wrong_amount_share", 0.0, "Share of events with an authentic one of a wrong amount beside them."),
)


@click.command()
@click.option("--host", help="The address to listen on. [default: 127.0.0.1]")
@click.option("--port", metavar="PORT", type=PORT, help="The port to listen on; 0 takes a free one. [default: 8080]")
@click.option("--provider", help="The PSP that charges: simulator or stripe. [default: simulator]")
@with_config
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
    gc.disable()  # a fifth of a start went into looking through what is imported; wiring.serve enables it
    settings = settings_of(config, host=host, port=port, provider=provider)
    log_as(settings.log_level, settings.log_format)
    from coatcheck import wiring  # noqa: PLC0415

    return wiring.serve(settings)


def _with_dial(command: Callable[..., _Result]) -> Callable[..., _Result]:
    for name, default, meaning in reversed(DIAL):
        command = click.option(
            "--" + name.replace("_", "-"), name, type=type(default), default=default, show_default=True, help=meaning
        )(command)
    return command


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", metavar="PORT", type=PORT, default=_SIMULATOR_PORT, show_default=True, help="0: a free one.")
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
    with listening_on(host, port):
        server.run(settings)
    return 0


@click.command(short_help="Show every setting, its value and its source.")
@with_config
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
    print_table(("setting", "value", "from", "meaning"), rows)
    return 0
