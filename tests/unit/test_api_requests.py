"""The bodies of capture, cancel and refund, without a server: what is read, and what is said of a wrong one."""

import json
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
import pytest
from msgspec import Meta

from coatcheck.api.questions import PageParameters, parameters_of
from coatcheck.errors import CoatcheckError, ErrorCode, Problem
from coatcheck.validation import (
    CancelPayment,
    CapturePart,
    CapturePayment,
    CreateRefund,
    amount_in,
    parse_cancel_request,
    parse_capture_request,
    parse_refund_request,
)

PARSERS: dict[str, Callable[..., Any]] = {
    "capture": parse_capture_request,
    "cancel": parse_cancel_request,
    "refund": parse_refund_request,
}


def read(kind: str, document: Any, orders_limit: int = 100) -> Any:
    return PARSERS[kind](json.dumps(document).encode(), body_depth=16, orders_limit=orders_limit)


def problems_of(kind: str, document: Any, orders_limit: int = 100) -> dict[str, str]:
    with pytest.raises(CoatcheckError) as caught:
        read(kind, document, orders_limit)
    assert caught.value.error is ErrorCode.INVALID_REQUEST
    return {problem.pointer: problem.detail for problem in caught.value.problems}


def test_right_bodies_are_read_however_they_are_written() -> None:
    assert read("cancel", {}) == read("cancel", {"idempotency_key": None}) == CancelPayment()
    assert read("capture", {}) == read("capture", {"final": True, "payment_orders": None}) == CapturePayment()
    assert read("capture", {"payment_orders": [{"payment_order_id": "a", "amount": "1"}], "final": False}) == (
        CapturePayment(payment_orders=[CapturePart(payment_order_id="a", amount="1")], final=False)
    )
    assert read("refund", {"payment_order_id": "a", "reason": "\u00e9", "idempotency_key": "k"}) == CreateRefund(
        payment_order_id="a", reason="\u00e9", idempotency_key="k"
    )


@pytest.mark.parametrize(
    ("kind", "document", "found"),
    [
        ("cancel", {"idempotency_key": "a b"}, {"/idempotency_key": "printable ASCII"}),
        ("cancel", {"reason": "x"}, {"/reason": "no such field"}),
        ("capture", {"payment_orders": []}, {"/payment_orders": "at least one"}),
        ("capture", {"payment_orders": {}}, {"/payment_orders": "Write a list"}),
        ("capture", {"payment_orders": ["a"]}, {"/payment_orders/0": "Write an object"}),
        ("capture", {"payment_orders": [{}]}, {"/payment_orders/0/payment_order_id": "is required"}),
        (
            "capture",
            {"payment_orders": [{"payment_order_id": "a", "amount": 5}], "finale": True},
            {"/finale": "did you mean final?", "/payment_orders/0/amount": "numbers lose decimals"},
        ),
        ("capture", {"final": "false"}, {"/final": "true or false"}),
        ("capture", {"final": None}, {"/final": "true or false"}),
        ("refund", {}, {"/payment_order_id": "is required"}),
        (
            "refund",
            {"payment_order_id": "a b", "amount": 1, "reason": "", "idempotency_key": ""},
            {
                "/amount": "numbers lose decimals",
                "/idempotency_key": "at least 1 character",
                "/payment_order_id": "printable ASCII",
                "/reason": "at least 1 character",
            },
        ),
        ("refund", {"payment_order_id": "a", "reason": "x" * 501}, {"/reason": "at most 500"}),
    ],
)
def test_each_fault_is_named_with_its_place_and_what_to_do(kind: str, document: Any, found: dict[str, str]) -> None:
    problems = problems_of(kind, document)
    assert list(problems) == list(found)
    for pointer, says in found.items():
        assert says in problems[pointer]


def test_a_capture_names_each_order_once_and_not_too_many() -> None:
    parts = [{"payment_order_id": name} for name in ("a", "b", "a")]
    assert list(problems_of("capture", {"payment_orders": parts}, 2)) == [
        "/payment_orders",
        "/payment_orders/2/payment_order_id",
    ]


@pytest.mark.parametrize("kind", PARSERS)
def test_card_numbers_and_names_given_twice_are_refused(kind: str) -> None:
    for raw, code in (
        (b'{"idempotency_key": "4242424242424242"}', ErrorCode.CARD_NUMBER_REFUSED),
        (b'{"idempotency_key": "a", "idempotency_key": "b"}', ErrorCode.MALFORMED_BODY),
        (b"[]", ErrorCode.MALFORMED_BODY),
    ):
        with pytest.raises(CoatcheckError) as caught:
            PARSERS[kind](raw, body_depth=16, orders_limit=100)
        assert caught.value.error is code


def test_an_amount_is_read_in_its_currency_or_told() -> None:
    problems: list[Problem] = []
    assert (amount_in("1.5", "EUR", "/amount", problems), amount_in("1.5", "KWD", "/amount", problems)) == (150, 1500)
    assert problems == []
    assert amount_in("1.5", "JPY", "/a", problems) == amount_in("1", "HRK", "/b", problems) == 0
    assert [problem.pointer for problem in problems] == ["/a", "/b"]


class Needed(PageParameters, frozen=True, kw_only=True):
    name: Annotated[str, Meta(min_length=1, max_length=5, description="Needed.")]


def test_a_parameter_that_is_needed_is_asked_for() -> None:
    request: Any = msgspec.defstruct("Request", ["scope"])({"query_string": b"limit=5&name=abc"})
    assert parameters_of(request, Needed) == Needed(limit=5, name="abc")
    for query, pointers in ((b"limit=5", ["/name"]), (b"", ["/name"]), (b"limit=x&name=", ["/limit", "/name"])):
        request.scope = {"query_string": query}
        with pytest.raises(CoatcheckError) as caught:
            parameters_of(request, Needed)
        assert [problem.pointer for problem in caught.value.problems] == pointers
