"""Whatever is captured, released, refunded and returned, not a minor unit is made or lost."""

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.test_effects import NO, YES, operation

from coatcheck.ledger import MAX_AMOUNT_MINOR, Phase
from coatcheck.payments.effects import commission_of, effect_of
from coatcheck.states import OperationKind, RefundStatus

amounts = st.integers(1, MAX_AMOUNT_MINOR)


@given(st.data())
def test_a_charge_moves_exactly_the_gross_and_only_positive_amounts(data: st.DataObject) -> None:
    gross = data.draw(amounts)
    commission = data.draw(st.integers(0, gross))
    legs = effect_of(operation(OperationKind.CHARGE, gross, commission_minor=commission), YES).legs
    assert sum(leg.amount_minor for leg in legs) == gross
    assert all(leg.amount_minor > 0 for leg in legs)
    assert sum(leg.amount_minor for leg in legs if leg.is_commission) == commission


@given(st.data())
def test_D13_captures_in_any_parts_end_a_hold_to_the_last_unit(data: st.DataObject) -> None:
    gross = data.draw(st.integers(1, 10**6))
    commission = data.draw(st.integers(0, gross))
    cuts = sorted(data.draw(st.lists(st.integers(1, gross), min_size=1, max_size=6, unique=True)))
    captured, ended = 0, {True: 0, False: 0}
    for place, cut in enumerate(cuts):
        asked = operation(
            OperationKind.CAPTURE,
            cut - captured,
            is_final=place == len(cuts) - 1,
            commission_minor=commission,
            authorized_minor=gross,
            captured_minor=captured,
        )
        for leg in effect_of(asked, YES).legs:
            assert leg.amount_minor > 0
            assert leg.phase in (Phase.CAPTURED, Phase.RELEASED)
            ended[leg.is_commission] += leg.amount_minor
        captured = cut
    assert ended == {True: commission, False: gross - commission}


@given(st.data())
def test_D6_a_refund_and_its_return_leave_nothing_behind(data: st.DataObject) -> None:
    amount = data.draw(amounts)
    share = data.draw(st.integers(0, amount))
    moved: dict[tuple[bool, bool], int] = {}
    for status, outcome in ((RefundStatus.PENDING, YES), (RefundStatus.SUCCEEDED, NO)):
        asked = operation(OperationKind.REFUND, amount, refund_commission_minor=share, refund_status=status)
        for leg in effect_of(asked, outcome).legs:
            moved[leg.is_commission, leg.goes_back] = leg.amount_minor
    assert all(moved.get((which, True)) == moved.get((which, False)) for which in (True, False))


@given(st.data())
def test_D13_the_parts_of_a_commission_never_exceed_it(data: st.DataObject) -> None:
    whole = data.draw(amounts)
    commission = data.draw(st.integers(0, whole))
    part = data.draw(st.integers(0, whole))
    share = commission_of(commission, whole, part)
    assert 0 <= share <= min(commission, part)
    assert 0 <= commission - share <= whole - part
    assert commission_of(commission, whole, whole) == commission
