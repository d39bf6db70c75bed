"""Query parameters and names in addresses, without a server."""

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest

from coatcheck.api.edge import wait_of
from coatcheck.api.payment_list import PaymentListParameters
from coatcheck.api.questions import PageParameters, Parameters, name_in_path, parameters_of
from coatcheck.errors import CoatcheckError, ErrorCode
from coatcheck.states import PaymentStatus


def asking(query: str = "", path: str = "/v1/payments") -> Any:
    return cast("Any", SimpleNamespace(scope={"query_string": query.encode("latin-1"), "raw_path": path.encode()}))


def refusal(query: str, shape: type[Parameters] = PaymentListParameters) -> CoatcheckError:
    with pytest.raises(CoatcheckError) as caught:
        parameters_of(asking(query), shape)
    assert caught.value.error is ErrorCode.INVALID_REQUEST
    return caught.value


def test_nothing_asked_is_the_first_page() -> None:
    assert parameters_of(asking(), PaymentListParameters) == PaymentListParameters(limit=20)


def test_every_parameter_is_read_into_its_type() -> None:
    query = "limit=100&cursor=x&created_after=2026-05-01T02:00:00.5%2B02:00&status=PARTIAL&checkout_id=a%2Fb%26c"
    assert parameters_of(asking(query), PaymentListParameters) == PaymentListParameters(
        limit=100,
        cursor="x",
        created_after=datetime(2026, 5, 1, 0, 0, 0, 500_000, tzinfo=UTC),
        status=PaymentStatus.PARTIAL,
        checkout_id="a/b&c",
    )


@pytest.mark.parametrize(
    ("query", "pointer", "hint"),
    [
        ("limit=0", "/limit", "from 1 to 100"),
        ("limit=101", "/limit", "from 1 to 100"),
        ("limit=%2B5", "/limit", "from 1 to 100"),
        ("created_before=today", "/created_before", "RFC 3339"),
        ("created_before=0001-01-01T00:00:00%2B14:00", "/created_before", "RFC 3339"),
        ("status=success", "/status", "one of AUTHORIZED, CANCELLED"),
        ("checkout_id=" + "x" * 129, "/checkout_id", "1 to 128 printable"),
        ("payer=1", "/payer", "there are limit, cursor"),
        ("a%2Fb=1", "/a~1b", "no such parameter"),
        ("limit=1&limit=1", "/limit", "once"),
    ],
)
def test_a_wrong_parameter_is_named_with_what_to_write(query: str, pointer: str, hint: str) -> None:
    (problem,) = refusal(query).problems
    assert problem.pointer == pointer
    assert hint in problem.detail
    assert hint in refusal(query).detail


def test_all_wrong_parameters_are_named_at_once() -> None:
    refused = refusal("limit=x&curser=1", PageParameters)
    assert [problem.pointer for problem in refused.problems] == ["/limit", "/curser"]
    assert refused.detail.startswith("2 problems")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/payment_orders/order-1", "order-1"),
        ("/v1/payment_orders/a%2Fb%3F", "a/b?"),
        ("//v1//payment_orders/a%252Fb/", "a%2Fb"),
        ("/v1/payment_orders/" + "x" * 128, "x" * 128),
        ("/v1/payment_orders/" + "x" * 129, None),
        ("/v1/payment_orders/a%20b", None),
        ("/v1/payment_orders/%00", None),
        ("/v1/payment_orders/%FF", None),
        ("/v1/payment_orders/a%0A", None),
    ],
)
def test_a_name_is_read_from_the_path_as_sent(path: str, name: str | None) -> None:
    assert name_in_path(asking(path=path), 2) == name


@pytest.mark.parametrize(
    ("prefer", "wait_s"),
    [
        *((None, None), (b"", None), (b"wait=x", None), (b"await=5", None)),
        *((b"wait=0", 0), (b"respond-async, wait=7", 7), (b'wait="5"', 5), (b"WAIT = 3", 3), (b"wait=9999", 120)),
    ],
)
def test_a_preference_is_read_and_bounded(prefer: bytes | None, wait_s: int | None) -> None:
    assert wait_of(prefer) == wait_s
