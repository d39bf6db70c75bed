import copy
import json
from typing import Any

import msgspec
import pytest

from coatcheck.errors import CoatcheckError, ErrorCode
from coatcheck.validation import (
    Buyer,
    CreatePayment,
    OrderRequest,
    PaymentRequest,
    parse_idempotency_key,
    parse_payment_request,
)

ORDER = {
    "payment_order_id": "po-1",
    "seller_account": "seller-42",
    "amount": "129.95",
    "currency": "EUR",
    "commission": "12.9",
}
CHECKOUT: dict[str, Any] = {
    "buyer": {"reference": "buyer-7", "email": "ada@shop.example", "name": "Ada", "country": "GB", "ip": "2001:DB8::7"},
    "checkout_id": "checkout-7001",
    "payment_method": {"token": "tok_visa"},
    "payment_orders": [ORDER],
    "capture": "automatic",
    "on_failure": "keep",
    "metadata": {"cart": "summer"},
    "idempotency_key": "key-1",
}
LEAST: dict[str, Any] = {
    "buyer": {"reference": "b"},
    "checkout_id": "c",
    "payment_method": {"token": "t"},
    "payment_orders": [{"payment_order_id": "p", "seller_account": "s", "amount": "5", "currency": "JPY"}],
}


def parse(document: Any, orders_limit: int = 100) -> PaymentRequest:
    return parse_payment_request(json.dumps(document).encode(), body_depth=16, orders_limit=orders_limit)


def problems_of(document: Any, orders_limit: int = 100) -> dict[str, str]:
    with pytest.raises(CoatcheckError) as caught:
        parse(document, orders_limit)
    assert caught.value.error is ErrorCode.INVALID_REQUEST
    assert len({problem.pointer for problem in caught.value.problems}) == len(caught.value.problems)
    return {problem.pointer: problem.detail for problem in caught.value.problems}


def changed(pointer: str, value: Any) -> dict[str, Any]:
    """Make the full checkout with one place set to another value."""
    document = copy.deepcopy(CHECKOUT)
    *steps, last = pointer.split("/")[1:]
    part: Any = document
    for step in steps:
        part = part[int(step) if step.isdecimal() else step]
    part[int(last) if last.isdecimal() else last] = value
    return document


def test_a_checkout_becomes_a_request_in_minor_units() -> None:
    assert parse(CHECKOUT) == PaymentRequest(
        checkout_id="checkout-7001",
        buyer=Buyer("buyer-7", "ada@shop.example", "Ada", "GB", "2001:db8::7"),
        token="tok_visa",
        orders=(OrderRequest("po-1", "seller-42", 12995, "EUR", 1290),),
        metadata={"cart": "summer"},
        idempotency_key="key-1",
    )
    assert parse(LEAST) == PaymentRequest("c", Buyer("b"), "t", (OrderRequest("p", "s", 5, "JPY", 0),))


def test_null_means_left_out() -> None:
    nulls = dict.fromkeys(("capture", "on_failure", "metadata", "idempotency_key"))
    buyer = {"reference": "b", "email": None, "name": None, "country": None, "ip": None}
    orders = [{**LEAST["payment_orders"][0], "commission": None}]
    assert parse({**LEAST, **nulls, "buyer": buyer, "payment_orders": orders}) == parse(LEAST)
    assert parse({**LEAST, "metadata": {}}) == parse(LEAST)


