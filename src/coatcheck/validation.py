"""What a checkout may say: the shape and meaning of `POST /v1/payments`, and the request as the gateway works with it.

The Structs below are the one definition of the shape: they decode the usual body, and their JSON Schema is what the
API publishes. A body that is not right is looked at again, slowly, so that all its problems are told at once.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from functools import lru_cache
from ipaddress import ip_address
from itertools import islice
from numbers import Number
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import msgspec
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from msgspec import Meta

from coatcheck.errors import CoatcheckError, ErrorCode, Problem
from coatcheck.money import EXPONENTS, AmountError, CurrencyError, exponent_of, parse_amount, parse_share
from coatcheck.pan import contains_card_number_in
from coatcheck.strict_json import decode_strict, names_are_unique, pointer_step

MAX_ORDERS = 100
_MOST_PROBLEMS = 200  # of a hostile body with thousands, the first are enough

_ID_PATTERN = "^[!-~]+$"
_NO_COLON = "^[!-9;-~]+$"
_AMOUNT_PATTERN = r"^(0|[1-9][0-9]{0,11})(\.[0-9]{1,4})?$"


def _id_of(description: str, example: str, pattern: str = _ID_PATTERN) -> Meta:
    return Meta(
        min_length=1,
        max_length=128,
        description=f"{description} 1 to 128 printable ASCII characters without spaces.",
        examples=[example],
        extra_json_schema={"pattern": pattern},
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


class PaymentMethodToken(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How the buyer pays: a token that the provider gave for the card. Card numbers are refused."""

    token: Annotated[str, _id_of("The provider's token.", "tok_approve")]


