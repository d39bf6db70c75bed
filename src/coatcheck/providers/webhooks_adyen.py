"""Adyen's standard webhooks: a batch of items, each signed by itself over eight of its fields and nothing else.

The signature is Base64 HMAC-SHA256, with the hex-decoded key, over
`pspReference:originalReference:merchantAccountCode:merchantReference:value:currency:eventCode:success`. Only these
fields are read, stored and acted on: `reason`, `eventDate` and the rest of `additionalData` could be anybody's.

| event | success | outcome of the operation in merchantReference |
|---|---|---|
| AUTHORISATION | true; false | APPROVED; DECLINED `refused` |
| CAPTURE, CANCELLATION, REFUND | true; false | APPROVED; DECLINED `..._refused` |
| CAPTURE_FAILED, REFUND_FAILED, REFUNDED_REVERSED | true | DECLINED, by that name |
| OFFER_CLOSED | true | DECLINED, is_cancelled, `offer_closed` |
| CAPTURE_FAILED, REFUND_FAILED, REFUNDED_REVERSED, OFFER_CLOSED | false | UNKNOWN: not documented |

Events of a dispute carry the dispute's pspReference, the same in all of them, and the payment's as originalReference.
When they happened is not signed, so their order is that of a dispute's life (`_STAGES`), in which none goes back.

Adyen's signature has no time in it: the key of the event, kept for ever, is what stops a replay.
"""

import base64
import hmac
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Final, Literal

import msgspec

from coatcheck.ids import OPERATION, parse_id
from coatcheck.money import CurrencyError, exponent_of
from coatcheck.providers.disputes import DisputeNews, FundsMovement
from coatcheck.providers.outcome import Outcome, OutcomeKind
from coatcheck.providers.protocol import NotChargeableError, Notice, ReceivedEvent, WebhookRefusedError
from coatcheck.providers.signatures import is_any_equal, notice_about, read_document
from coatcheck.states import DisputeStatus, Mode

_KEY = re.compile(r"(?:[0-9A-Fa-f]{2}){16,}")
_BASE64_SHA256 = re.compile(r"[A-Za-z0-9+/]{43}=")

# Where Adyen counts differently from ISO 4217: its decimals.
_DECIMALS: Final = {"CLP": 2, "CVE": 0, "IDR": 0, "ISK": 2}

# No colon, so that the fields cannot be cut out of the signed text in another way; merchantReference is what is left.
_Word = Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=r"\A[^:\\]*\Z")]


class _Amount(msgspec.Struct, frozen=True):
    value: int | None = None
    currency: Annotated[str, msgspec.Meta(pattern=r"\A[A-Z]{3}\Z")] | None = None


class _Signed(msgspec.Struct, frozen=True, rename="camel"):
    """The fields of an item that its signature covers; this, and no more, is stored."""

    psp_reference: _Word
    merchant_account_code: _Word
    event_code: _Word
    success: Literal["true", "false"] | bool
    original_reference: Annotated[str, msgspec.Meta(max_length=200, pattern=r"\A[^:\\]*\Z")] | None = None
    merchant_reference: str | None = None
    amount: _Amount | None = None

    @property
    def is_success(self) -> bool:
        return self.success in (True, "true")

    @property
    def event_id(self) -> str:
        """Adyen's own rule for duplicates; eventDate may differ between them."""
        return f"{self.psp_reference}:{self.event_code}:{'true' if self.is_success else 'false'}"

    def texts(self) -> list[str]:
        """Write what Adyen may have signed.

        Its libraries join the fields as they are; its older instructions escape backslash and colon. The two differ
        only for a merchantReference that is not one of ours.
        """
        amount = self.amount or _Amount()
        reference = self.merchant_reference or ""
        before = f"{self.psp_reference}:{self.original_reference or ''}:{self.merchant_account_code}"
        value = "" if amount.value is None else amount.value
        after = f"{value}:{amount.currency or ''}:{self.event_code}:{'true' if self.is_success else 'false'}"
        escaped = reference.replace("\\", "\\\\").replace(":", "\\:")
        return [f"{before}:{each}:{after}" for each in dict.fromkeys((reference, escaped))]


class _Envelope(msgspec.Struct, frozen=True):
    item: dict[str, Any] = msgspec.field(name="NotificationRequestItem")


class _Batch(msgspec.Struct, frozen=True, rename="camel"):
    live: Literal["true", "false"] | bool
    notification_items: Annotated[list[_Envelope], msgspec.Meta(min_length=1)]