@pytest.mark.parametrize(
    ("pointer", "value", "says"),
    [
        ("/checkout_id", "", "at least 1 character"),
        ("/checkout_id", "x" * 129, "at most 128 characters"),
        ("/checkout_id", "a b", "printable ASCII characters without spaces"),
        ("/checkout_id", "a\n", "printable ASCII characters without spaces"),
        ("/checkout_id", "é", "printable ASCII characters without spaces"),
        ("/checkout_id", 5, "text in quotes"),
        ("/checkout_id", None, "text in quotes"),
        ("/buyer", None, "Write an object"),
        ("/buyer", "buyer-7", "Write an object"),
        ("/buyer/reference", "a\tb", "printable ASCII"),
        ("/buyer/email", "nobody", "Write an e-mail address"),
        ("/buyer/email", "a" * 250 + "@b.co", "at most 254"),
        ("/buyer/country", "gb", "two capital letters"),
        ("/buyer/country", "GBR", "two capital letters"),
        ("/buyer/ip", "203.0.113.256", "Write an IP address"),
        ("/buyer/ip", "fe80::1%eth0", "Write an IP address"),
        ("/buyer/name", "x" * 201, "at most 200"),
        ("/payment_method/token", "to k", "printable ASCII"),
        ("/payment_orders", [], "Send at least one"),
        ("/payment_orders", {}, "Write a list"),
        ("/payment_orders/0", [], "Write an object"),
        ("/payment_orders/0/payment_order_id", "", "at least 1"),
        ("/payment_orders/0/seller_account", "seller:1", "Leave out the colon"),
        ("/payment_orders/0/amount", 129.95, 'such as "12.34": numbers lose decimals'),
        ("/payment_orders/0/amount", "0", "more than zero, at least 0.01"),
        ("/payment_orders/0/amount", "-1", "must not be negative"),
        ("/payment_orders/0/amount", "1.005", "EUR has at most 2 decimals"),
        ("/payment_orders/0/amount", "9" * 33, "at most 32"),
        ("/payment_orders/0/amount", "9" * 12, "at most 9999999999.99"),
        ("/payment_orders/0/currency", "eur", "write EUR"),
        ("/payment_orders/0/currency", "HRK", "write EUR"),
        ("/payment_orders/0/currency", "", "not an ISO 4217"),
        ("/payment_orders/0/commission", "129.96", "not be more than the amount"),
        ("/payment_orders/0/commission", "-1", "The commission must not be negative"),
        ("/payment_orders/0/commission", 1, 'such as "12.34"'),
        ("/payment_orders/0/commissoin", "1", "did you mean commission?"),
        ("/payment_orders/0/paymentOrderId", "1", "did you mean payment_order_id?"),
        ("/nothing_like_it", 1, "no such field"),
        ("/capture", "by hand", "Write automatic or manual"),
        ("/on_failure", "cancel", "Write all_or_nothing or keep"),
        ("/metadata", [], "Write an object"),
        ("/metadata", {str(n): "" for n in range(51)}, "at most 50 entries"),
        ("/metadata/cart", 5, "text in quotes"),
        ("/metadata/cart", "x" * 501, "at most 500"),
        ("/idempotency_key", "a b", "printable ASCII"),
        ("/idempotency_key", "x" * 256, "at most 255"),
    ],
)
def test_each_fault_is_named_with_its_place_and_what_to_do(pointer: str, value: Any, says: str) -> None:
    problems = problems_of(changed(pointer, value))
    assert list(problems) == [pointer]
    assert says in problems[pointer]


@pytest.mark.parametrize("field", ["buyer", "checkout_id", "payment_method", "payment_orders"])
def test_a_missing_field_is_named(field: str) -> None:
    document = {name: value for name, value in CHECKOUT.items() if name != field}
    assert problems_of(document) == {f"/{field}": "Send this field: it is required."}


def test_metadata_names_are_bounded() -> None:
    assert list(problems_of({**LEAST, "metadata": {"": "x", "k" * 41: "y"}})) == ["/metadata/", "/metadata/" + "k" * 41]


def test_all_problems_come_at_once() -> None:
    order = {"payment_order_id": "p", "seller_account": "s", "amount": "1", "currency": "EUR"}
    document = {
        "buyer": {"referenc": "x", "ip": "1.2.3", "country": "gb"},
        "checkout_id": "a b",
        "payment_method": {"token": 5},
        "payment_orders": [
            {**order, "amount": 12.5, "seller_account": "s:1"},
            {**order, "amount": "1.234", "commission": "9"},
            7,
            {**order, "payment_order_id": "q", "currency": "HRK", "amount": "x"},
            {**order, "payment_order_id": "r", "commission": "1.01", "extra": 1},
        ],
        "capture": "sometimes",
        "metadata": {"a": 1, "b": 2},
    }
    assert list(problems_of(document, orders_limit=4)) == [
        "/buyer/country",
        "/buyer/ip",
        "/buyer/referenc",
        "/buyer/reference",
        "/capture",
        "/checkout_id",
        "/metadata/a",
        "/metadata/b",
        "/payment_method/token",
        "/payment_orders",
        "/payment_orders/0/amount",
        "/payment_orders/0/seller_account",
        "/payment_orders/1/amount",
        "/payment_orders/1/payment_order_id",
        "/payment_orders/2",
        "/payment_orders/3/currency",
        "/payment_orders/4/commission",
        "/payment_orders/4/extra",
    ]


def test_an_empty_object_is_told_what_it_lacks() -> None:
    assert list(problems_of({})) == ["/buyer", "/checkout_id", "/payment_method", "/payment_orders"]


