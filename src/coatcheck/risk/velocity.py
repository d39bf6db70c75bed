"""Velocity: how often a card, a buyer or an IP address failed lately, without keeping who they are.

A failure is counted under a keyed digest of 128 bits. Without the key nobody can test a guess against it, and the shop
and mode inside it keep one shop's counts from another's. Failures are written by the commit that books the decline.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import blake2b
from ipaddress import ip_address
from typing import Final, NamedTuple
from uuid import UUID

from coatcheck.ids import digest_id
from coatcheck.states import Mode
from coatcheck.store import Store

_IPV6_HOST_BYTES: Final = 8


class Subjects(NamedTuple):
    """The digests one payment's failures are counted under; `card` and `ip` only where the shop sent them."""

    card: UUID | None
    buyer: UUID
    ip: UUID | None

    @property
    def given(self) -> tuple[UUID, ...]:
        """The digests there are."""
        return tuple([subject for subject in self if subject is not None])


def digest_key_of(secret: bytes) -> bytes:
    """Make the digests' key out of a secret of any length."""
    return blake2b(secret, digest_size=32, person=b"coatcheck risk").digest()


def subjects_of(
    key: bytes, shop_id: UUID, mode: Mode, *, token: str | None, buyer_reference: str, ip: str | None
) -> Subjects:
    """Name what a payment's failures count against. The same in every process that has the key.

    `token` stands for the card; on the PSP's page it is not known yet. An IPv6 address counts as its /64: whoever has
    one address has all of them.
    """
    world = f"{shop_id.hex}:{mode}:"
    return Subjects(
        None if token is None else _digest(key, f"card:{world}{token}"),
        _digest(key, f"buyer:{world}{buyer_reference}"),
        None if ip is None else _digest(key, f"ip:{world}{_network_of(ip)}"),
    )


async def count_failures(store: Store, subjects: Sequence[UUID], since: datetime, most: int) -> Mapping[UUID, int]:
    """Count each subject's failures since a moment, up to `most`; a subject without any is left out."""
    rows = await store.pool.fetch(store.queries["risk_failures"], subjects, since, most)
    return {row["subject"]: row["failures"] for row in rows}


def _digest(key: bytes, text: str) -> UUID:
    return digest_id(blake2b(text.encode(), key=key, digest_size=16).digest())


def _network_of(ip: str) -> str:
    if ":" not in ip:
        return ip
    address = ip_address(ip)
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped) if mapped else address.packed[:_IPV6_HOST_BYTES].hex()
