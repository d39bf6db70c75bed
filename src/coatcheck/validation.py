"""What a body may say: the shape and meaning of a checkout, a capture, a cancel and a refund.

The Structs below are the one definition of the shape: they decode the usual body, and their JSON Schema is what the
API publishes. A body that is not right is looked at again, slowly, so that all its problems are told at once.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from ipaddress import ip_address
from itertools import islice
from numbers import Number
from types import SimpleNamespace
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from msgspec import Meta

from coatcheck.errors import CoatcheckError, ErrorCode, Problem
from coatcheck.money import EXPONENTS, AmountError, CurrencyError, exponent_of, parse_amount, parse_share
from coatcheck.pan import contains_card_number_in
from coatcheck.states import Capture, OnFailure
from coatcheck.strict_json import decode_strict, names_are_unique, pointer_step

MAX_ORDERS = 100
_MOST_PROBLEMS = 200  # of a hostile body with thousands, the first are enough

_ID_PATTERN = "^[!-~]+$"
_NO_COLON = "^[!-9;-~]+$"
_URL_PATTERN = r"^https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[!-~]*)?$"
_AMOUNT_PATTERN = r"^(0|[1-9][0-9]{0,11})(\.[0-9]{1,4})?$"


def _id_of(description: str, example: str, pattern: str = _ID_PATTERN) -> Meta:
    return Meta(
        min_length=1,
        max_length=128,
        description=f"{description} 1 to 128 printable ASCII characters without spaces.",
        examples=[example],
        extra_json_schema={"pattern": pattern},
    )


IdempotencyKey = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=255,
        description="The key of this request, unless the Idempotency-Key header has it. "
        "1 to 255 printable ASCII characters without spaces.",
        examples=["7f3c9d0e-place-order"],
        extra_json_schema={"pattern": _ID_PATTERN},
    ),
]


def _amount_of(description: str, example: str) -> Meta:
    return Meta(
        max_length=32,
        description=description,
        examples=[example],
        extra_json_schema={"pattern": _AMOUNT_PATTERN},
    )


class BuyerDetails(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Who buys. Only `reference` is needed; the rest helps the risk rules and can be erased later."""

    reference: Annotated[str, _id_of("The shop's own id of the buyer, the same at every purchase.", "buyer-7")]
    email: (
        Annotated[str, Meta(min_length=3, max_length=254, description="E-mail address.", examples=["ada@shop.example"])]
        | None
    ) = None
    name: Annotated[str, Meta(min_length=1, max_length=200, description="Name.", examples=["Ada Lovelace"])] | None = (
        None
    )
    country: (
        Annotated[
            str,
            Meta(
                description="Country, as two capital letters (ISO 3166-1 alpha-2).",
                examples=["GB"],
                extra_json_schema={"pattern": "^[A-Z]{2}$"},
            ),
        ]
        | None
    ) = None
    ip: (
        Annotated[
            str,
            Meta(
                min_length=2,
                max_length=45,
                description="IP address, version 4 or 6, of the buyer's device.",
                examples=["203.0.113.7"],
            ),
        ]
        | None
    ) = None


# Null counts as left out.
_ONE_METHOD = [
    {"required": ["token"], "properties": {"token": {"type": "string"}, "hosted": {"type": "null"}}},
    {"required": ["hosted"], "properties": {"hosted": {"type": "object"}, "token": {"type": "null"}}},
]


