"""What the buyer's page says of each state a payment can be in."""

import re
from datetime import UTC, datetime
from uuid import UUID

import msgspec
import pytest

from coatcheck.api.status_page import _HEADERS, _STYLE_DIGEST, _page_of, status_url_of
from coatcheck.pan import contains_card_number_in
from coatcheck.payments import OrderView, PaymentView
from coatcheck.states import Capture, Mode, OnFailure, OrderStatus, PaymentStatus

ORDER = OrderView("order-1", "seller-1", 1234, 100, "EUR", "simulator", OrderStatus.SUCCESS, captured_minor=1234)
SHOP, PAYMENT = UUID(int=7), UUID(int=8)


def view_of(*orders: OrderView, on_failure: OnFailure = OnFailure.KEEP) -> PaymentView:
    return PaymentView(
        PAYMENT,
        SHOP,
        Mode.TEST,
        "checkout-1",
        "buyer-1",
        {"note": "secret"},
        datetime(2026, 5, 1, tzinfo=UTC),
        orders,
        Capture.MANUAL,
        on_failure,
    )


def order(status: OrderStatus, **more: object) -> OrderView:
    changed: dict[str, object] = {"captured_minor": 1234 if status is OrderStatus.SUCCESS else 0, **more}
    return msgspec.structs.replace(ORDER, status=status, **changed)


@pytest.mark.parametrize("status", [*OrderStatus])
def test_every_state_is_told_in_plain_words_and_a_finished_one_stays(status: OrderStatus) -> None:
    page = _page_of(view_of(order(status)))
    assert re.search(r"<h1>(Your payment .+)</h1>", page)
    assert "12.34 EUR" in page
    assert ('http-equiv="refresh"' in page) is not status.is_final
    assert status.value not in page


def test_A7_an_undecided_payment_is_never_called_failed() -> None:
    for status in (OrderStatus.EXECUTING, OrderStatus.PENDING):
        page = _page_of(view_of(order(status), order(OrderStatus.FAILED)))
        assert "need not pay again" in page
        assert "did not go through" not in page


def test_only_a_web_address_of_the_provider_s_is_a_link() -> None:
    waiting = order(OrderStatus.PENDING, redirect_url='https://psp.example/page?a=1&b="><b>')
    page = _page_of(view_of(waiting))
    assert 'href="https://psp.example/page?a=1&amp;b=&quot;&gt;&lt;b&gt;"' in page
    assert "Your payment waits for you" in page
    for url in ("javascript:alert(1)", "data:text/html,x"):
        page = _page_of(view_of(order(OrderStatus.PENDING, redirect_url=url)))
        assert "<a " not in page
    assert "<a " not in _page_of(view_of(order(OrderStatus.SUCCESS, redirect_url="https://psp.example/")))


def test_parts_captures_and_refunds_are_shown_with_their_amounts() -> None:
    page = _page_of(
        view_of(
            order(OrderStatus.SUCCESS, captured_minor=1000, refunded_minor=250),
            order(OrderStatus.FAILED, currency="JPY", amount_minor=500),
        )
    )
    assert "A part of your payment succeeded" in page
    for told in (
        "Part 1, paid",
        "12.34 EUR",
        "of which taken",
        "10.00 EUR",
        "refunded",
        "2.50 EUR",
        "Part 2, not paid",
        "500 JPY",
    ):
        assert told in page


def test_a_reserved_payment_is_asked_about_less_often_unless_something_is_done_with_it() -> None:
    reserved = order(OrderStatus.AUTHORIZED)
    assert 'content="60"' in _page_of(view_of(reserved))
    assert 'content="5"' in _page_of(view_of(msgspec.structs.replace(reserved, is_acting=True)))
    assert 'content="5"' in _page_of(view_of(reserved, on_failure=OnFailure.ALL_OR_NOTHING))


def test_the_page_names_nobody_and_runs_nothing() -> None:
    page = _page_of(view_of(*[order(status) for status in OrderStatus]))
    for kept_back in ("seller-1", "order-1", "buyer-1", "checkout-1", "secret", "<script", "token="):
        assert kept_back not in page
    assert _STYLE_DIGEST in _HEADERS["Content-Security-Policy"]
    assert set(PaymentStatus) == {view_of(order(OrderStatus(status))).status for status in OrderStatus} | {
        PaymentStatus.PARTIAL
    }


def test_a_token_depends_on_key_shop_mode_and_payment_and_on_nothing_else() -> None:
    key, other = b"k" * 32, b"l" * 32
    first = status_url_of(key, SHOP, Mode.TEST, PAYMENT)
    assert first == status_url_of(key, SHOP, Mode.TEST, PAYMENT)
    others = [
        status_url_of(other, SHOP, Mode.TEST, PAYMENT),
        status_url_of(key, UUID(int=9), Mode.TEST, PAYMENT),
        status_url_of(key, SHOP, Mode.LIVE, PAYMENT),
        status_url_of(key, SHOP, Mode.TEST, UUID(int=9)),
    ]
    assert len({url.partition("token=")[2] for url in (first, *others)}) == 5


def test_PAN_guard_takes_no_token_for_a_card_number() -> None:
    for number in range(2_000):
        url = status_url_of(b"k" * 32, SHOP, Mode.TEST, UUID(int=number))
        assert not contains_card_number_in(url.encode()), url
