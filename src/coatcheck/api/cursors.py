"""Cursors: where the next page of a list begins, opaque to whoever carries it.

A cursor holds the last row's time and id, and eight bytes of a digest over these and the list they belong to (shop,
mode, address, filters). A changed, cut-off or foreign cursor is refused; there is nothing in it to keep secret, since
a list only ever shows its caller's own rows.
"""

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from uuid import UUID

from coatcheck.errors import CoatcheckError, ErrorCode
from coatcheck.reporting.read_models import Place

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_TIME_BYTES, _PLACE_BYTES, _CHECK_BYTES = 8, 24, 8
_LENGTH = 43  # letters of base64 without padding


def print_cursor(place: Place, *list_name: str) -> str:
    """Print where the list so named goes on."""
    raw = ((place.at - _EPOCH) // _MICROSECOND).to_bytes(_TIME_BYTES, "big") + place.row_id.bytes
    return urlsafe_b64encode(raw + _check_of(raw, list_name)).decode().rstrip("=")


def parse_cursor(text: str | None, *list_name: str) -> Place | None:
    """Read a cursor of the list so named; None begins at the start. Raises CoatcheckError INVALID_CURSOR."""
    if text is None:
        return None
    raw = _decoded(text)
    place, check = raw[:_PLACE_BYTES], raw[_PLACE_BYTES:]
    if check != _check_of(place, list_name):
        raise unknown_cursor()
    at = _EPOCH + int.from_bytes(place[:_TIME_BYTES], "big") * _MICROSECOND
    return Place(at, UUID(bytes=place[_TIME_BYTES:]))


def _decoded(text: str) -> bytes:
    if len(text) != _LENGTH or not text.isascii():
        raise unknown_cursor()
    try:
        raw = urlsafe_b64decode(text + "=")
    except ValueError:
        raise unknown_cursor() from None
    # What is not of the alphabet is passed over by the decoder, and the last letter has two bits that say nothing.
    if urlsafe_b64encode(raw).decode().rstrip("=") != text:
        raise unknown_cursor()
    return raw


def _check_of(raw: bytes, list_name: tuple[str, ...]) -> bytes:
    named = "".join([f"{len(part)}:{part}" for part in list_name]).encode()
    return hashlib.sha256(named + b"|" + raw).digest()[:_CHECK_BYTES]


def unknown_cursor() -> CoatcheckError:
    """Say that a cursor is none of this list's."""
    return CoatcheckError(
        ErrorCode.INVALID_CURSOR,
        "Take `next_cursor` unchanged from the answer before, with the same filters, or begin again without a cursor.",
    )
