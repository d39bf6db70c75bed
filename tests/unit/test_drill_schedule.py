"""What a drill asks for and when it strikes: planned from the seed, and nothing is left out of a short one."""

import time
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from coatcheck.clock import SystemClock
from coatcheck.drill.journal import Flight, Journal
from coatcheck.drill.plan import (
    RETURNED_REFUND,
    Buyer,
    Checkout,
    Click,
    GivesBack,
    Later,
    Manner,
    amount_text,
    minor_units,
    plan_checkouts,
)
from coatcheck.drill.processes import _WRONG_CLOCK, child_environ, children_of
from coatcheck.drill.report import percentile
from coatcheck.drill.schedule import LEASE_S, Blow, plan_strokes, skew_of
from coatcheck.validation import parse_payment_request

HOUR_S = 3600


def drawn(seed: int = 1, count: int = 2_000, *, returned: bool = True) -> list[Checkout]:
    return list(islice(plan_checkouts(seed, "one", returned_refunds=returned), count))


def test_the_same_seed_gives_the_same_drill_to_the_byte() -> None:
    assert drawn(7) == drawn(7)
    assert [each.body for each in drawn(7)] != [each.body for each in drawn(8)]
    assert plan_strokes(7, 300) == plan_strokes(7, 300)
    assert plan_strokes(7, 300) != plan_strokes(8, 300)


def test_every_way_of_paying_is_asked_for() -> None:
    checkouts = drawn()
    assert {each.manner for each in checkouts} == set(Manner)
    assert {each.click for each in checkouts} == set(Click)
    assert {each.later for each in checkouts if each.manner is Manner.MANUAL} == set(Later)
    assert {each.buyer for each in checkouts if each.manner is Manner.HOSTED} == set(Buyer)
    assert {order.gives_back for each in checkouts for order in each.orders} == set(GivesBack)
    assert {each.card for each in checkouts} >= {"tok_approve", "tok_html", "tok_pending", "tok_refund_pending"}


def test_no_two_orders_share_an_amount_in_one_currency() -> None:
    sums = Counter((order.currency, order.amount_minor) for each in drawn() for order in each.orders)
    assert max(sums.values()) == 1


def test_refunds_come_back_only_where_a_webhook_will_tell() -> None:
    assert any(each.card == RETURNED_REFUND for each in drawn())
    assert not any(each.card == RETURNED_REFUND for each in drawn(returned=False))


def test_the_gateway_takes_every_body() -> None:
    for checkout in drawn(count=400):
        asked = parse_payment_request(checkout.body, body_depth=16, orders_limit=100)
        assert [order.amount_minor for order in asked.orders] == [order.amount_minor for order in checkout.orders]
        assert asked.is_usual is (checkout.manner is Manner.USUAL)


@pytest.mark.parametrize(
    ("minor", "currency", "text"), [(101, "EUR", "1.01"), (101, "JPY", "101"), (101, "KWD", "0.101")]
)
def test_E2_amounts_are_written_and_read_with_the_currencys_decimals(minor: int, currency: str, text: str) -> None:
    assert amount_text(minor, currency) == text
    assert minor_units(text, currency) == minor


def test_an_amount_with_too_many_decimals_is_not_read() -> None:
    with pytest.raises(ValueError, match=r"1\.5"):
        minor_units("1.5", "JPY")


@pytest.mark.parametrize("seconds", [5, 20, 300, HOUR_S])
def test_even_a_short_drill_has_a_blow_of_every_kind_in_time(seconds: float) -> None:
    strokes = plan_strokes(3, seconds)
    assert {stroke.blow for stroke in strokes} == set(Blow)
    assert strokes == sorted(strokes)
    assert all(0 < stroke.at_s < seconds for stroke in strokes)


def test_the_hour_has_what_is_promised() -> None:
    blows = Counter(stroke.blow for stroke in plan_strokes(1, HOUR_S))
    assert blows[Blow.GATEWAY_KILL] >= 1_000
    assert blows[Blow.POSTGRES_KILL] >= 50


