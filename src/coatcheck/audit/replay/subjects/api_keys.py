"""API keys, and the shops they are for: who may call."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any
from uuid import UUID

import msgspec

from coatcheck.audit.replay.bodies import Hexadecimal, Said
from coatcheck.audit.replay.subject import Find, Heard, Subject
from coatcheck.audit.replay.tables import Place, place_of, table_of
from coatcheck.events import EventKind


class KeyCreated(Said, frozen=True, kw_only=True):
    """A key was made, and its shop if that was new."""

    key_id: UUID
    shop_id: UUID
    shop_name: str
    mode: str
    key_digest: Hexadecimal
    prefix: str
    last_four: str


class KeyRevoked(Said, frozen=True, kw_only=True):
    """A key has ended."""

    key_id: UUID


class ApiKeyRow(msgspec.Struct, kw_only=True):
    """A key, by its SHA-256."""

    key_id: UUID
    shop_id: UUID
    mode: str
    key_digest: bytes
    prefix: str
    last_four: str
    created_at: datetime
    revoked_at: datetime | None = None


class ShopRow(msgspec.Struct, frozen=True):
    """A shop. `told_at`: when any of its keys was made; it was made with one of them."""

    shop_id: UUID
    name: str
    created_at: datetime
    told_at: list[datetime]


class ShopTold(msgspec.Struct, frozen=True):
    """A shop, as the event of one of its keys tells it."""

    shop_id: UUID
    name: str
    created_at: datetime


def fold_key(heard: Sequence[Heard[Any]], find: Find) -> Iterator[msgspec.Struct]:
    """Make the rows of one key."""
    key: ApiKeyRow | None = None
    for each in [each for each in heard if isinstance(each.body, KeyCreated)]:
        if key is not None:
            find(each.event, "the key was made before")
            continue
        body = each.body
        key = ApiKeyRow(
            key_id=body.key_id,
            shop_id=body.shop_id,
            mode=body.mode,
            key_digest=bytes.fromhex(body.key_digest),
            prefix=body.prefix,
            last_four=body.last_four,
            created_at=each.at,
        )
        yield ShopTold(body.shop_id, body.shop_name, each.at)
    for each in [each for each in heard if isinstance(each.body, KeyRevoked)]:
        if key is None or key.revoked_at is not None:
            find(each.event, "no event says that the key was made" if key is None else "the key had ended before")
        else:
            key.revoked_at = each.at
    if key is not None:
        yield key


_TOLD = Place(name="shop_told", like="SELECT shop_id, name, created_at FROM public.shop", row=ShopTold)
_SHOPS = (
    f"INSERT INTO pg_temp.{place_of('shop')} (shop_id, name, created_at, told_at) "
    f"SELECT shop_id, name, min(created_at), array_agg(created_at) FROM pg_temp.{place_of(_TOLD.name)} "
    "GROUP BY shop_id, name"
)

SUBJECT = Subject(
    bodies=MappingProxyType(
        {EventKind.API_KEY_CREATED.value: KeyCreated, EventKind.API_KEY_REVOKED.value: KeyRevoked},
    ),
    fold=fold_key,
    tables=(
        table_of("api_key", ApiKeyRow),
        table_of(
            "shop",
            ShopRow,
            working=MappingProxyType({"told_at": "timestamptz[]"}),
            is_folded=False,
            # Clocks may differ: which of its keys came first is not asked of them.
            instead=MappingProxyType(
                {"created_at": "CASE WHEN s.created_at = ANY (r.told_at) THEN s.created_at ELSE r.created_at END"}
            ),
        ),
    ),
    places=(_TOLD,),
    sums=(_SHOPS,),
)