class CreatePaymentOrder(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One seller's part of a payment, charged on its own."""

    payment_order_id: Annotated[str, _id_of("The shop's own id of this part, unique for ever.", "order-7001-a")]
    seller_account: Annotated[str, _id_of("The shop's own id of the seller; no colon in it.", "seller-42", _NO_COLON)]
    amount: Annotated[
        str,
        Meta(
            max_length=32,
            description="What the buyer pays, as text: more than zero, with at most the currency's decimals.",
            examples=["129.95"],
            extra_json_schema={"pattern": _AMOUNT_PATTERN},
        ),
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
        Annotated[
            str,
            Meta(
                max_length=32,
                description="What the platform keeps of the amount, as text; nothing when left out.",
                examples=["12.99"],
                extra_json_schema={"pattern": _AMOUNT_PATTERN},
            ),
        ]
        | None
    ) = None


class CreatePayment(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One checkout. Sending it again, under any key, names the same payment and never charges twice."""

    buyer: BuyerDetails
    checkout_id: Annotated[str, _id_of("The shop's own id of the checkout, unique for ever.", "checkout-7001")]
    payment_method: PaymentMethodToken
    payment_orders: Annotated[
        list[CreatePaymentOrder], Meta(min_length=1, max_length=MAX_ORDERS, description="One part per seller.")
    ]
    capture: Annotated[Literal["automatic"] | None, Meta(description="When the money is taken: at once.")] = None
    on_failure: Annotated[
        Literal["keep"] | None, Meta(description="What becomes of the other orders when one fails: they are kept.")
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
    idempotency_key: (
        Annotated[
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
        | None
    ) = None


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
    """A checkout, checked: amounts in minor units, order ids distinct."""

    checkout_id: str
    buyer: Buyer
    token: str
    orders: tuple[OrderRequest, ...]
    metadata: dict[str, str] | None = None
    idempotency_key: str | None = None

    def digest(self) -> bytes:
        """Name the content: SHA-256, the same for the same checkout however it was written or keyed.

        The IP address is left out: a buyer whose phone changed networks between two clicks is still the same buyer.
        """
        buyer = (self.buyer.reference, self.buyer.email, self.buyer.name, self.buyer.country)
        content = (1, self.checkout_id, buyer, self.token, self.orders, self.metadata)
        return hashlib.sha256(_encode_in_order(content)).digest()


_decode = msgspec.json.Decoder(CreatePayment).decode
_encode_in_order = msgspec.json.Encoder(order="deterministic").encode
_is_id = re.compile("[!-~]+").fullmatch
_is_country = re.compile("[A-Z]{2}").fullmatch
_is_email = re.compile(r"[^@\s]+@[^@\s]+").fullmatch
_is_key = re.compile("[!-~]{1,255}").fullmatch
_QUOTED = re.compile(r'"((?:[^"\\]|\\["\\])*)"').fullmatch


def parse_payment_request(raw: bytes, *, body_depth: int, orders_limit: int) -> PaymentRequest:
    """Read the body of `POST /v1/payments`.

    Raises CoatcheckError: CARD_NUMBER_REFUSED, never repeating it; MALFORMED_BODY; INVALID_REQUEST with every problem.
    """
    if contains_card_number_in(raw):
        raise CoatcheckError(
            ErrorCode.CARD_NUMBER_REFUSED,
            "Send the provider's token in payment_method.token, never a card number. Nothing of the request was kept. "
            "If it was an id of yours that looks like one, put a letter between its digits.",
        )
    body = _read_fast(raw)
    document = None
    if body is None:
        document = decode_strict(raw, depth=body_depth)
        body = _read_document(document)
    problems: list[Problem] = []
    if body is not None:
        request = _checked(body, orders_limit, problems)
        if not problems:
            return request
    problems = find_problems(decode_strict(raw, depth=body_depth) if document is None else document, orders_limit)
    problems = problems or [Problem("", "The body does not have the published shape.")]
    raise CoatcheckError(ErrorCode.INVALID_REQUEST, _summary(problems), problems)


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
    structural = list(islice(_structure_problems(document), _MOST_PROBLEMS))
    wrong = {problem.pointer for problem in structural}
    body = _well_formed_of(document, CreatePayment, "", wrong)
    body.buyer = _well_formed_of(body.buyer, BuyerDetails, "/buyer", wrong)
    body.payment_method = _well_formed_of(body.payment_method, PaymentMethodToken, "/payment_method", wrong)
    body.payment_orders = [
        _well_formed_of(order, CreatePaymentOrder, f"/payment_orders/{index}", wrong)
        for index, order in enumerate(_list_of(document.get("payment_orders")))
    ]
    meanings: list[Problem] = []
    _checked(body, orders_limit, meanings)
    first_at = {problem.pointer: problem for problem in reversed((*structural, *meanings[:_MOST_PROBLEMS]))}
    return sorted(first_at.values(), key=_place_of)


def _read_fast(raw: bytes) -> CreatePayment | None:
    """Read the usual body in one pass; None when it needs a closer look.

    The shape allows no numbers, no unknown names and no deep nesting, so unique names are all that is left to prove.
    """
    try:
        body = _decode(raw)
    except (ValueError, RecursionError):
        return None
    return body if names_are_unique(raw, body) else None


def _read_document(document: dict[str, Any]) -> CreatePayment | None:
    try:
        return msgspec.convert(document, CreatePayment)
    except msgspec.ValidationError:
        return None


def _checked(body: CreatePayment, orders_limit: int, problems: list[Problem]) -> PaymentRequest:
    """Check what the parts mean and put them into the gateway's words.

    `body` may hold None where a part is not well-formed; that part is passed over, and the result is of no use then.
    """
    _check_id(body.checkout_id, "/checkout_id", problems)
    _check_id(body.payment_method.token, "/payment_method/token", problems)
    _check_id(body.idempotency_key, "/idempotency_key", problems)
    buyer = _buyer_of(body.buyer, problems)
    orders = body.payment_orders
    if len(orders) > orders_limit:
        problems.append(Problem("/payment_orders", f"Send at most {orders_limit} orders in one payment."))
    checked = tuple([_order_of(order, f"/payment_orders/{index}", problems) for index, order in enumerate(orders)])
    if len(orders) > 1:
        _check_distinct([order.payment_order_id for order in orders], problems)
    metadata = body.metadata or None
    return PaymentRequest(body.checkout_id, buyer, body.payment_method.token, checked, metadata, body.idempotency_key)


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


_structure = Draft202012Validator(_without_patterns(msgspec.json.schema(CreatePayment)))


def _structure_problems(document: Any) -> Iterator[Problem]:
    for error in _structure.iter_errors(document):
        yield from _told(error)


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
    }[str(error.validator_value)]


def _wrong_value(error: ValidationError) -> str:
    limit: Any = error.validator_value
    if error.validator == "enum":
        return f"Write {limit[0]}, the only choice, or leave it out."
    return {
        "minLength": f"Write at least {limit} character{'s' if limit != 1 else ''}.",
        "maxLength": f"Write at most {limit} characters.",
        "minItems": "Send at least one.",
        "maxItems": f"Send at most {limit}.",
        "maxProperties": f"Send at most {limit} entries.",
    }[str(error.validator)]
