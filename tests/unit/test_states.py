"""The state tables, pair by pair."""

from itertools import combinations_with_replacement, product

import pytest

from coatcheck.states import (
    FINAL_ORDER_STATUSES,
    OPERATION_TRANSITIONS,
    ORDER_TRANSITIONS,
    OperationStatus,
    OrderStatus,
    PaymentStatus,
    payment_status_of,
)

Order, Payment = OrderStatus, PaymentStatus

# Written out on purpose: every pair that is allowed, so that a change to the table is a change here as well.
ORDER_WAYS = {
    (Order.NOT_STARTED, Order.EXECUTING),
    (Order.NOT_STARTED, Order.FAILED),
    (Order.NOT_STARTED, Order.CANCELLED),
    (Order.EXECUTING, Order.PENDING),
    (Order.EXECUTING, Order.AUTHORIZED),
    (Order.EXECUTING, Order.SUCCESS),
    (Order.EXECUTING, Order.FAILED),
    (Order.EXECUTING, Order.CANCELLED),
    (Order.PENDING, Order.AUTHORIZED),
    (Order.PENDING, Order.SUCCESS),
    (Order.PENDING, Order.FAILED),
    (Order.PENDING, Order.CANCELLED),
    (Order.AUTHORIZED, Order.SUCCESS),
    (Order.AUTHORIZED, Order.FAILED),
    (Order.AUTHORIZED, Order.CANCELLED),
    (Order.FAILED, Order.SUCCESS),
    (Order.FAILED, Order.AUTHORIZED),
    (Order.CANCELLED, Order.SUCCESS),
    (Order.CANCELLED, Order.AUTHORIZED),
}
OPERATION_WAYS = {
    (OperationStatus.OPEN, OperationStatus.APPROVED),
    (OperationStatus.OPEN, OperationStatus.DECLINED),
    (OperationStatus.OPEN, OperationStatus.UNRESOLVED),
    (OperationStatus.OPEN, OperationStatus.PENDING),
    (OperationStatus.PENDING, OperationStatus.APPROVED),
    (OperationStatus.PENDING, OperationStatus.DECLINED),
    (OperationStatus.PENDING, OperationStatus.UNRESOLVED),
    (OperationStatus.APPROVED, OperationStatus.PENDING),
    (OperationStatus.DECLINED, OperationStatus.PENDING),
    (OperationStatus.UNRESOLVED, OperationStatus.OPEN),
    (OperationStatus.UNRESOLVED, OperationStatus.PENDING),
    (OperationStatus.UNRESOLVED, OperationStatus.APPROVED),
    (OperationStatus.UNRESOLVED, OperationStatus.DECLINED),
}


@pytest.mark.parametrize(("before", "after"), list(product(OrderStatus, OrderStatus)))
def test_every_pair_of_order_statuses(before: OrderStatus, after: OrderStatus) -> None:
    assert (after in ORDER_TRANSITIONS[before]) is ((before, after) in ORDER_WAYS)


@pytest.mark.parametrize(("before", "after"), list(product(OperationStatus, OperationStatus)))
def test_every_pair_of_operation_statuses(before: OperationStatus, after: OperationStatus) -> None:
    assert (after in OPERATION_TRANSITIONS[before]) is ((before, after) in OPERATION_WAYS)


@pytest.mark.parametrize("status", OrderStatus)
def test_A9_after_a_final_status_only_the_money_itself_can_come(status: OrderStatus) -> None:
    others = ORDER_TRANSITIONS[status] - {Order.SUCCESS, Order.AUTHORIZED}
    assert status.is_final is (others == frozenset())
    assert status.is_final is (status in FINAL_ORDER_STATUSES)


# The payment's status for every pair of its orders' statuses; more orders add no new case.
PAYMENT_OF_PAIR = {
    (Order.EXECUTING, None): Payment.EXECUTING,
    (Order.PENDING, None): Payment.PENDING,
    (Order.NOT_STARTED, None): Payment.NOT_STARTED,
    (Order.AUTHORIZED, None): Payment.AUTHORIZED,
}
PAIR_OF_FINALS = {
    frozenset({Order.SUCCESS}): Payment.SUCCESS,
    frozenset({Order.FAILED}): Payment.FAILED,
    frozenset({Order.CANCELLED}): Payment.CANCELLED,
    frozenset({Order.SUCCESS, Order.FAILED}): Payment.PARTIAL,
    frozenset({Order.SUCCESS, Order.CANCELLED}): Payment.PARTIAL,
    frozenset({Order.FAILED, Order.CANCELLED}): Payment.FAILED,
}
WAITING_FIRST = (Order.EXECUTING, Order.PENDING, Order.NOT_STARTED, Order.AUTHORIZED)


@pytest.mark.parametrize(("one", "other"), list(combinations_with_replacement(OrderStatus, 2)))
def test_every_pair_of_orders_makes_a_payment_status(one: OrderStatus, other: OrderStatus) -> None:
    waiting = [status for status in WAITING_FIRST if status in (one, other)]
    expected = PAYMENT_OF_PAIR[waiting[0], None] if waiting else PAIR_OF_FINALS[frozenset({one, other})]
    assert payment_status_of([one, other]) is expected
    assert payment_status_of([other, one]) is expected
    assert payment_status_of([one, other, one, other]) is expected