def test_order_ids_are_distinct_and_the_second_is_pointed_at() -> None:
    orders = [{**ORDER, "payment_order_id": name} for name in ("a", "b", "a", "a")]
    problems = problems_of({**CHECKOUT, "payment_orders": orders})
    assert list(problems) == ["/payment_orders/2/payment_order_id", "/payment_orders/3/payment_order_id"]
    assert "/payment_orders/0 has this one" in problems["/payment_orders/2/payment_order_id"]


def test_as_many_orders_as_the_limit_are_taken() -> None:
    orders = [{**ORDER, "payment_order_id": f"po-{n}"} for n in range(101)]
    assert len(parse({**CHECKOUT, "payment_orders": orders[:100]}).orders) == 100
    assert problems_of({**CHECKOUT, "payment_orders": orders[:5]}, orders_limit=4) == {
        "/payment_orders": "Send at most 4 orders in one payment."
    }
    assert list(problems_of({**CHECKOUT, "payment_orders": orders})) == ["/payment_orders"]


def test_a_payment_may_mix_currencies() -> None:
    orders = [{**ORDER, "payment_order_id": code, "currency": code, "commission": "0"} for code in ("EUR", "KWD")]
    assert [order.amount_minor for order in parse({**CHECKOUT, "payment_orders": orders}).orders] == [12995, 129950]


@pytest.mark.parametrize("pointer", ["/checkout_id", "/buyer/name", "/metadata/cart", "/payment_orders/0/amount", "/x"])
def test_a_card_number_in_any_field_is_refused_and_never_repeated(pointer: str) -> None:
    with pytest.raises(CoatcheckError) as caught:
        parse(changed(pointer, "4242 4242 4242 4242"))
    assert caught.value.error is ErrorCode.CARD_NUMBER_REFUSED
    assert "4242" not in f"{caught.value} {caught.value.problems!r}"


def test_a_card_number_is_refused_before_malformed_json_is_described() -> None:
    with pytest.raises(CoatcheckError) as caught:
        parse_payment_request(b'{"4242424242424242":1,"4242424242424242":1}', body_depth=16, orders_limit=100)
    assert caught.value.error is ErrorCode.CARD_NUMBER_REFUSED


