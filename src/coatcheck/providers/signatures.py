"""What proves a webhook, and the strict reading of what was proven.

Stripe and the simulator send one event in a body and sign it in a header: `t=<Unix seconds>,v1=<hex>`, where the hex is
HMAC-SHA256 over `<t>.<raw body>` with the endpoint's secret as UTF-8. Adyen signs each item by itself
(webhooks_adyen.py) and shares only the comparison and the reading here.
"""

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Final, TypeVar

import msgspec

from coatcheck.errors import CoatcheckError
from coatcheck.ids import OPERATION, parse_id
from coatcheck.pan import redact_card_numbers
from coatcheck.providers.outcome import Outcome
from coatcheck.providers.protocol import Notice, ReceivedEvent, WebhookRefusedError
from coatcheck.states import Mode
from coatcheck.strict_json import decode_strict

TOLERANCE_S: Final = 300  # to both sides: a webhook from the future is as suspect as an old one
PLATFORM: Final = "platform"  # the account of an event that names none: the one that the secret belongs to
DEPTH: Final = 32
_HEADER_AT_MOST: Final = 4096
_SIGNATURES_AT_MOST: Final = 16

_ELEMENT = re.compile(r"([a-z0-9]+)=([A-Za-z0-9+/_-]+)")
_TIME = re.compile(r"[0-9]{1,11}")
_HEX_SHA256 = re.compile(r"[0-9a-f]{64}")

T = TypeVar("T")


class _Data(msgspec.Struct, frozen=True):
    object: dict[str, Any]


class SignedEvent(msgspec.Struct, frozen=True):
    """The envelope that Stripe's and the simulator's events share."""

    id: Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_-]{1,255}\Z")]
    type: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    livemode: bool
    account: str | None = None
    data: _Data | None = None

    @property
    def subject(self) -> dict[str, Any]:
        """The object that the event is about. Raises ValueError where there is none."""
        if self.data is None:
            raise ValueError("an event without an object")
        return self.data.object


class SignedEvents:
    """The receiving of events that are signed in a header, for one account of one PSP in one mode.

    Any of `secrets` proves: during a rotation the old and the new one are both there. `account` None: the events must
    name no account. Raises ValueError for secrets that prove nothing.
    """

    def __init__(self, header: str, secrets: Sequence[str], *, account: str | None, mode: Mode) -> None:
        if isinstance(secrets, str) or not secrets or not all(secrets):
            raise ValueError("webhooks need a list of secrets, none of them empty")
        self._header = header
        self._keys = [secret.encode("utf-8") for secret in secrets]
        self._account = account
        self._is_live = mode is Mode.LIVE

    def receive(self, headers: Mapping[str, str], body: bytes, at: datetime) -> list[ReceivedEvent]:
        """Prove the bytes, then look into them for mode, account and id. Raises WebhookRefusedError."""
        self._prove(headers.get(self._header, ""), body, at)
        account = self._account or PLATFORM
        try:
            event = read_document(body, SignedEvent)
        except ValueError:
            return [ReceivedEvent(account=account, event_id=f"sha256:{hashlib.sha256(body).hexdigest()}", raw=body)]
        if event.livemode is not self._is_live:
            raise WebhookRefusedError(f"an event with livemode={event.livemode} at an endpoint of the other mode")
        if event.account != self._account:
            raise WebhookRefusedError("an event of another account than this endpoint's")
        return [ReceivedEvent(account=account, event_id=event.id, raw=body)]

    def _prove(self, header: str, body: bytes, at: datetime) -> None:
        time, given = _read_header(header)
        signed = f"{time}.".encode("ascii") + body
        if not is_any_equal([hmac.digest(key, signed, "sha256").hex() for key in self._keys], given):
            raise WebhookRefusedError("no signature in the header belongs to this body and a known secret")
        # Only after the proof: nobody else learns what our clock says.
        if abs(int(time) - at.timestamp()) > TOLERANCE_S:
            raise WebhookRefusedError(f"signed at {time}, more than {TOLERANCE_S} s from now")


def is_any_equal(expected: Iterable[str], given: Sequence[str]) -> bool:
    """Compare all with all in constant time: the sum visits every pair, where `any` would stop at the first."""
    return sum(hmac.compare_digest(ours, theirs) for ours in expected for theirs in given) > 0


def read_document(raw: bytes, shape: type[T]) -> T:
    """Read a JSON object that means one thing only, in the shape it must have. Raises ValueError."""
    try:
        document = decode_strict(raw, depth=DEPTH)
    except CoatcheckError as error:
        # The detail may show a name out of the body.
        raise ValueError(redact_card_numbers(error.detail)) from None
    return msgspec.convert(document, shape)


def notice_about(event_type: str, reference: str | None, outcome: Outcome) -> Notice:
    """Pass on what an event says of the operation it names; nothing where the reference is not one of ours."""
    if reference is None or parse_id(OPERATION, reference) is None:
        return Notice(type=event_type)
    return Notice(type=event_type, reference=reference, outcome=outcome)


def _read_header(header: str) -> tuple[str, list[str]]:
    """Read the one time and the `v1` signatures; other schemes are passed over, anything malformed is refused."""
    if not header or len(header) > _HEADER_AT_MOST:
        raise WebhookRefusedError("no signature header, or one that is too long")
    elements = [_ELEMENT.fullmatch(element) for element in header.split(",")]
    pairs = [element.groups() for element in elements if element is not None]
    times = [value for scheme, value in pairs if scheme == "t"]
    given = [value for scheme, value in pairs if scheme == "v1"]
    is_well_formed = (
        len(pairs) == len(elements)
        and len(times) == 1
        and _TIME.fullmatch(times[0])
        and 0 < len(given) <= _SIGNATURES_AT_MOST
        and all(_HEX_SHA256.fullmatch(signature) for signature in given)
    )
    if not is_well_formed:
        raise WebhookRefusedError("the signature header is not t=<seconds>,v1=<64 hex digits>")
    return times[0], given
