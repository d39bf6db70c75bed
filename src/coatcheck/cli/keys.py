"""`keys`: create, list and revoke API keys."""

from pathlib import Path

import click

from coatcheck.cli.opening import settings_of, with_store
from coatcheck.cli.options import Tool, with_config
from coatcheck.cli.tables import print_table


@click.group(cls=Tool)
def keys() -> None:
    """Create, list and revoke API keys."""


@keys.command()
@click.option("--shop", required=True, metavar="NAME", help="The shop; made by this name if it is new.")
@click.option("--live", is_flag=True, help="A key for real money. Test and live are separate worlds.")
@with_config
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
    settings = settings_of(config)
    printed, key = with_store(settings, lambda store: create_key(store, SystemClock(), shop, mode))
    click.echo(printed)
    click.echo(
        f"A {mode} key of the shop {key.shop_name}, id {key.printed_id}. It cannot be shown again: keep it now.\n"
        "With the key in $KEY, try: "
        f'curl -H "Authorization: Bearer $KEY" http://{settings.host}:{settings.port}/v1/payments',
        err=True,
    )
    return 0


@keys.command("list")
@with_config
def list_(config: Path | None) -> int:
    """List the API keys of every shop, without the keys."""
    from coatcheck.shops import list_keys  # noqa: PLC0415

    found = with_store(settings_of(config), list_keys)
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
    print_table(("id", "shop", "mode", "key", "created (UTC)", "state"), rows)
    return 0


@keys.command(short_help="End an API key, by its id or its letters.")
@click.argument("key")
@with_config
def revoke(key: str, config: Path | None) -> int:
    """End the API key KEY: its id, or the letters it begins or ends with.

    Every gateway process refuses it within a second. There is no way back: create another one.
    """
    from coatcheck.clock import SystemClock  # noqa: PLC0415
    from coatcheck.shops import revoke_key  # noqa: PLC0415

    ended = with_store(settings_of(config), lambda store: revoke_key(store, SystemClock(), key))
    since = f"{ended.revoked_at:%Y-%m-%d %H:%M}"
    click.echo(f"The key {ended.printed_id} of the shop {ended.shop_name} is revoked since {since} UTC.")
    return 0
