"""A shop and a mode, as a person names them."""

from typing import TYPE_CHECKING

from coatcheck.cli.failures import UnusableError

if TYPE_CHECKING:
    from uuid import UUID

    from coatcheck.states import Mode
    from coatcheck.store import Store


async def shop_named(store: "Store", name: str, live: bool) -> "tuple[UUID, Mode]":  # noqa: FBT001 - click's flag
    """Find a shop by its name. Raises UnusableError when there is none."""
    from coatcheck.shops import shop_id_of  # noqa: PLC0415
    from coatcheck.states import Mode  # noqa: PLC0415

    shop_id = shop_id_of(name)
    if await store.pool.fetchval("SELECT true FROM shop WHERE shop_id = $1", shop_id) is None:
        raise UnusableError(f"no shop {name!r}: `coatcheck keys list` shows those that there are")
    return shop_id, Mode.LIVE if live else Mode.TEST
