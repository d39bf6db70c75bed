import re
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from coatcheck.cli import DIAL
from coatcheck.demo.evening import (
    DECIMALS,
    Checkout,
    Manner,
    Order,
    amount_text,
    minor_units,
    plan_evening,
)
from coatcheck.demo.judge import Evidence, PspCharge, Verdict, judge
from coatcheck.demo.play import WEATHER
from coatcheck.demo.processes import child_environ
from coatcheck.demo.report import progress
from coatcheck.demo.shoppers import Answer, Memory
from coatcheck.validation import parse_payment_request

RECEIVABLE = "psp:simulator:receivable"


def charge_id_of(order: Order) -> str:
    return f"ch_{order.payment_order_id}"


def payment_of(checkout: Checkout, declined: frozenset[str]) -> dict[str, Any]:
    orders = [
        {
            "payment_order_id": order.payment_order_id,
            "seller_account": order.seller_account,
            "amount": amount_text(order.amount_minor, order.currency),
            "currency": order.currency,
            "commission": amount_text(order.commission_minor, order.currency),
            "status": "FAILED" if order.payment_order_id in declined else "SUCCESS",
            "decline_code": "card_declined" if order.payment_order_id in declined else None,
            "provider_reference": charge_id_of(order),
        }
        for order in checkout.orders
    ]
    return {
        "payment_id": f"pay_{checkout.checkout_id}",
        "checkout_id": checkout.checkout_id,
        "status": "SUCCESS",
        "is_payment_done": True,
        "payment_orders": orders,
    }


def trial_balance_of(taken: Counter[str], sellers: Counter[tuple[str, str]]) -> list[dict[str, Any]]:
    books = []
    for currency, gross in taken.items():
        credits_ = {f"seller:{name}:pending": net for (name, unit), net in sellers.items() if unit == currency}
        credits_["platform:commission"] = gross - sum(credits_.values())
        accounts = [(RECEIVABLE, gross, 0), *((name, 0, amount) for name, amount in credits_.items())]
        books.append(
            {
                "currency": currency,
                "debits": amount_text(gross, currency),
                "credits": amount_text(gross, currency),
                "accounts": [
                    {
                        "name": name,
                        "debits": amount_text(debit, currency),
                        "credits": amount_text(credit, currency),
                        "balance": amount_text(debit + credit, currency),
                    }
                    for name, debit, credit in accounts
                ],
            }
        )
    return books


def honest_evidence(number: int = 1) -> Evidence:
    """What the witnesses say of an evening in which all went well and every eleventh order was declined."""
    evening = plan_evening(number=number, seed=11, checkouts=40, buyers=9, sellers=7)
    orders = list(evening.orders)
    declined = frozenset(order.payment_order_id for order in orders[::11])
    taken: Counter[str] = Counter()
    sellers: Counter[tuple[str, str]] = Counter()
    for order in orders:
        if order.payment_order_id not in declined:
            taken[order.currency] += order.amount_minor
            sellers[order.seller_account, order.currency] += order.amount_minor - order.commission_minor
    payments = {checkout.checkout_id: payment_of(checkout, declined) for checkout in evening.checkouts}
    wallets: dict[str, list[dict[str, str]]] = {name: [] for name in evening.sellers}
    for (name, currency), net in sellers.items():
        zero = amount_text(0, currency)
        balance = {"currency": currency, "pending": amount_text(net, currency), "available": zero, "in_payout": zero}
        wallets[name].append(balance)
    return Evidence(
        evening=evening,
        answers={name: [Answer(body, False, 0.1), Answer(body, True, None)] for name, body in payments.items()},
        refusals=[],
        payments=payments,
        charges=[
            PspCharge(
                charge_id_of(order),
                f"ref-{order.payment_order_id}",
                "declined" if order.payment_order_id in declined else "succeeded",
                order.amount_minor,
                order.currency,
            )
            for order in orders
        ],
        references_charged_twice=frozenset(),
        wallets=wallets,
        trial_balance=trial_balance_of(taken, sellers),
    )


def a_success(evidence: Evidence) -> PspCharge:
    return next(charge for charge in evidence.charges if charge.status == "succeeded")


def assert_convicted(verdict: Verdict, field: str, value: int) -> None:
    assert getattr(verdict, field) == value
    assert not verdict.is_ok
    assert verdict.proof.endswith(" ok=false")
    assert verdict.findings