_MEANINGS: Final[Mapping[tuple[str, bool], tuple[OutcomeKind, str | None]]] = {
    ("AUTHORISATION", True): (OutcomeKind.APPROVED, None),
    ("AUTHORISATION", False): (OutcomeKind.DECLINED, "refused"),
    ("CAPTURE", True): (OutcomeKind.APPROVED, None),
    ("CAPTURE", False): (OutcomeKind.DECLINED, "capture_refused"),
    ("CANCELLATION", True): (OutcomeKind.APPROVED, None),
    ("CANCELLATION", False): (OutcomeKind.DECLINED, "cancellation_refused"),
    ("REFUND", True): (OutcomeKind.APPROVED, None),
    ("REFUND", False): (OutcomeKind.DECLINED, "refund_refused"),
    ("CAPTURE_FAILED", True): (OutcomeKind.DECLINED, "capture_failed"),
    ("REFUND_FAILED", True): (OutcomeKind.DECLINED, "refund_failed"),
    ("REFUNDED_REVERSED", True): (OutcomeKind.DECLINED, "refunded_reversed"),
    ("OFFER_CLOSED", True): (OutcomeKind.DECLINED, "offer_closed"),
}
# How a dispute stands after an event, how late in its life that is, and which way money went.
_STAGES: Final[Mapping[str, tuple[DisputeStatus, int, int]]] = {
    "REQUEST_FOR_INFORMATION": (DisputeStatus.INQUIRY, 10, 0),
    "NOTIFICATION_OF_CHARGEBACK": (DisputeStatus.NEEDS_RESPONSE, 20, 0),
    "CHARGEBACK": (DisputeStatus.NEEDS_RESPONSE, 30, -1),
    "INFORMATION_SUPPLIED": (DisputeStatus.UNDER_REVIEW, 40, 0),
    "CHARGEBACK_REVERSED": (DisputeStatus.WON, 50, 1),
    "SECOND_CHARGEBACK": (DisputeStatus.LOST, 60, -1),
    "PREARBITRATION_WON": (DisputeStatus.WON, 70, 0),
    "PREARBITRATION_LOST": (DisputeStatus.LOST, 70, 0),
}
_ACTED_ON: Final = frozenset(event_code for event_code, _ in _MEANINGS)