@pytest.mark.parametrize(
    "body",
    [
        json.dumps(CHECKOUT)[:-1] + ', "checkout_id": "other"}',
        json.dumps(CHECKOUT).replace('"po-1"', '"\\ud800"'),
        json.dumps(CHECKOUT).replace('"po-1"', '"\\u0000"'),
        json.dumps(CHECKOUT).replace('"129.95"', "NaN"),
        json.dumps(CHECKOUT) + "x",
        json.dumps({**CHECKOUT, "metadata": [[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]}),
        "",
        "[]",
    ],
)
def test_C16_what_is_not_strict_json_is_malformed(body: str) -> None:
    with pytest.raises(CoatcheckError) as caught:
        parse_payment_request(body.encode(), body_depth=16, orders_limit=100)
    assert caught.value.error is ErrorCode.MALFORMED_BODY


def test_C16_a_name_given_twice_inside_an_order_is_malformed() -> None:
    body = json.dumps(CHECKOUT).replace('"amount": "129.95"', '"amount": "129.95", "amount": "1.00"')
    with pytest.raises(CoatcheckError, match="/payment_orders/0/amount"):
        parse_payment_request(body.encode(), body_depth=16, orders_limit=100)


def test_a_hostile_body_gets_a_bounded_answer() -> None:
    document = {**CHECKOUT, "payment_orders": [5] * 20_000, **{f"field{n}": n for n in range(5000)}}
    assert len(problems_of(document)) <= 400


def test_the_digest_names_the_content_and_not_its_spelling() -> None:
    digest = parse(CHECKOUT).digest()
    assert len(digest) == 32
    for same in (
        changed("/idempotency_key", "another"),
        changed("/payment_orders/0/commission", "12.90"),
        changed("/buyer/ip", "2001:0db8:0::7"),
        dict(reversed(CHECKOUT.items())),
        {name: value for name, value in CHECKOUT.items() if name not in {"capture", "on_failure"}},
    ):
        assert parse(same).digest() == digest
    many = {"a": "1", "b": "2"}
    assert (
        parse({**LEAST, "metadata": many}).digest()
        == parse({**LEAST, "metadata": dict(reversed(many.items()))}).digest()
    )


@pytest.mark.parametrize(
    ("pointer", "value"),
    [
        ("/checkout_id", "other"),
        ("/buyer/reference", "other"),
        ("/buyer/email", "other@shop.example"),
        ("/buyer/name", "Other"),
        ("/buyer/country", "FR"),
        ("/payment_method/token", "other"),
        ("/payment_orders/0/payment_order_id", "other"),
        ("/payment_orders/0/seller_account", "other"),
        ("/payment_orders/0/amount", "129.96"),
        ("/payment_orders/0/currency", "USD"),
        ("/payment_orders/0/commission", "12.91"),
        ("/metadata/cart", "other"),
        ("/metadata/more", "other"),
    ],
)
def test_B2_the_digest_changes_with_every_part_of_the_content(pointer: str, value: str) -> None:
    assert parse(changed(pointer, value)).digest() != parse(CHECKOUT).digest()


def test_the_same_buyer_on_another_network_sends_the_same_checkout() -> None:
    assert parse(changed("/buyer/ip", "192.0.2.1")).digest() == parse(CHECKOUT).digest()


def test_the_digest_is_the_same_in_every_release() -> None:
    assert parse(LEAST).digest().hex() == "be9495078637e854f1e4ebc38fd7eda6b81a1517e82f08b5a522d523a506712d"


def test_every_field_of_the_published_shape_is_described() -> None:
    definitions = msgspec.json.schema(CreatePayment)["$defs"]
    for name, definition in definitions.items():
        assert definition["description"], name
        for field, schema in definition.get("properties", {}).items():
            branch = schema["anyOf"][0] if "anyOf" in schema and "description" not in schema else schema
            assert "$ref" in branch or branch.get("description"), f"{name}.{field}"


@pytest.mark.parametrize(
    ("header", "in_body", "key"),
    [
        (b"abc", None, "abc"),
        (b'"abc"', None, "abc"),
        (b' "a\\"b\\\\c" ', None, 'a"b\\c'),
        (None, "abc", "abc"),
        (b'"abc"', "abc", "abc"),
        (b"x" * 255, None, "x" * 255),
    ],
)
def test_the_key_comes_from_the_header_or_the_body(header: bytes | None, in_body: str | None, key: str) -> None:
    assert parse_idempotency_key(header, in_body) == key


@pytest.mark.parametrize(
    ("header", "in_body", "error"),
    [
        (None, None, ErrorCode.IDEMPOTENCY_KEY_MISSING),
        (b"", None, ErrorCode.IDEMPOTENCY_KEY_INVALID),
        (b'""', None, ErrorCode.IDEMPOTENCY_KEY_INVALID),
        (b'"abc', None, ErrorCode.IDEMPOTENCY_KEY_INVALID),
        (b'"a" ; b', None, ErrorCode.IDEMPOTENCY_KEY_INVALID),
        (b"a b", None, ErrorCode.IDEMPOTENCY_KEY_INVALID),
        (b"\xe9", None, ErrorCode.IDEMPOTENCY_KEY_INVALID),
        (b"x" * 256, None, ErrorCode.IDEMPOTENCY_KEY_INVALID),
        (b"abc", "abd", ErrorCode.IDEMPOTENCY_KEY_MISMATCH),
    ],
)
def test_B3_a_key_that_is_missing_wrong_or_two_keys_is_refused(
    header: bytes | None, in_body: str | None, error: ErrorCode
) -> None:
    with pytest.raises(CoatcheckError) as caught:
        parse_idempotency_key(header, in_body)
    assert caught.value.error is error


@pytest.mark.parametrize(
    ("method", "says"),
    [
        ({}, "either token or hosted"),
        ({"token": "tok_1", "hosted": {"return_url": "https://shop.example/"}}, "either token or hosted"),
        ({"hosted": {"return_url": "javascript:alert(1)"}}, "https://shop.example/thanks"),
        ({"hosted": {"return_url": "https://user@shop.example/"}}, "https://shop.example/thanks"),
        ({"hosted": {}}, "required"),
    ],
)
def test_a_buyer_pays_by_token_or_on_the_provider_s_page(method: dict[str, object], says: str) -> None:
    problems = problems_of({**CHECKOUT, "payment_method": method})
    assert len(problems) == 1
    assert says in next(iter(problems.values()))


def test_an_all_or_nothing_checkout_captures_by_itself() -> None:
    problems = problems_of({**CHECKOUT, "capture": "manual", "on_failure": "all_or_nothing"})
    assert list(problems) == ["/capture"]