def test_an_honest_evening_is_proved() -> None:
    evidence = honest_evidence()
    asked = sum(1 for _ in evidence.evening.orders)
    verdict = judge(evidence)
    assert verdict.findings == []
    assert verdict.proof == (
        f"PROOF asked={asked} charged={asked - verdict.declined} charged_twice=0 lost=0 unresolved=0 "
        "ledger_difference=0 wallet_difference=0 matched=0 breaks_planted=0 breaks_found=0 clearing_open=0 "
        "payouts_twice=0 replay_difference=0 ok=true"
    )
    assert verdict.declined == len(range(0, asked, 11))


@pytest.mark.parametrize("reference", ["the same", "another"])
def test_a_second_charge_of_an_order_is_found_whatever_it_is_called(reference: str) -> None:
    evidence = honest_evidence()
    first = a_success(evidence)
    second = replace(first, charge_id="ch_second", reference=first.reference if reference == "the same" else "ref-new")
    verdict = judge(replace(evidence, charges=[*evidence.charges, second]))
    assert_convicted(verdict, "charged_twice", 1)
    assert verdict.ledger_difference == first.amount_minor


def test_what_the_psp_itself_calls_charged_twice_is_believed() -> None:
    evidence = honest_evidence()
    twice = frozenset({a_success(evidence).reference})
    assert_convicted(judge(replace(evidence, references_charged_twice=twice)), "charged_twice", 1)


def test_a_charge_the_gateway_calls_failed_is_lost() -> None:
    evidence = honest_evidence()
    declined = next(charge for charge in evidence.charges if charge.status == "declined")
    charges = [replace(charge, status="succeeded") if charge is declined else charge for charge in evidence.charges]
    verdict = judge(replace(evidence, charges=charges))
    assert_convicted(verdict, "lost", 1)
    assert verdict.wallet_difference > 0
    assert verdict.ledger_difference == declined.amount_minor


def test_a_success_the_psp_does_not_know_is_lost() -> None:
    evidence = honest_evidence()
    gone = a_success(evidence)
    verdict = judge(replace(evidence, charges=[charge for charge in evidence.charges if charge is not gone]))
    assert_convicted(verdict, "lost", 1)


def test_a_success_that_names_another_order_s_charge_is_lost() -> None:
    evidence = honest_evidence()
    payment = next(iter(evidence.payments.values()))
    told = next(order for order in payment["payment_orders"] if order["status"] == "SUCCESS")
    told["provider_reference"] = "ch_of_somebody_else"
    assert_convicted(judge(evidence), "lost", 1)


@pytest.mark.parametrize("amount_minor", [1, 2])
def test_money_taken_for_no_order_is_lost_whatever_the_amount(amount_minor: int) -> None:
    evidence = honest_evidence()
    stranger = PspCharge("ch_stranger", "ref-stranger", "succeeded", amount_minor, "USD")
    assert_convicted(judge(replace(evidence, charges=[*evidence.charges, stranger])), "lost", 1)


def test_only_later_evenings_may_find_work_that_an_earlier_one_left() -> None:
    evidence = honest_evidence(number=2)
    of_the_first = next(plan_evening(number=1, seed=11, checkouts=40).orders)
    assert not evidence.evening.has_lane_of(of_the_first.amount_minor)
    left = PspCharge("ch_left", "ref-left", "succeeded", of_the_first.amount_minor, of_the_first.currency)
    verdict = judge(replace(evidence, charges=[*evidence.charges, left]))
    assert verdict.is_ok
    assert verdict.of_other_evenings == 1


@pytest.mark.parametrize("status", ["EXECUTING", "PENDING"])
def test_an_order_that_is_not_final_is_unresolved_and_not_lost(status: str) -> None:
    evidence = honest_evidence()
    next(iter(evidence.payments.values()))["payment_orders"][0]["status"] = status
    verdict = judge(evidence)
    assert_convicted(verdict, "unresolved", 1)
    assert verdict.lost == 0


def test_a_checkout_nobody_knows_is_unresolved() -> None:
    evidence = honest_evidence()
    checkout = evidence.evening.checkouts[3]
    payments = {name: payment for name, payment in evidence.payments.items() if name != checkout.checkout_id}
    assert_convicted(judge(replace(evidence, payments=payments)), "unresolved", len(checkout.orders))


