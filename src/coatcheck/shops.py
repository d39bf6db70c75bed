"""Shops and their API keys: who is calling, in which of the two worlds.

A key is `cck_test_` or `cck_live_`, 36 random letters and digits, and 6 that check the rest (a typing error or a
cut-off paste is refused before the database is asked, and scanners for leaked secrets can recognise a key). The
database has only its SHA-256: with this much randomness a slow hash would protect nothing more.
"""

import asyncio
import hashlib
import hmac
import secrets
import string
import zlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg
import msgspec

from coatcheck.clock import Clock
from coatcheck.errors import CoatcheckError, ErrorCode
from coatcheck.events import EventKind
from coatcheck.ids import KEY, SHOP, derive_id, parse_id, print_id, time_ordered_ids
from coatcheck.states import Mode
from coatcheck.store import Store

_LETTERS = string.digits + string.ascii_uppercase + string.ascii_lowercase
# 214 random bits: the 4 first and the 4 last that people are shown leave more than 160 unknown.
_RANDOM_LENGTH = 36
_CHECK_LENGTH = 6
_HEADS = {Mode.TEST: "cck_test_", Mode.LIVE: "cck_live_"}
_KEY_LENGTH = len("cck_test_") + _RANDOM_LENGTH + _CHECK_LENGTH
_SHOWN = 4
_SHOP_NAME_LIMIT = 100

_BEARER = b"bearer "
_REMEMBERED = 10_000
# A revoked key must stop working within a second, wherever it was last used.
_LIFE = timedelta(milliseconds=900)

_MISSING = (
    "Send the header `Authorization: Bearer cck_test_...` with a key of your shop; "
    "`coatcheck keys create --shop NAME` prints one."
)
_MISSHAPEN = (
    "The API key is not complete or was mistyped: it is cck_test_ or cck_live_ followed by 42 letters and digits. "
    "Copy it again; if it is lost, `coatcheck keys create --shop NAME` prints a new one."
)
_UNKNOWN = (
    "The API key is not known here or was revoked. Use another key of your shop; "
    "`coatcheck keys create --shop NAME` prints one, `coatcheck keys list` shows which are in use."
)


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key as its owner may see it again: everything but the key."""

    key_id: UUID
    shop_id: UUID
    shop_name: str
    mode: Mode
    prefix: str
    last_four: str
    created_at: datetime
    revoked_at: datetime | None = None

    @property
    def printed_id(self) -> str:
        """The id for people."""
        return print_id(KEY, self.key_id)


class Caller(msgspec.Struct, frozen=True):
    """Who sent a request, proved by a key."""

    shop_id: UUID
    shop_name: str
    mode: Mode
    key_id: UUID


class _Known(msgspec.Struct, frozen=True):
    """What the database said about a key's digest, and how long that may be relied on."""

    caller: Caller | None
    asked_at: datetime
    until: datetime


def shop_id_of(name: str) -> UUID:
    """Name the row of a shop."""
    return derive_id(SHOP, name)


def make_key(mode: Mode) -> str:
    """Draw a new key from the system's randomness."""
    body = _HEADS[mode] + "".join(secrets.choice(_LETTERS) for _ in range(_RANDOM_LENGTH))
    return body + _check_of(body)


def is_well_formed(key: str) -> bool:
    """Whether this was printed as a key once: head, length and check letters are right."""
    if len(key) != _KEY_LENGTH or not key.isascii() or not key.startswith(tuple(_HEADS.values())):
        return False
    return _check_of(key[:-_CHECK_LENGTH]) == key[-_CHECK_LENGTH:]


def _check_of(body: str) -> str:
    number, letters = zlib.crc32(body.encode()), ""
    for _ in range(_CHECK_LENGTH):
        number, index = divmod(number, len(_LETTERS))
        letters = _LETTERS[index] + letters
    return letters