class AdyenWebhooks:
    """Standard webhooks of one merchant account, in one mode; the HMAC key is what binds them to it.

    `hmac_keys`: as hex, old and new one during a rotation (Adyen's queued events keep the old signature).
    """

    name = "adyen"

    def __init__(self, hmac_keys: Sequence[str], merchant_account: str, mode: Mode) -> None:
        if isinstance(hmac_keys, str) or not hmac_keys or not all(map(_KEY.fullmatch, hmac_keys)):
            raise ValueError("Adyen's webhooks need a list of HMAC keys, each of 32 or more hex digits")
        self._keys = [bytes.fromhex(key) for key in hmac_keys]
        self._merchant_account = merchant_account
        self._is_live = mode is Mode.LIVE

    def receive(self, headers: Mapping[str, str], body: bytes, at: datetime) -> list[ReceivedEvent]:  # noqa: ARG002 - the proof is in the body and has no time
        """Prove each item by its own signature; one that fails refuses the whole body. Raises WebhookRefusedError.

        What cannot be read cannot be proven here, so it is refused. `live` is not signed: it can only refuse.
        """
        try:
            batch = read_document(body, _Batch)
        except ValueError:
            raise WebhookRefusedError("not a batch of signed items") from None
        if (batch.live in (True, "true")) is not self._is_live:
            raise WebhookRefusedError(f"a batch with live={batch.live} at an endpoint of the other mode")
        events: dict[str, ReceivedEvent] = {}
        for envelope in batch.notification_items:
            signed = self._prove(envelope.item)
            raw = msgspec.json.encode(signed)
            event = ReceivedEvent(account=self._merchant_account, event_id=signed.event_id, raw=raw)
            events.setdefault(event.event_id, event)
        return list(events.values())

    def parse(self, raw: bytes) -> list[Notice]:
        """Read what an item's signed fields say of our operation. Raises ValueError when they cannot be read."""
        signed = read_document(raw, _Signed)
        if signed.event_code in _STAGES and signed.is_success:
            return [self._of_dispute(signed)]
        if signed.event_code not in _ACTED_ON:
            return [Notice(type=signed.event_code)]
        return [notice_about(signed.event_code, signed.merchant_reference, self._outcome_of(signed))]

    def _of_dispute(self, signed: _Signed) -> Notice:
        """Read what an item says of a dispute. Raises ValueError for an amount that is none."""
        amount, reference = signed.amount or _Amount(), signed.merchant_reference
        if reference is None or parse_id(OPERATION, reference) is None:
            return Notice(type=signed.event_code)
        if amount.value is None or amount.currency is None or amount.value < 1:
            raise ValueError(f"a {signed.event_code} without an amount")
        try:
            amount_minor = from_adyen_amount(amount.value, amount.currency)
        except NotChargeableError as error:
            raise ValueError(str(error)) from None
        status, word_no, sign = _STAGES[signed.event_code]
        moved = FundsMovement(
            name=signed.event_code,
            gross_minor=sign * amount_minor,
            fee_minor=0,  # it is not in the event; a settlement file has it
            currency=amount.currency,
        )
        news = DisputeNews(
            provider=self.name,
            mode=Mode.LIVE if self._is_live else Mode.TEST,
            provider_reference=signed.psp_reference,
            type=signed.event_code,
            reference=reference,
            charge_reference=signed.original_reference or None,
            status=status,
            amount_minor=amount_minor,
            currency=amount.currency,
            word_no=word_no,
            movements=(moved,) if sign else (),
        )
        return Notice(type=signed.event_code, reference=reference, dispute=news)

    def _prove(self, item: dict[str, Any]) -> _Signed:
        try:
            signed = msgspec.convert(item, _Signed)
        except ValueError:
            raise WebhookRefusedError("an item whose signed fields cannot be read") from None
        additional = item.get("additionalData")
        given = additional.get("hmacSignature") if isinstance(additional, dict) else None
        if not isinstance(given, str) or _BASE64_SHA256.fullmatch(given) is None:
            raise WebhookRefusedError("an item without a signature")
        texts = [text.encode("utf-8") for text in signed.texts()]
        expected = [base64.b64encode(hmac.digest(key, text, "sha256")) for key in self._keys for text in texts]
        if not is_any_equal([each.decode("ascii") for each in expected], [given]):
            raise WebhookRefusedError("an item whose signature belongs to no known key")
        if signed.merchant_account_code != self._merchant_account:
            raise WebhookRefusedError("an item of another merchant account than this endpoint's")
        return signed

    def _outcome_of(self, signed: _Signed) -> Outcome:
        kind, decline_code = _MEANINGS.get((signed.event_code, signed.is_success), (OutcomeKind.UNKNOWN, None))
        outcome = Outcome(
            kind=kind,
            provider_reference=signed.psp_reference,
            reference=signed.merchant_reference,
            is_live=self._is_live,
            decline_code=decline_code,
            cause="not a documented event" if kind is OutcomeKind.UNKNOWN else None,
            evidence=f"event {signed.event_id}",
            is_cancelled=decline_code == "offer_closed",
        )
        return _with_amount(outcome, signed.amount or _Amount())


def to_adyen_amount(amount_minor: int, currency: str) -> int:
    """Turn ISO 4217 minor units into Adyen's. Raises NotChargeableError for what Adyen cannot take exactly."""
    return _rescaled(amount_minor, currency, from_decimals=_iso_of(currency), to_decimals=_adyens_of(currency))


def from_adyen_amount(value: int, currency: str) -> int:
    """Turn Adyen's amount into ISO 4217 minor units. Raises NotChargeableError for one that has no exact equal."""
    return _rescaled(value, currency, from_decimals=_adyens_of(currency), to_decimals=_iso_of(currency))


def _rescaled(amount: int, currency: str, *, from_decimals: int, to_decimals: int) -> int:
    if to_decimals >= from_decimals:
        return amount * int(10 ** (to_decimals - from_decimals))
    whole, rest = divmod(amount, int(10 ** (from_decimals - to_decimals)))
    if rest:
        raise NotChargeableError(f"{amount} {currency} with {from_decimals} decimals is not exact with {to_decimals}")
    return whole


def _adyens_of(currency: str) -> int:
    return _DECIMALS.get(currency, _iso_of(currency))


def _iso_of(currency: str) -> int:
    try:
        return exponent_of(currency)
    except CurrencyError as error:
        raise NotChargeableError(str(error)) from error


def _with_amount(outcome: Outcome, amount: _Amount) -> Outcome:
    """Add the amount in ISO 4217 minor units; one they cannot express decides nothing and is for a person."""
    if amount.value is None or amount.currency is None:
        return outcome
    try:
        amount_minor = from_adyen_amount(amount.value, amount.currency)
    except NotChargeableError as error:
        return msgspec.structs.replace(
            outcome,
            kind=OutcomeKind.UNKNOWN,
            decline_code=None,
            is_cancelled=False,
            cause="unreadable amount",
            evidence=f"{outcome.evidence}: {error}",
        )
    return msgspec.structs.replace(outcome, amount_minor=amount_minor, currency=amount.currency)