def test_a_wallet_that_is_off_is_found_in_both_directions() -> None:
    for wrong in (1, -1):
        evidence = honest_evidence()
        balance: Any = next(balances for balances in evidence.wallets.values() if balances)[0]
        pending = minor_units(balance["pending"], balance["currency"])
        balance["pending"] = amount_text(pending + wrong, balance["currency"])
        assert_convicted(judge(evidence), "wallet_difference", 1)


def test_errors_of_two_wallets_do_not_make_up_for_each_other() -> None:
    evidence = honest_evidence()
    in_dollars: list[Any] = [
        each for balances in evidence.wallets.values() for each in balances if each["currency"] == "USD"
    ]
    for balance, wrong in zip(in_dollars[:2], (5, -5), strict=True):
        balance["available"] = amount_text(minor_units(balance["available"], "USD") + wrong, "USD")
    assert_convicted(judge(evidence), "wallet_difference", 10)


def test_a_missing_wallet_is_found() -> None:
    evidence = honest_evidence()
    assert judge(replace(evidence, wallets={})).wallet_difference > 0


@pytest.mark.parametrize("side", ["debits", "credits"])
def test_books_that_do_not_balance_are_found(side: str) -> None:
    evidence = honest_evidence()
    book: Any = evidence.trial_balance[0]
    account = book["accounts"][-1]
    account[side] = amount_text(minor_units(account[side], book["currency"]) + 3, book["currency"])
    verdict = judge(evidence)
    assert not verdict.is_ok
    assert verdict.ledger_difference >= 3


def test_a_total_that_is_not_that_of_the_accounts_is_found() -> None:
    evidence = honest_evidence()
    book: Any = evidence.trial_balance[0]
    book["debits"] = amount_text(minor_units(book["debits"], book["currency"]) + 2, book["currency"])
    assert_convicted(judge(evidence), "ledger_difference", 2)


def test_a_ledger_without_a_currency_that_was_charged_is_found() -> None:
    evidence = honest_evidence()
    assert judge(replace(evidence, trial_balance=evidence.trial_balance[1:])).ledger_difference > 0


@pytest.mark.parametrize("what", ["payment_id", "status"])
def test_two_answers_that_differ_are_found(what: str) -> None:
    evidence = honest_evidence()
    name, body = next(iter(evidence.payments.items()))
    answers = {**evidence.answers, name: [*evidence.answers[name], Answer(dict(body) | {what: "other"}, True, None)]}
    verdict = judge(replace(evidence, answers=answers))
    assert not verdict.is_ok
    assert "answered in 2 ways" in verdict.findings[0]


def test_two_first_answers_are_found() -> None:
    evidence = honest_evidence()
    name, body = next(iter(evidence.payments.items()))
    answers = {**evidence.answers, name: [Answer(dict(body), False, 0.1), Answer(dict(body), False, None)]}
    assert "as if it were new" in judge(replace(evidence, answers=answers)).findings[0]


def test_a_refusal_and_a_silence_spoil_the_proof() -> None:
    evidence = honest_evidence()
    assert not judge(replace(evidence, refusals=["evening-1-checkout-00001: 422"])).is_ok
    name = evidence.evening.checkouts[0].checkout_id
    assert "never answered" in judge(replace(evidence, answers={**evidence.answers, name: []})).findings[0]


@pytest.mark.parametrize("part", ["amount", "commission", "seller_account", "currency"])
def test_an_order_shown_otherwise_than_asked_is_found(part: str) -> None:
    evidence = honest_evidence()
    order = next(iter(evidence.payments.values()))["payment_orders"][0]
    order[part] = {"amount": "7", "commission": "7", "seller_account": "seller-00", "currency": "KWD"}[part]
    verdict = judge(evidence)
    assert not verdict.is_ok
    assert any("the gateway shows another" in finding for finding in verdict.findings)


def test_an_evening_can_be_played_again_and_is_never_the_next_one() -> None:
    first = plan_evening(number=1, seed=3, checkouts=200)
    assert plan_evening(number=1, seed=3, checkouts=200) == first
    assert plan_evening(number=1, seed=4, checkouts=200).checkouts != first.checkouts
    second = plan_evening(number=2, seed=3, checkouts=200)
    for name in ("payment_order_id", "amount_minor"):
        assert not {getattr(each, name) for each in first.orders} & {getattr(each, name) for each in second.orders}
    assert not {each.key for each in first.checkouts} & {each.key for each in second.checkouts}