def _digest_of(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _key_id_of(digest: bytes) -> UUID:
    return derive_id(KEY, digest.hex())


async def create_key(store: Store, clock: Clock, shop_name: str, mode: Mode) -> tuple[str, ApiKey]:
    """Give a shop, made by its name if it is new, one more key; returns the key, which can never be shown again.

    Raises CoatcheckError INVALID_REQUEST for a name that cannot be used.
    """
    name = _checked_name(shop_name)
    printed, at = make_key(mode), clock.now()
    digest = _digest_of(printed)
    key = ApiKey(
        key_id=_key_id_of(digest),
        shop_id=shop_id_of(name),
        shop_name=name,
        mode=mode,
        prefix=printed[: len(_HEADS[mode]) + _SHOWN],
        last_four=printed[-_SHOWN:],
        created_at=at,
    )
    created = await store.pool.fetchval(
        store.queries["api_key_create"],
        *(key.shop_id, key.shop_name, mode.value, key.key_id, digest, key.prefix, key.last_four),
        *(time_ordered_ids(at, 1)[0], EventKind.API_KEY_CREATED.value, at),
    )
    if created is None:
        raise CoatcheckError(ErrorCode.INVALID_REQUEST, f"Another shop has the id of {name!r}; choose another name.")
    return printed, key


def _checked_name(shop_name: str) -> str:
    name = shop_name.strip()
    if not name or len(name) > _SHOP_NAME_LIMIT or not name.isprintable():
        raise CoatcheckError(
            ErrorCode.INVALID_REQUEST, f"A shop's name is 1 to {_SHOP_NAME_LIMIT} printable characters."
        )
    return name


async def list_keys(store: Store) -> Sequence[ApiKey]:
    """List the keys of every shop, the revoked ones too."""
    return [_api_key(row) for row in await store.pool.fetch(store.queries["api_key_list"])]


async def revoke_key(store: Store, clock: Clock, named: str) -> ApiKey:
    """End a key, named by its printed id, its first or last letters, or itself.

    Every process refuses it within a second. Idempotent: a key that had ended keeps its first `revoked_at`. Raises
    CoatcheckError NOT_FOUND when no key, or more than one, is meant.
    """
    key = await _find_key(store, named.strip())
    at = clock.now()
    await store.pool.execute(
        store.queries["api_key_revoke"],
        *(key.key_id, at, time_ordered_ids(at, 1)[0], EventKind.API_KEY_REVOKED.value),
    )
    return await _find_key(store, key.printed_id)


async def _find_key(store: Store, named: str) -> ApiKey:
    key_id = _key_id_of(_digest_of(named)) if is_well_formed(named) else parse_id(KEY, named)
    rows = await store.pool.fetch(store.queries["api_key_find"], key_id, named)
    found = [_api_key(row) for row in rows]
    in_use = [key for key in found if key.revoked_at is None] or found
    if len(in_use) == 1:
        return in_use[0]
    if not in_use:
        raise CoatcheckError(ErrorCode.NOT_FOUND, "No key has that id or ending; `coatcheck keys list` shows them all.")
    candidates = ", ".join(f"{key.printed_id} ({key.shop_name})" for key in in_use)
    raise CoatcheckError(ErrorCode.NOT_FOUND, f"More than one key is meant; give the id of one: {candidates}.")


def _api_key(row: asyncpg.Record) -> ApiKey:
    return msgspec.convert(dict(row), ApiKey)


class KeyRing:
    """Tells who a request is from, by its Authorization header.

    What the database said about a key, yes or no, is remembered for 0.9 s, for 10,000 keys of either kind at most;
    requests that ask for the same key at the same time share one query.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._now = clock.now
        self._known: dict[bytes, _Known] = {}
        self._unknown: dict[bytes, _Known] = {}  # apart, so that guessing keys pushes no real one out
        self._asking: dict[bytes, asyncio.Task[_Known]] = {}

    async def authenticate(self, authorization_header: str | bytes | None) -> Caller:
        """Give the caller whose key this is. Raises CoatcheckError UNAUTHENTICATED, saying what to do."""
        key = _bearer_key(authorization_header)
        digest = hashlib.sha256(key).digest()
        known = self._known.get(digest)
        # Both ends are compared: a clock that was set back must not give a revoked key its hours again.
        if known is None or not known.asked_at <= self._now() < known.until:
            known = await self._look_up(key, digest)
        if known.caller is None:
            raise _unauthenticated(_UNKNOWN)
        return known.caller

    async def _look_up(self, key: bytes, digest: bytes) -> _Known:
        unknown = self._unknown.get(digest)
        if unknown is not None and unknown.asked_at <= self._now() < unknown.until:
            return unknown
        if not is_well_formed(key.decode("latin-1")):
            raise _unauthenticated(_MISSHAPEN)
        asking = self._asking.get(digest)
        if asking is None:
            asking = self._asking[digest] = asyncio.create_task(self._ask(digest))
            asking.add_done_callback(lambda task: self._asked(digest, task))
        # One client that goes away must not take the answer from the others that wait for it.
        return await asyncio.shield(asking)

    def _asked(self, digest: bytes, task: asyncio.Task[_Known]) -> None:
        del self._asking[digest]
        if not task.cancelled():
            task.exception()  # seen, even when everybody who waited has gone

    async def _ask(self, digest: bytes) -> _Known:
        asked_at = self._now()  # before the query: what it reads may be older than its answer
        row = await self._store.pool.fetchrow(self._store.queries["api_key_authenticate"], _key_id_of(digest))
        caller = None
        if row is not None and hmac.compare_digest(row["key_digest"], digest):
            caller = Caller(row["shop_id"], row["shop_name"], Mode(row["mode"]), row["key_id"])
        known = _Known(caller, asked_at, asked_at + _LIFE)
        remembered, forgotten = (self._unknown, self._known) if caller is None else (self._known, self._unknown)
        forgotten.pop(digest, None)
        remembered.pop(digest, None)
        if len(remembered) >= _REMEMBERED:
            del remembered[next(iter(remembered))]
        remembered[digest] = known
        return known


def _bearer_key(header: str | bytes | None) -> bytes:
    if not header:
        raise _unauthenticated(_MISSING)
    raw = header if isinstance(header, bytes) else header.encode("utf-8", "replace")
    if raw[:7].lower() != _BEARER:
        raise _unauthenticated(_MISSING)
    key = raw[7:].strip()
    if len(key) != _KEY_LENGTH:
        raise _unauthenticated(_MISSHAPEN)
    return key


def _unauthenticated(detail: str) -> CoatcheckError:
    return CoatcheckError(ErrorCode.UNAUTHENTICATED, detail, headers={"WWW-Authenticate": 'Bearer realm="coatcheck"'})
