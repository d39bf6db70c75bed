"""Ids are tickets: the same request can only ever name the same row.

Rows of the money path are named by a hash of what the shop called them, so uniqueness is the primary key and any
process can compute it. Append-only rows (events, transfers) get a time-ordered UUIDv7.
"""

import hashlib
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from uuid import UUID

# A uuid.UUID made and compared in C: a tenth of the time, with some fifteen made for each payment. It does no I/O.
from asyncpg.pgproto.pgproto import UUID as FastUUID  # noqa: N811 - a subclass of UUID, shown as one

_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"  # RFC 4648 base32, lower case
_PAIRS = tuple(high + low for high in _ALPHABET for low in _ALPHABET)
# What int() reads in base 32 for each of our letters; it must take nothing else (digits of its own, "_", capitals).
_AS_DIGITS = dict.fromkeys(range(128), "!") | dict(
    zip(_ALPHABET.encode(), "0123456789abcdefghijklmnopqrstuv", strict=True)
)
_TICKET_LENGTH = 26  # 128 bits in 5-bit letters

PAYMENT, ORDER, OPERATION, EVENT, TRANSFER, BUYER, SHOP, KEY = "pay", "po", "op", "evt", "tr", "buy", "shop", "key"
REFUND, INBOX = "rf", "in"
DISPUTE, EVIDENCE = "dsp", "evd"
PAYOUT, PAYOUT_RUN = "out", "run"


def random_id() -> UUID:
    """Make an id that nobody can guess or repeat."""
    return FastUUID(os.urandom(16))


def digest_id(digest: bytes) -> UUID:
    """Make an id of the first 128 bits of a digest."""
    return FastUUID(digest[:16])


def derive_id(kind: str, *parts: str) -> UUID:
    """Name a row by what it is about: 128 bits of SHA-256 over the parts, each preceded by its length.

    The lengths keep ("a", "bc") and ("ab", "c") apart. The result never changes between processes or releases.
    """
    text = "".join([f"{len(part)}:{part}" for part in (kind, *parts)])
    return digest_id(hashlib.sha256(text.encode("utf-8")).digest())


def payment_id_of(shop_id: UUID, mode: str, checkout_id: str) -> UUID:
    """Name the payment of a shop's checkout."""
    return derive_id(PAYMENT, shop_id.hex, mode, checkout_id)


def order_id_of(shop_id: UUID, mode: str, payment_order_id: str) -> UUID:
    """Name a payment order by the id its shop gave it."""
    return derive_id(ORDER, shop_id.hex, mode, payment_order_id)


def operation_id_of(order_id: UUID, kind: str, ticket: str = "1") -> UUID:
    """Name one thing asked of a PSP; printed, it is the PSP's idempotency key and our reference there.

    `ticket`: what tells two of a kind apart, such as the key of the request for a capture. SQL makes the same ids.
    """
    return derive_id(OPERATION, order_id.hex, kind, ticket)


def refund_id_of(shop_id: UUID, mode: str, key: str) -> UUID:
    """Name a refund by the key it was asked for under: the same key can never give back twice."""
    return derive_id(REFUND, shop_id.hex, mode, key)


def dispute_id_of(shop_id: UUID, mode: str, provider: str, provider_reference: str) -> UUID:
    """Name a dispute by what its PSP calls it. SQL makes the same ids."""
    return derive_id(DISPUTE, shop_id.hex, mode, provider, provider_reference)


def evidence_id_of(dispute_id: UUID, key: str) -> UUID:
    """Name an answer to a dispute by the key of its request; printed, it is the PSP's idempotency key."""
    return derive_id(EVIDENCE, dispute_id.hex, key)


def payout_id_of(shop_id: UUID, mode: str, key: str) -> UUID:
    """Name a payout by the key it was asked for under: the same key can never pay out twice."""
    return derive_id(PAYOUT, shop_id.hex, mode, key)


def payout_run_id_of(shop_id: UUID, mode: str, schedule: str, currency: str, period: datetime) -> UUID:
    """Name the run of a schedule for one of its times and one currency: run twice, it is the same run."""
    return derive_id(PAYOUT_RUN, shop_id.hex, mode, schedule, currency, period.astimezone(UTC).isoformat())


def payee_id_of(shop_id: UUID, mode: str, seller_account: str, currency: str) -> UUID:
    """Name what is arranged about paying a seller in a currency: whose events tell of destination and schedule."""
    return derive_id("payee", shop_id.hex, mode, seller_account, currency)


def buyer_id_of(shop_id: UUID, mode: str, buyer_reference: str) -> UUID:
    """Name the row that holds a buyer's personal data."""
    return derive_id(BUYER, shop_id.hex, mode, buyer_reference)


def seller_id_of(shop_id: UUID, mode: str, seller_account: str) -> UUID:
    """Name a seller by the shop's own id: the subject of what is told of him."""
    return derive_id("seller", shop_id.hex, mode, seller_account)


@lru_cache(maxsize=100_000)  # a payment names three accounts, and the same ones again and again
def account_id_of(shop_id: UUID, mode: str, name: str, currency: str) -> UUID:
    """Name a ledger account; one account holds one currency."""
    return derive_id("account", shop_id.hex, mode, name, currency)


@lru_cache(maxsize=10_000)  # an operation's id is printed for the body, the key and the comparison of the answer
def print_id(prefix: str, value: UUID) -> str:
    """Print an id as people and providers see it: `pay_` and 26 letters."""
    number = value.int << 2
    letters = [_PAIRS[(number >> shift) & 1023] for shift in range(120, -1, -10)]
    return f"{prefix}_{''.join(letters)}"


def parse_id(prefix: str, text: str) -> UUID | None:
    """Read a printed id back; None when it is not one of ours."""
    head, _, letters = text.partition("_")
    if head != prefix or len(letters) != _TICKET_LENGTH or not letters.isascii():
        return None
    try:
        number = int(letters.translate(_AS_DIGITS), 32)
    except ValueError:
        return None
    return None if number & 3 else FastUUID((number >> 2).to_bytes(16, "big"))


def time_ordered_ids(at: datetime, count: int) -> Sequence[UUID]:
    """Make ids for append-only rows: UUIDv7, ascending within the list and nearly so across processes."""
    head = int(at.timestamp() * 1000).to_bytes(6, "big")
    noise = os.urandom(8 * count)
    return [
        FastUUID(
            head
            + (0x7000 | index & 0xFFF).to_bytes(2, "big")
            + bytes((0x80 | noise[8 * index] & 0x3F,))
            + noise[8 * index + 1 : 8 * index + 8]
        )
        for index in range(count)
    ]
