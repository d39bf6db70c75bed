from datetime import UTC, datetime, timedelta
from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck import ids

SHOP, OTHER = ids.derive_id("shop", "hats"), ids.derive_id("shop", "shoes")


def test_the_same_request_names_the_same_row_in_every_release() -> None:
    assert str(ids.payment_id_of(SHOP, "test", "checkout-1")) == "9b3ddc79-8550-fd19-b93a-025edc709627"


def test_shop_mode_kind_and_name_all_keep_rows_apart() -> None:
    named = [
        ids.payment_id_of(SHOP, "test", "1"),
        ids.payment_id_of(SHOP, "live", "1"),
        ids.payment_id_of(OTHER, "test", "1"),
        ids.payment_id_of(SHOP, "test", "2"),
        ids.order_id_of(SHOP, "test", "1"),
        ids.buyer_id_of(SHOP, "test", "1"),
        ids.operation_id_of(SHOP, "charge"),
        ids.operation_id_of(SHOP, "charge", "2"),
        ids.account_id_of(SHOP, "test", "1", "EUR"),
        ids.account_id_of(SHOP, "test", "1", "USD"),
    ]
    assert len(set(named)) == len(named)


@given(st.lists(st.text(), max_size=4), st.lists(st.text(), max_size=4))
def test_parts_never_run_together(one: list[str], other: list[str]) -> None:
    assert (ids.derive_id("x", *one) == ids.derive_id("x", *other)) is (one == other)


@given(st.uuids())
def test_a_printed_id_is_read_back(value: UUID) -> None:
    printed = ids.print_id(ids.PAYMENT, value)
    assert len(printed) == len("pay_") + 26
    assert ids.parse_id(ids.PAYMENT, printed) == value
    assert ids.parse_id(ids.ORDER, printed) is None


@pytest.mark.parametrize(
    "text", ["", "pay_", "pay", "pay_" + "a" * 25, "pay_" + "a" * 27, "pay_" + "A" * 26, "pay_" + "1" * 26]
)
def test_what_is_not_an_id_is_none(text: str) -> None:
    assert ids.parse_id(ids.PAYMENT, text) is None


def test_a_printed_id_has_one_spelling() -> None:
    printed = ids.print_id(ids.PAYMENT, UUID(int=0))
    assert ids.parse_id(ids.PAYMENT, printed[:-1] + "b") is None  # two bits too many


def test_time_ordered_ids_ascend_with_time_and_within_a_list() -> None:
    at = datetime(2026, 3, 1, tzinfo=UTC)
    made = [*ids.time_ordered_ids(at, 3000), *ids.time_ordered_ids(at + timedelta(milliseconds=1), 1)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)
    assert {value.version for value in made} == {7}
    assert {value.variant for value in made} == {RFC_4122}
    assert made[0].int >> 80 == int(at.timestamp() * 1000)


def test_ids_made_the_quick_way_are_uuids_like_any_other() -> None:
    made = ids.random_id()
    assert made == UUID(bytes=made.bytes)
    assert hash(made) == hash(UUID(str(made)))
    assert made != ids.random_id()
    assert ids.digest_id(b"0123456789abcdefXXXX") == UUID(bytes=b"0123456789abcdef")