class HostedMethod(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The buyer pays on the provider's own page: the answer says where to send him."""

    return_url: Annotated[
        str,
        Meta(
            min_length=8,
            max_length=1000,
            description="Where the provider sends the buyer back to afterwards: http or https.",
            examples=["https://shop.example/thanks"],
            extra_json_schema={"pattern": _URL_PATTERN},
        ),
    ]


class PaymentMethod(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How the buyer pays: either a token that the provider gave for the card, or the provider's page."""

    token: Annotated[str, _id_of("The provider's token. Card numbers are refused.", "tok_approve")] | None = None
    hosted: HostedMethod | None = None


class CreatePaymentOrder(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One seller's part of a payment, charged on its own."""

    payment_order_id: Annotated[str, _id_of("The shop's own id of this part, unique for ever.", "order-7001-a")]
    seller_account: Annotated[str, _id_of("The shop's own id of the seller; no colon in it.", "seller-42", _NO_COLON)]
    amount: Annotated[
        str, _amount_of("What the buyer pays, as text: more than zero, with at most the currency's decimals.", "129.95")
    ]
    currency: Annotated[
        str,
        Meta(
            description="Three capital letters (ISO 4217).",
            examples=["EUR"],
            extra_json_schema={"pattern": "^[A-Z]{3}$"},
        ),
    ]
    commission: (
        Annotated[str, _amount_of("What the platform keeps of the amount, as text; nothing when left out.", "12.99")]
        | None
    ) = None


class CreatePayment(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One checkout. Sending it again, under any key, names the same payment and never charges twice."""

    buyer: BuyerDetails
    checkout_id: Annotated[str, _id_of("The shop's own id of the checkout, unique for ever.", "checkout-7001")]
    payment_method: Annotated[PaymentMethod, Meta(extra_json_schema={"oneOf": _ONE_METHOD})]
    payment_orders: Annotated[
        list[CreatePaymentOrder], Meta(min_length=1, max_length=MAX_ORDERS, description="One part per seller.")
    ]
    capture: Annotated[
        Capture | None,
        Meta(description="When the money is taken: at once, or `manual`: reserved now, taken by POST .../capture."),
    ] = None
    on_failure: Annotated[
        OnFailure | None,
        Meta(
            description="What becomes of the other orders when one fails: they are kept, or `all_or_nothing`: every "
            "order is reserved first, and all are taken or none is."
        ),
    ] = None
    metadata: (
        Annotated[
            dict[Annotated[str, Meta(min_length=1, max_length=40)], Annotated[str, Meta(max_length=500)]],
            Meta(
                max_length=50,
                description="The shop's own notes, shown again with the payment. No personal data.",
                examples=[{"cart": "summer"}],
            ),
        ]
        | None
    ) = None
    idempotency_key: IdempotencyKey | None = None


class CapturePart(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One authorized order to capture, in whole or in part."""

    payment_order_id: Annotated[str, _id_of("The shop's own id of the order.", "order-7001-a")]
    amount: (
        Annotated[str, _amount_of("What to take of the order, as text; all that is left when left out.", "100.00")]
        | None
    ) = None


class CapturePayment(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The capture of a payment's authorized orders: of all of them, or of those listed. All are captured or none."""

    payment_orders: (
        Annotated[
            list[CapturePart],
            Meta(min_length=1, max_length=MAX_ORDERS, description="Which orders; every authorized one when left out."),
        ]
        | None
    ) = None
    final: Annotated[
        bool,
        Meta(description="Whether what is not captured now is released. `false` keeps it, where the provider can."),
    ] = True
    idempotency_key: IdempotencyKey | None = None


class CancelPayment(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The cancelling of a payment that is not charged yet."""

    idempotency_key: IdempotencyKey | None = None


class CreateRefund(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Money of one payment order that goes back to the buyer."""

    payment_order_id: Annotated[str, _id_of("The shop's own id of the order.", "order-7001-a")]
    amount: (
        Annotated[
            str,
            _amount_of("What to give back, as text in the order's currency; all that is left when left out.", "20.00"),
        ]
        | None
    ) = None
    reason: (
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=500,
                description="Why, in the shop's own words; shown again with the refund. No personal data.",
                examples=["the hat was too small"],
            ),
        ]
        | None
    ) = None
    idempotency_key: IdempotencyKey | None = None


Currency = Annotated[
    str,
    Meta(
        description="Three capital letters (ISO 4217).",
        examples=["EUR"],
        extra_json_schema={"pattern": "^[A-Z]{3}$"},
    ),
]


class CreatePayout(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Money of a seller's available balance that goes to the seller."""

    seller_account: Annotated[str, _id_of("The shop's own id of the seller.", "seller-42", _NO_COLON)]
    currency: Currency
    amount: (
        Annotated[str, _amount_of("What to pay out, as text; all that is available when left out.", "250.00")] | None
    ) = None
    idempotency_key: IdempotencyKey | None = None


class PutPayoutDestination(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where a seller's money of one currency goes: a token of a provider's, never bank details."""

    currency: Currency
    token: Annotated[str, _id_of("What the provider gave for the seller's bank account.", "acct_1NvdFGQ9RKHgCVdK")]
    provider: Annotated[str, _id_of("Whose token it is; the provider of payments when left out.", "stripe")] | None = (
        None
    )


class PutPayoutSchedule(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """When a seller's money of one currency is paid out unasked. Neither cron nor threshold: not any more."""

    currency: Currency
    cron: (
        Annotated[
            str,
            Meta(
                min_length=9,
                max_length=100,
                description="Five fields, in UTC: minute, hour, day of the month, month, day of the week.",
                examples=["0 6 * * 1"],
            ),
        ]
        | None
    ) = None
    threshold: (
        Annotated[
            str,
            _amount_of("Only from so much on, as text. Without cron it is looked at each hour, on the hour.", "100.00"),
        ]
        | None
    ) = None


class DecidePayoutRun(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a second person says about a run of payouts that waits."""

    decision: Annotated[Literal["approve", "reject"], Meta(description="Let it go, or stop it.", examples=["approve"])]


class Buyer(msgspec.Struct, frozen=True):
    """Who buys, as given; `ip` in its shortest form."""

    reference: str
    email: str | None = None
    name: str | None = None
    country: str | None = None
    ip: str | None = None


class OrderRequest(msgspec.Struct, frozen=True):
    """One seller's part, checked: 0 <= commission_minor <= amount_minor, 0 < amount_minor."""

    payment_order_id: str
    seller_account: str
    amount_minor: int
    currency: str
    commission_minor: int


class PaymentRequest(msgspec.Struct, frozen=True):
    """A checkout, checked: amounts in minor units, order ids distinct; either a token or a return_url."""

    checkout_id: str
    buyer: Buyer
    token: str | None
    orders: tuple[OrderRequest, ...]
    metadata: dict[str, str] | None = None
    idempotency_key: str | None = None
    capture: Capture = Capture.AUTOMATIC
    on_failure: OnFailure = OnFailure.KEEP
    return_url: str | None = None

    @property
    def is_usual(self) -> bool:
        """Whether the money is taken at once, by token, each order for itself."""
        manner = (self.capture, self.on_failure, self.return_url)
        return manner == (Capture.AUTOMATIC, OnFailure.KEEP, None)

    def digest(self) -> bytes:
        """Name the content: SHA-256, the same for the same checkout however it was written or keyed.

        The IP address is left out: a buyer whose phone changed networks between two clicks is still the same buyer.
        """
        buyer = (self.buyer.reference, self.buyer.email, self.buyer.name, self.buyer.country)
        content: tuple[object, ...] = (1, self.checkout_id, buyer, self.token, self.orders, self.metadata)
        if not self.is_usual:
            content = (*content, self.capture, self.on_failure, self.return_url)
        return hashlib.sha256(_encode_in_order(content)).digest()


_decode = msgspec.json.Decoder(CreatePayment).decode
_encode_in_order = msgspec.json.Encoder(order="deterministic").encode
_is_id = re.compile("[!-~]+").fullmatch
_is_country = re.compile("[A-Z]{2}").fullmatch
_is_url = re.compile(_URL_PATTERN).fullmatch
_is_email = re.compile(r"[^@\s]+@[^@\s]+").fullmatch
_is_key = re.compile("[!-~]{1,255}").fullmatch
_QUOTED = re.compile(r'"((?:[^"\\]|\\["\\])*)"').fullmatch


_Read = TypeVar("_Read")


@dataclass(frozen=True, slots=True)
class _Form(Generic[_Read]):
    """How one kind of body is read: its shape, and what its parts mean.

    `check` puts a body into the gateway's words, `find` tells everything wrong with one; both take `orders_limit`.
    """

    shape: type[msgspec.Struct]
    decode: Callable[[bytes], Any]
    check: Callable[[Any, int, list[Problem]], _Read]
    find: Callable[[dict[str, Any], int], list[Problem]]


def parse_payment_request(raw: bytes, *, body_depth: int, orders_limit: int) -> PaymentRequest:
    """Read the body of `POST /v1/payments`. Raises CoatcheckError as `_parse` does."""
    return _parse(_PAYMENT, raw, body_depth, orders_limit)


def parse_capture_request(raw: bytes, *, body_depth: int, orders_limit: int) -> CapturePayment:
    """Read the body of a capture; amounts are read with their orders' currency. Raises as `_parse` does."""
    return _parse(_CAPTURE, raw, body_depth, orders_limit)


def parse_cancel_request(raw: bytes, *, body_depth: int, orders_limit: int) -> CancelPayment:
    """Read the body of a cancel. Raises CoatcheckError as `_parse` does."""
    return _parse(_CANCEL, raw, body_depth, orders_limit)


def parse_refund_request(raw: bytes, *, body_depth: int, orders_limit: int) -> CreateRefund:
    """Read the body of a refund; the amount is read with its order's currency. Raises as `_parse` does."""
    return _parse(_REFUND, raw, body_depth, orders_limit)


def parse_payout_request(raw: bytes, *, body_depth: int, orders_limit: int) -> CreatePayout:
    """Read the body of a payout. Raises as `_parse` does."""
    return _parse(_PAYOUT, raw, body_depth, orders_limit)


def parse_payout_destination(raw: bytes, *, body_depth: int, orders_limit: int) -> PutPayoutDestination:
    """Read the body of a payout destination. Raises as `_parse` does."""
    return _parse(_PAYOUT_DESTINATION, raw, body_depth, orders_limit)


def parse_payout_schedule(raw: bytes, *, body_depth: int, orders_limit: int) -> PutPayoutSchedule:
    """Read the body of a payout schedule. Raises as `_parse` does."""
    return _parse(_PAYOUT_SCHEDULE, raw, body_depth, orders_limit)


def parse_payout_decision(raw: bytes, *, body_depth: int, orders_limit: int) -> DecidePayoutRun:
    """Read the body of a decision about a run of payouts. Raises as `_parse` does."""
    return _parse(_PAYOUT_DECISION, raw, body_depth, orders_limit)


def _parse(form: _Form[_Read], raw: bytes, body_depth: int, orders_limit: int) -> _Read:
    """Read a body.

    Raises CoatcheckError: CARD_NUMBER_REFUSED, never repeating it; MALFORMED_BODY; INVALID_REQUEST with every problem.
    """
    if contains_card_number_in(raw):
        raise CoatcheckError(
            ErrorCode.CARD_NUMBER_REFUSED,
            "Send the provider's token in payment_method.token, never a card number. Nothing of the request was kept. "
            "If it was an id of yours that looks like one, put a letter between its digits.",
        )
    body = _read_fast(raw, form.decode)
    document = None
    if body is None:
        document = decode_strict(raw, depth=body_depth)
        body = _read_document(document, form.shape)
    problems: list[Problem] = []
    if body is not None:
        request = form.check(body, orders_limit, problems)
        if not problems:
            return request
    problems = form.find(decode_strict(raw, depth=body_depth) if document is None else document, orders_limit)
    raise invalid(problems or [Problem("", "The body does not have the published shape.")])


def invalid(problems: list[Problem]) -> CoatcheckError:
    """Make the refusal that tells all of a request's problems; there is at least one."""
    return CoatcheckError(ErrorCode.INVALID_REQUEST, _summary(problems), problems)


def amount_in(text: str, currency: str, pointer: str, problems: list[Problem]) -> int:
    """Read an amount in a currency that is known already, into minor units; adds a problem where it cannot be."""
    try:
        return parse_amount(text, currency)
    except ValueError as error:
        problems.append(Problem(pointer, _sentence(error)))
        return 0


def parse_idempotency_key(header: bytes | None, in_body: str | None) -> str:
    """Decide on the request's key: from the Idempotency-Key header, quoted (RFC 8941) or bare, or from the body.

    Raises CoatcheckError IDEMPOTENCY_KEY_MISSING, IDEMPOTENCY_KEY_INVALID, IDEMPOTENCY_KEY_MISMATCH.
    """
    if header is None:
        if in_body is None:
            raise CoatcheckError(
                ErrorCode.IDEMPOTENCY_KEY_MISSING,
                "Send an Idempotency-Key header, or idempotency_key in the body: a text of your own, the same whenever "
                "you send the same request again.",
            )
        return in_body
    text = header.decode("latin-1").strip()
    quoted = _QUOTED(text)
    key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else text
    if not _is_key(key) or (key.startswith('"') and not quoted):
        raise CoatcheckError(
            ErrorCode.IDEMPOTENCY_KEY_INVALID,
            'Write 1 to 255 printable ASCII characters without spaces, such as Idempotency-Key: "7f3c9d0e".',
        )
    if in_body not in {None, key}:
        raise CoatcheckError(
            ErrorCode.IDEMPOTENCY_KEY_MISMATCH, "The header and the body name different keys; send one, or the same."
        )
    return key


def find_problems(document: dict[str, Any], orders_limit: int) -> list[Problem]:
    """Find everything wrong with a body: its structure, and the meaning of every part that is well-formed.

    One problem per place, in the order of the places.
    """
    structural = _structure_problems(_structure, document)
    wrong = {problem.pointer for problem in structural}
    body = _well_formed_of(document, CreatePayment, "", wrong)
    body.buyer = _well_formed_of(body.buyer, BuyerDetails, "/buyer", wrong)
    body.payment_method = _well_formed_of(body.payment_method, PaymentMethod, "/payment_method", wrong)
    body.payment_method.hosted = (
        _well_formed_of(body.payment_method.hosted, HostedMethod, "/payment_method/hosted", wrong)
        if body.payment_method.hosted is not None
        else None
    )
    body.payment_orders = [
        _well_formed_of(order, CreatePaymentOrder, f"/payment_orders/{index}", wrong)
        for index, order in enumerate(_list_of(document.get("payment_orders")))
    ]
    meanings: list[Problem] = []
    _checked(body, orders_limit, meanings)
    return _one_per_place(structural, meanings)


def _problem_finder(
    shape: type[msgspec.Struct], check: Callable[[Any, int, list[Problem]], Any]
) -> Callable[[dict[str, Any], int], list[Problem]]:
    """Make what finds everything wrong with one of the smaller bodies."""
    structure = _structure_of(shape)

    def find(document: dict[str, Any], orders_limit: int) -> list[Problem]:
        structural = _structure_problems(structure, document)
        wrong = {problem.pointer for problem in structural}
        body = _well_formed_of(document, shape, "", wrong)
        if shape is CapturePayment:
            body.payment_orders = [
                _well_formed_of(part, CapturePart, f"/payment_orders/{index}", wrong)
                for index, part in enumerate(_list_of(document.get("payment_orders")))
            ]
        meanings: list[Problem] = []
        check(body, orders_limit, meanings)
        return _one_per_place(structural, meanings)

    return find


def _one_per_place(structural: list[Problem], meanings: list[Problem]) -> list[Problem]:
    first_at = {problem.pointer: problem for problem in reversed((*structural, *meanings[:_MOST_PROBLEMS]))}
    return sorted(first_at.values(), key=_place_of)


def _read_fast(raw: bytes, decode: Callable[[bytes], Any]) -> Any:
    """Read the usual body in one pass; None when it needs a closer look.

    The shapes allow no numbers, no unknown names and no deep nesting, so unique names are all that is left to prove.
    """
    try:
        body = decode(raw)
    except (ValueError, RecursionError):
        return None
    return body if names_are_unique(raw, body) else None


def _read_document(document: dict[str, Any], shape: type[msgspec.Struct] = CreatePayment) -> Any:
    try:
        return msgspec.convert(document, shape)
    except msgspec.ValidationError:
        return None


def _checked(body: CreatePayment, orders_limit: int, problems: list[Problem]) -> PaymentRequest:
    """Check what the parts mean and put them into the gateway's words.

    `body` may hold None where a part is not well-formed; that part is passed over, and the result is of no use then.
    """
    _check_id(body.checkout_id, "/checkout_id", problems)
    return_url = _check_method(body.payment_method, problems)
    _check_id(body.idempotency_key, "/idempotency_key", problems)
    buyer = _buyer_of(body.buyer, problems)
    orders = body.payment_orders
    if len(orders) > orders_limit:
        problems.append(Problem("/payment_orders", f"Send at most {orders_limit} orders in one payment."))
    checked = tuple([_order_of(order, f"/payment_orders/{index}", problems) for index, order in enumerate(orders)])
    if len(orders) > 1:
        _check_distinct([order.payment_order_id for order in orders], problems)
    if body.capture == Capture.MANUAL and body.on_failure == OnFailure.ALL_OR_NOTHING:
        problems.append(Problem("/capture", "Leave it out: an all_or_nothing checkout captures by itself."))
    return PaymentRequest(
        body.checkout_id,
        buyer,
        body.payment_method.token,
        checked,
        body.metadata or None,
        body.idempotency_key,
        Capture(body.capture or Capture.AUTOMATIC),
        OnFailure(body.on_failure or OnFailure.KEEP),
        return_url,
    )


def _check_capture(body: Any, orders_limit: int, problems: list[Problem]) -> CapturePayment:
    parts = body.payment_orders or ()
    _check_id(body.idempotency_key, "/idempotency_key", problems)
    if len(parts) > orders_limit:
        problems.append(Problem("/payment_orders", f"Send at most {orders_limit} orders in one capture."))
    for index, part in enumerate(parts):
        _check_id(part.payment_order_id, f"/payment_orders/{index}/payment_order_id", problems)
    _check_distinct([part.payment_order_id for part in parts], problems)
    return body  # type: ignore[no-any-return]  # of well-formed parts, or of no use: see _checked


def _check_cancel(body: Any, _: int, problems: list[Problem]) -> CancelPayment:
    _check_id(body.idempotency_key, "/idempotency_key", problems)
    return body  # type: ignore[no-any-return]


def _check_refund(body: Any, _: int, problems: list[Problem]) -> CreateRefund:
    _check_id(body.payment_order_id, "/payment_order_id", problems)
    _check_id(body.idempotency_key, "/idempotency_key", problems)
    return body  # type: ignore[no-any-return]


def _check_payout(body: Any, _: int, problems: list[Problem]) -> CreatePayout:
    _check_id(body.seller_account, "/seller_account", problems)
    if body.seller_account is not None and ":" in body.seller_account:
        problems.append(Problem("/seller_account", "Leave out the colon: it separates names in the ledger."))
    _check_id(body.idempotency_key, "/idempotency_key", problems)
    _check_money(body.currency, body.amount, "/amount", problems)
    return body  # type: ignore[no-any-return]


def _check_payout_destination(body: Any, _: int, problems: list[Problem]) -> PutPayoutDestination:
    _check_id(body.token, "/token", problems)
    _check_id(body.provider, "/provider", problems)
    _check_money(body.currency, None, "", problems)
    return body  # type: ignore[no-any-return]


def _check_payout_schedule(body: Any, _: int, problems: list[Problem]) -> PutPayoutSchedule:
    _check_money(body.currency, body.threshold, "/threshold", problems)
    return body  # type: ignore[no-any-return]


def _check_payout_decision(body: Any, _: int, __: list[Problem]) -> DecidePayoutRun:
    return body  # type: ignore[no-any-return]


def _check_money(currency: str | None, amount: str | None, pointer: str, problems: list[Problem]) -> None:
    """Check a currency, and an amount where there is one."""
    if currency is None:
        return
    try:
        exponent_of(currency)
        if amount is not None:
            parse_amount(amount, currency)
    except CurrencyError as error:
        problems.append(Problem("/currency", _sentence(error)))
    except AmountError as error:
        problems.append(Problem(pointer, _sentence(error)))


def _check_method(method: PaymentMethod, problems: list[Problem]) -> str | None:
    """Check how the buyer pays; returns the hosted page's return_url."""
    _check_id(method.token, "/payment_method/token", problems)
    # Taken apart, a part that is not well-formed is missing, too; what the structure lacks is told with the structure.
    if isinstance(method, PaymentMethod) and (method.token is None) is (method.hosted is None):
        problems.append(Problem("/payment_method", "Send either token or hosted."))
    url = None if method.hosted is None else method.hosted.return_url
    if url is not None and not _is_url(url):
        problems.append(
            Problem("/payment_method/hosted/return_url", "Write an address such as https://shop.example/thanks.")
        )
    return url


def _check_id(text: str | None, pointer: str, problems: list[Problem]) -> None:
    if text is not None and not _is_id(text):
        problems.append(Problem(pointer, "Use printable ASCII characters without spaces."))


@lru_cache(maxsize=4096)
def _address_of(text: str) -> str | None:
    """Write an IP address in its one usual form; None when it is none, or has a zone."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return None if "%" in text else str(address)


def _buyer_of(buyer: BuyerDetails, problems: list[Problem]) -> Buyer:
    _check_id(buyer.reference, "/buyer/reference", problems)
    ip = buyer.ip
    if buyer.email is not None and not _is_email(buyer.email):
        problems.append(Problem("/buyer/email", "Write an e-mail address such as ada@shop.example, or leave it out."))
    if buyer.country is not None and not _is_country(buyer.country):
        problems.append(Problem("/buyer/country", "Write two capital letters (ISO 3166-1 alpha-2), such as GB."))
    if ip is not None:
        ip = _address_of(ip)
        if ip is None:
            problems.append(Problem("/buyer/ip", "Write an IP address such as 203.0.113.7 or 2001:db8::7."))
    return Buyer(buyer.reference, buyer.email, buyer.name, buyer.country, ip)


def _order_of(order: CreatePaymentOrder, pointer: str, problems: list[Problem]) -> OrderRequest:
    _check_id(order.payment_order_id, pointer + "/payment_order_id", problems)
    _check_id(order.seller_account, pointer + "/seller_account", problems)
    if order.seller_account is not None and ":" in order.seller_account:
        problems.append(Problem(pointer + "/seller_account", "Leave out the colon: it separates names in the ledger."))
    amount_minor = commission_minor = 0
    try:
        if order.amount is not None and order.currency is not None:
            amount_minor = parse_amount(order.amount, order.currency)
        elif order.currency is not None:
            exponent_of(order.currency)
    except CurrencyError as error:
        problems.append(Problem(pointer + "/currency", _sentence(error)))
    except AmountError as error:
        problems.append(Problem(pointer + "/amount", _sentence(error)))
    if order.commission is not None and order.currency in EXPONENTS:
        commission_minor = _commission_of(order, amount_minor, pointer + "/commission", problems)
    return OrderRequest(order.payment_order_id, order.seller_account, amount_minor, order.currency, commission_minor)


def _commission_of(order: CreatePaymentOrder, amount_minor: int, pointer: str, problems: list[Problem]) -> int:
    try:
        commission_minor = parse_share(order.commission or "0", order.currency)
    except AmountError as error:
        problems.append(Problem(pointer, _sentence(error).replace("he amount", "he commission", 1)))
        return 0
    if amount_minor and commission_minor > amount_minor:
        problems.append(Problem(pointer, "The commission must not be more than the amount."))
    return commission_minor


def _check_distinct(order_ids: Iterable[str | None], problems: list[Problem]) -> None:
    first_at: dict[str, int] = {}
    for index, order_id in enumerate(order_ids):
        if order_id is None:
            continue
        first = first_at.setdefault(order_id, index)
        if first != index:
            detail = f"Give each order an id of its own; /payment_orders/{first} has this one."
            problems.append(Problem(f"/payment_orders/{index}/payment_order_id", detail))


def _sentence(error: ValueError) -> str:
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}."


def _summary(problems: list[Problem]) -> str:
    first = f"{problems[0].pointer or 'The body'}: {problems[0].detail}"
    return first if len(problems) == 1 else f"{len(problems)} problems, all of them listed. The first: {first}"


def _place_of(problem: Problem) -> list[tuple[int, str]]:
    """Order pointers as the body does: list places by number, names by letter."""
    return [(int(step), "") if step.isdecimal() else (-1, step) for step in problem.pointer.split("/")]


def _well_formed_of(part: Any, shape: type[msgspec.Struct], pointer: str, wrong: set[str]) -> Any:
    """Take an object's fields apart, with None for those that are missing or not well-formed."""
    given = part if isinstance(part, dict) else {}
    return SimpleNamespace(
        **{name: None if f"{pointer}/{name}" in wrong else given.get(name) for name in shape.__struct_fields__}
    )


def _list_of(part: Any) -> list[Any]:
    return part if isinstance(part, list) else []


def _without_patterns(schema: Any) -> Any:
    """Leave out what the checks of meaning say better than "does not match"."""
    if isinstance(schema, dict):
        return {name: _without_patterns(part) for name, part in schema.items() if name != "pattern"}
    return [_without_patterns(part) for part in schema] if isinstance(schema, list) else schema


def _structure_of(shape: type[msgspec.Struct]) -> Draft202012Validator:
    return Draft202012Validator(_without_patterns(msgspec.json.schema(shape)))


def _structure_problems(structure: Draft202012Validator, document: Any) -> list[Problem]:
    told = (problem for error in structure.iter_errors(document) for problem in _told(error))
    return list(islice(told, _MOST_PROBLEMS))


def _told(error: ValidationError) -> Iterator[Problem]:
    """Put one finding of the schema's validator into words that say what to do; values are never repeated."""
    steps = [str(step) for step in error.absolute_path]
    if "propertyNames" in error.schema_path:
        steps.append(str(error.instance))
    pointer = "".join(["/" + pointer_step(step) for step in steps])
    schema: Any = error.schema
    limit: Any = error.validator_value
    given: Any = error.instance
    match error.validator:
        case "anyOf":  # an optional field: null would do, too, but what was sent was meant for the other branch
            for inner in error.context or ():
                if inner.schema_path[0] == 0:
                    yield from _told(inner)
        case "required":
            missing = [name for name in limit if name not in given]
            yield from [Problem(f"{pointer}/{name}", "Send this field: it is required.") for name in missing]
        case "additionalProperties":
            strange = [name for name in given if name not in schema["properties"]]
            for name in strange:
                yield Problem(f"{pointer}/{pointer_step(name)}", _unknown(name, schema["properties"]))
        case "type":
            yield Problem(pointer, _wrong_type(error))
        case "oneOf" if not isinstance(given, dict) or (given.get("token") is None) is not (
            given.get("hosted") is None
        ):
            return  # what is wrong with the one that is there is told at its own place
        case _:
            yield Problem(pointer, _wrong_value(error))


def _unknown(name: str, known: Iterable[str]) -> str:
    snake = re.sub("([A-Z])", r"_\1", name[:64]).lower()
    nearest = get_close_matches(snake, known, 1)
    return f"There is no such field here; did you mean {nearest[0]}?" if nearest else "There is no such field here."


def _wrong_type(error: ValidationError) -> str:
    is_number = isinstance(error.instance, Number) and not isinstance(error.instance, bool)
    if is_number and error.absolute_path and error.absolute_path[-1] in {"amount", "commission"}:
        return 'Write the amount as text in quotes, such as "12.34": numbers lose decimals on the way.'
    return {
        "string": "Write text in quotes.",
        "object": "Write an object: names and values between { and }.",
        "array": "Write a list between [ and ].",
        "boolean": "Write true or false.",
    }[str(error.validator_value)]


def _wrong_value(error: ValidationError) -> str:
    limit: Any = error.validator_value
    if error.validator == "enum":
        return f"Write {' or '.join(limit)}, or leave it out."
    if error.validator == "oneOf":
        return "Send either token or hosted."
    return {
        "minLength": f"Write at least {limit} character{'s' if limit != 1 else ''}.",
        "maxLength": f"Write at most {limit} characters.",
        "minItems": "Send at least one.",
        "maxItems": f"Send at most {limit}.",
        "maxProperties": f"Send at most {limit} entries.",
    }[str(error.validator)]


_structure = _structure_of(CreatePayment)
_PAYMENT = _Form(CreatePayment, _decode, _checked, find_problems)
_CAPTURE = _Form(
    CapturePayment,
    msgspec.json.Decoder(CapturePayment).decode,
    _check_capture,
    _problem_finder(CapturePayment, _check_capture),
)
_CANCEL = _Form(
    CancelPayment,
    msgspec.json.Decoder(CancelPayment).decode,
    _check_cancel,
    _problem_finder(CancelPayment, _check_cancel),
)
_REFUND = _Form(
    CreateRefund, msgspec.json.Decoder(CreateRefund).decode, _check_refund, _problem_finder(CreateRefund, _check_refund)
)


def _form_of(shape: type[msgspec.Struct], check: Callable[[Any, int, list[Problem]], _Read]) -> _Form[_Read]:
    return _Form(shape, msgspec.json.Decoder(shape).decode, check, _problem_finder(shape, check))


_PAYOUT = _form_of(CreatePayout, _check_payout)
_PAYOUT_DESTINATION = _form_of(PutPayoutDestination, _check_payout_destination)
_PAYOUT_SCHEDULE = _form_of(PutPayoutSchedule, _check_payout_schedule)
_PAYOUT_DECISION = _form_of(DecidePayoutRun, _check_payout_decision)
