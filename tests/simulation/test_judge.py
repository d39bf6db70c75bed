"""What the simulation's judge says of books that are wrong."""

from typing import Any
from uuid import UUID

from tests.simulation.judge import Case, Fault, Verdict, _judge_each_payment

ONE, TWO = UUID(int=1), UUID(int=2)


def order(payment_id: UUID, name: str) -> Case:
    row: dict[str, Any] = {
        "payment_id": payment_id,
        "payment_order_id": name,
        "seller_account": "s",
        "amount_minor": 1000,
        "commission_minor": 100,
        "captured_minor": 1000,
        "currency": "EUR",
        "status": "SUCCESS",
    }
    return Case(row, [], [], [])


def moves(payment_id: UUID, seller_minor: int) -> list[dict[str, Any]]:
    moved = {"psp:simulator:receivable": -1000, "seller:s:pending": seller_minor, "platform:commission": 100}
    return [
        {"payment_id": payment_id, "name": name, "currency": "EUR", "moved_minor": minor}
        for name, minor in moved.items()
    ]


def test_the_payment_whose_transfers_are_wrong_is_named_and_no_other() -> None:
    verdict = Verdict()
    cases = [order(ONE, "right-a"), order(TWO, "wrong-a")]
    _judge_each_payment([*moves(ONE, 900), *moves(TWO, 899)], [], cases, verdict)
    assert verdict.faults == {Fault.LEDGER: 1}
    assert "wrong-a : moved" in verdict.findings[0]


def test_a_payment_without_any_transfer_is_named() -> None:
    verdict = Verdict()
    _judge_each_payment([], [], [order(ONE, "lost-a")], verdict)
    assert "lost-a : moved {}" in verdict.findings[0]


def test_a_payment_whose_hold_was_left_behind_is_named() -> None:
    verdict = Verdict()
    _judge_each_payment(
        [*moves(ONE, 900), *moves(TWO, 900)], moves(TWO, 900), [order(ONE, "a"), order(TWO, "b")], verdict
    )
    assert verdict.faults == {Fault.LEDGER: 1}
    assert "b : holds" in verdict.findings[0]


def test_an_authorized_order_holds_what_was_not_captured() -> None:
    verdict = Verdict()
    reserved = order(ONE, "a")
    reserved.row |= {"status": "AUTHORIZED", "captured_minor": 0}
    _judge_each_payment([], moves(ONE, 900), [reserved], verdict)
    assert not verdict.findings