def test_F2_a_long_stop_outlives_a_lease_and_a_short_one_does_not() -> None:
    strokes = plan_strokes(1, HOUR_S)
    assert all(stroke.lasts_s > LEASE_S for stroke in strokes if stroke.blow is Blow.GATEWAY_STOP)
    assert all(0 < stroke.lasts_s < LEASE_S for stroke in strokes if stroke.blow is Blow.GATEWAY_PAUSE)


def test_one_clock_of_a_pair_is_right_and_the_other_wrong_both_ways() -> None:
    assert {skew_of(1, "gateway-one-a", start) for start in range(20)} == {0.0}
    wrong = [skew_of(1, "gateway-one-b", start) for start in range(20)]
    assert min(wrong) < 0 < max(wrong)
    assert 0.0 not in wrong


def test_F2_a_process_whose_time_is_wrong_decides_by_that_time(monkeypatch: pytest.MonkeyPatch) -> None:
    program = _WRONG_CLOCK.format(skew_s=-2.5)
    monkeypatch.setattr(time, "time", lambda: 1_000.0)
    exec(program, {})  # noqa: S102 - what a gateway of the drill runs first
    assert time.time() == 997.5
    assert SystemClock().now().timestamp() == 997.5


def test_a_recovery_ends_with_the_last_payment_that_was_there() -> None:
    journal = Journal()
    hit, other, elsewhere = Flight("c1"), Flight("c2"), Flight("c3")
    journal.flights |= {hit, other, elsewhere}
    hit.at_gateways["a"] = other.at_gateways["a"] = elsewhere.at_gateways["b"] = 1
    journal.killed("gateway", "a")
    [recovery] = journal.recoveries
    assert recovery.waiting == 2
    journal.landed(elsewhere, has_succeeded=True)
    journal.landed(hit, has_succeeded=False)
    assert (recovery.first_s, recovery.last_s) == (None, None)
    journal.landed(other, has_succeeded=True)
    assert recovery.first_s is not None
    assert recovery.last_s is not None
    assert recovery.last == "c2"
    assert len(recovery.decided_s) == 2


def test_a_kill_with_nothing_in_flight_is_no_recovery() -> None:
    journal = Journal()
    journal.killed("gateway", "a")
    assert journal.recoveries == []


def test_a_client_notes_every_different_final_status_it_is_told() -> None:
    journal = Journal()
    asked = journal.ask(drawn(count=1)[0])
    for status in ("PENDING", "FAILED", "FAILED", "SUCCESS"):
        orders = [{"payment_order_id": "o1", "status": status}]
        journal.hear(asked, {"payment_id": "pay_1", "payment_orders": orders})
    assert asked.told["o1"].statuses == ["FAILED", "SUCCESS"]
    journal.hear(asked, {"payment_id": "pay_2", "payment_orders": []})
    assert journal.complaints_in_all == 1


def test_no_setting_of_the_users_own_meets_the_drill(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://real")
    monkeypatch.setenv("COATCHECK_STRIPE_API_KEY", "sk_live_x")
    environ = child_environ({"COATCHECK_PORT": "1"})
    assert "DATABASE_URL" not in environ
    assert [name for name in environ if name.startswith("COATCHECK_")] == ["COATCHECK_CONFIG", "COATCHECK_PORT"]


def test_the_children_of_a_process_are_found() -> None:
    stat = Path("/proc/self/stat").read_text("utf-8")
    parent = int(stat.rpartition(")")[2].split()[1])
    assert int(stat.split()[0]) in children_of(parent)


@pytest.mark.parametrize(("percent", "value"), [(50, 2), (99, 4), (1, 1), (100, 4)])
def test_a_percentile_is_a_time_that_was_measured(percent: int, value: float) -> None:
    assert percentile([3, 1, 4, 2], percent) == value
