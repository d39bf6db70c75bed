from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from coatcheck.ledger import MAX_AMOUNT_MINOR, charge_transfers
from coatcheck.states import Mode


@given(st.data())
def test_a_charge_moves_exactly_the_gross_and_only_positive_amounts(data: st.DataObject) -> None:
    gross = data.draw(st.integers(1, MAX_AMOUNT_MINOR))
    commission = data.draw(st.integers(0, gross))
    legs = charge_transfers(
        transfer_ids=[UUID(int=1), UUID(int=2)],
        shop_id=UUID(int=3),
        mode=Mode.TEST,
        provider="p",
        seller="s",
        gross_minor=gross,
        commission_minor=commission,
        currency="JPY",
        subject_id=UUID(int=4),
    )
    assert sum(leg.amount_minor for leg in legs) == gross
    assert all(leg.amount_minor > 0 for leg in legs)
    assert sum(leg.amount_minor for leg in legs if leg.kind == "commission") == commission
    assert all(leg.debit_account_id != leg.credit_account_id for leg in legs)