def test_the_evening_is_as_it_is_promised() -> None:
    evening = plan_evening(number=1, seed=5, checkouts=3_000)
    orders = list(evening.orders)
    requests = [msgspec.json.decode(checkout.body) for checkout in evening.checkouts]
    manners = Counter(checkout.manner for checkout in evening.checkouts)
    assert len(evening.checkouts) == 3_000
    assert len({request["buyer"]["reference"] for request in requests}) == 300
    assert len({order.seller_account for order in orders}) == 60
    assert {len(checkout.orders) for checkout in evening.checkouts} == {1, 2, 3, 4}
    assert {order.currency for order in orders} == set(DECIMALS) == {"USD", "EUR", "JPY", "KWD"}
    assert manners[Manner.TWICE_AT_ONCE] == 600
    assert manners[Manner.AGAIN_SAME_KEY] + manners[Manner.AGAIN_NEW_KEY] == 150
    assert manners[Manner.VANISHES] == 60
    assert len({(order.currency, order.amount_minor) for order in orders}) == len(orders)
    assert all(0 <= order.commission_minor < order.amount_minor for order in orders)
    assert any(order.commission_minor for order in orders)
    assert any(len({order.currency for order in checkout.orders}) > 1 for checkout in evening.checkouts)


def test_every_checkout_is_a_request_the_gateway_takes() -> None:
    for checkout in plan_evening(number=1, seed=6, checkouts=150).checkouts:
        request = parse_payment_request(checkout.body, body_depth=16, orders_limit=100)
        assert [(each.amount_minor, each.commission_minor) for each in request.orders] == [
            (each.amount_minor, each.commission_minor) for each in checkout.orders
        ]


@pytest.mark.parametrize("checkouts", [1, 2, 7])
def test_the_smallest_evenings_can_be_planned(checkouts: int) -> None:
    assert len(plan_evening(number=9, seed=1, checkouts=checkouts).checkouts) == checkouts


@pytest.mark.parametrize(
    ("minor", "currency", "text"),
    [(0, "USD", "0.00"), (7, "USD", "0.07"), (123456, "EUR", "1234.56"), (840, "JPY", "840"), (1005, "KWD", "1.005")],
)
def test_amounts_are_written_and_read_exactly(minor: int, currency: str, text: str) -> None:
    assert amount_text(minor, currency) == text
    assert minor_units(text, currency) == minor
    assert minor_units(f"-{text}", currency) == -minor


@pytest.mark.parametrize(("text", "currency"), [("1.001", "USD"), ("0.5", "JPY"), ("NaN", "USD"), ("Infinity", "EUR")])
def test_amounts_that_are_not_whole_minor_units_are_refused(text: str, currency: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        minor_units(text, currency)


def test_first_answers_are_timed_and_refusals_are_kept_within_bounds() -> None:
    memory = Memory(answers={"a": [Answer({}, False, 0.3), Answer({}, True, None)], "b": [Answer({}, False, 0.1)]})
    assert memory.times_s() == [0.1, 0.3]
    for place in range(50):
        memory.refuse(f"checkout-{place}", "422")
    assert memory.counts["refusals"] == 50
    assert len(memory.refusals) == 20


def test_a_process_of_the_demo_never_sees_the_settings_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://production")
    monkeypatch.setenv("COATCHECK_STRIPE_API_KEY", "sk_live_x")
    monkeypatch.setenv("COATCHECK_CONFIG", "production.toml")
    monkeypatch.setenv("HOME_OF_NOBODY", "kept")
    environ = child_environ(PORT="0")
    assert environ["HOME_OF_NOBODY"] == "kept"
    ours = {name: value for name, value in environ.items() if name.startswith("COATCHECK_")}
    assert ours == {"COATCHECK_CONFIG": "/dev/null", "COATCHECK_PORT": "0"}
    assert "DATABASE_URL" not in environ


def test_progress_that_is_not_for_a_terminal_is_ten_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console  # noqa: PLC0415 - rich looks at standard output when it is made

    with progress(Console(), 200) as tick:
        for _ in range(200):
            tick()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [str(20 * tenth) for tenth in range(1, 11)]


def test_the_weather_of_the_evening_is_the_one_promised() -> None:
    known = {name.replace("_", "-") for name, _, _ in DIAL}
    assert known >= WEATHER.keys()
    assert WEATHER["drop-after-charge-share"] == "0.03"
    assert Decimal(WEATHER["error-before-share"]) + Decimal(WEATHER["error-after-share"]) == Decimal("0.02")
    assert (WEATHER["slow-share"], WEATHER["decline-share"]) == ("0.02", "0.05")
