"""`wallets`: what sellers have, now or at a past moment, and the terms their money matures under."""

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from coatcheck.cli.failures import UnusableError
from coatcheck.cli.opening import settings_of, with_store
from coatcheck.cli.options import Tool, with_config
from coatcheck.cli.tables import print_table

if TYPE_CHECKING:
    from uuid import UUID

    from coatcheck.seller_terms import SellerTerms, Terms
    from coatcheck.states import Mode
    from coatcheck.store import Store
    from coatcheck.wallets import Wallet

_Result = TypeVar("_Result")


def _with_seller(command: Callable[..., _Result]) -> Callable[..., _Result]:
    """Let a command be told whose seller is meant."""
    for option in (
        click.option("--live", is_flag=True, help="In live mode; without it, test mode."),
        click.option("--shop", required=True, metavar="NAME", help="The shop whose seller it is."),
        click.argument("seller", metavar="SELLER"),
    ):
        command = option(command)
    return command


@click.group(cls=Tool, short_help="What sellers have, at any moment, and their terms.")
def wallets() -> None:
    """Show sellers' wallets, and set when their money can be paid.

    A charge is pending until a settlement file has told of it and its hold period is over; docs/wallets.md says how
    each number is made.
    """


@wallets.command(short_help="Show a seller's wallet, now or at a past moment.")
@_with_seller
@click.option("--at", "moment", metavar="TIME", help="As it was then (RFC 3339), such as 2026-01-31T23:59:59Z.")
@with_config
def show(seller: str, *, shop: str, live: bool, moment: str | None, config: Path | None) -> int:
    """Print what SELLER has in each currency.

    \b
    Example:
      coatcheck wallets show seller-42 --shop hats --live --at 2026-01-31T23:59:59Z
    """  # noqa: D301
    from coatcheck.wallets import wallet, wallet_at  # noqa: PLC0415

    then = None if moment is None else _moment_of(moment)
    shop_id, mode = _world_of(shop, live=live)

    async def read(store: "Store") -> "list[Wallet]":
        if then is None:
            return await wallet(store, shop_id, mode, seller)
        return await wallet_at(store, shop_id, mode, seller, then)

    found = with_store(settings_of(config), read)
    if not found:
        raise UnusableError(f"seller {seller} has no wallet in shop {shop}, {mode} mode, or had none then")
    print_table(("currency", "pending", "available", "in payout", "reserve"), [_row_of(each) for each in found])
    return 0


@wallets.command(short_help="Show or set a seller's terms.")
@_with_seller
@click.option("--hold-days", type=click.IntRange(0, 730), help="Days from the settlement until it can be paid.")
@click.option(
    "--reserve-basis-points",
    type=click.IntRange(0, 10_000),
    help="What is kept of releases, in hundredths of a percent.",
)
@click.option("--reserve-days", type=click.IntRange(0, 730), help="Days that the reserve is kept after that.")
@click.option("--by", metavar="NAME", help="Who you are, when you set something; it is written down.")
@with_config
def terms(
    seller: str,
    *,
    shop: str,
    live: bool,
    hold_days: int | None,
    reserve_basis_points: int | None,
    reserve_days: int | None,
    by: str | None,
    config: Path | None,
) -> int:
    """Print the terms of SELLER, after setting those that are given. They hold for what is settled from then on.

    \b
    Example:
      coatcheck wallets terms seller-42 --shop hats --hold-days 14 --reserve-basis-points 1000 --by ada
    """  # noqa: D301
    from coatcheck.clock import SystemClock  # noqa: PLC0415
    from coatcheck.dead_letters import person_named  # noqa: PLC0415
    from coatcheck.seller_terms import Seller, Terms, read_terms, set_terms, usual_terms_of  # noqa: PLC0415

    given = (hold_days, reserve_basis_points, reserve_days)
    is_change = any(each is not None for each in given)
    if is_change and by is None:
        raise click.UsageError("say who you are with --by: it is written down")
    person = None if by is None else person_named(by)
    shop_id, mode = _world_of(shop, live=live)
    whose = Seller(shop_id, mode, seller)
    settings = settings_of(config)
    usual = usual_terms_of(settings)

    async def work(store: "Store") -> "SellerTerms":
        await _require_shop(store, shop_id)
        found = await read_terms(store, whose, usual)
        if is_change and person is not None:
            wanted = Terms(*[_or(new, old) for new, old in zip(given, _parts_of(found.terms), strict=True)])
            await set_terms(store, SystemClock(), whose, wanted, by=person)
        return await read_terms(store, whose, usual)

    _print_terms(with_store(settings, work))
    return 0


def _parts_of(terms: "Terms") -> tuple[int, int, int]:
    return terms.hold_days, terms.reserve_basis_points, terms.reserve_days


def _or(new: int | None, old: int) -> int:
    return old if new is None else new


def _print_terms(found: "SellerTerms") -> None:
    hold_days, points, reserve_days = _parts_of(found.terms)
    click.echo(f"Held for {hold_days} days after its settlement.")
    click.echo(f"In reserve: {points // 100}.{points % 100:02} % of each release, for {reserve_days} days more.")
    if found.set_at is None:
        click.echo("Nobody has set terms for this seller: these are the usual ones of the settings.")
    else:
        click.echo(f"Set by {found.set_by}, {found.set_at:%Y-%m-%d %H:%M} UTC.")


async def _require_shop(store: "Store", shop_id: "UUID") -> None:
    if await store.pool.fetchval("SELECT true FROM shop WHERE shop_id = $1", shop_id) is None:
        raise UnusableError("no such shop: `coatcheck keys list` shows those that there are")


def _world_of(shop: str, *, live: bool) -> "tuple[UUID, Mode]":
    from coatcheck.shops import shop_id_of  # noqa: PLC0415
    from coatcheck.states import Mode  # noqa: PLC0415

    return shop_id_of(shop), Mode.LIVE if live else Mode.TEST


def _moment_of(text: str) -> datetime:
    moment: datetime | None = None
    with suppress(ValueError):
        moment = datetime.fromisoformat(text)
    if moment is None or moment.tzinfo is None:
        raise click.UsageError(f"{text!r} is no time with its zone: write it like 2026-01-31T23:59:59Z")
    return moment.astimezone(UTC)


def _row_of(each: "Wallet") -> list[str]:
    from coatcheck.money import format_amount  # noqa: PLC0415

    amounts = (each.pending_minor, each.available_minor, each.in_payout_minor, each.reserve_minor)
    return [each.currency, *(format_amount(amount, each.currency) for amount in amounts)]
