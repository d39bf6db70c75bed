"""What the simulated PSP keeps: keys with a window that ends, and books that cannot be fooled."""

import msgspec
import pytest

from coatcheck.simulator.bank import Bank, Charge, ChargeBody, Entry, Merchant, Refusal


class Time:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def entries() -> list[Entry]:
    return []


@pytest.fixture
def bank(time: Time, entries: list[Entry]) -> Bank:
    return Bank(clock=time, key_window_s=60, record=entries.append)


@pytest.fixture
def shop(bank: Bank) -> Merchant:
    return bank.merchant("shop", is_live=False)


def take(
    bank: Bank,
    merchant: Merchant,
    *,
    reference: str = "op_1",
    key: str | None = "k1",
    amount: int = 100,
    currency: str = "EUR",
    status: str = "succeeded",
    busy_s: float = 0,
    is_error: bool = False,
) -> Charge:
    body = ChargeBody(amount, currency, "tok_approve", reference)
    return bank.charge(
        merchant, body, status=status, decline_code=None, key=key, digest="d1", is_error=is_error, busy_s=busy_s
    )


def test_a_key_replays_its_answer_inside_the_window(bank: Bank, shop: Merchant, time: Time) -> None:
    charge = take(bank, shop)
    time.now += 59.9
    remembered = bank.recall(shop, "k1", "d1")
    assert remembered is not None
    assert remembered.answer == charge


def test_A3_a_key_is_forgotten_when_the_window_is_over(bank: Bank, shop: Merchant, time: Time) -> None:
    take(bank, shop)
    time.now += 60
    assert bank.recall(shop, "k1", "d1") is None
    # Another body is no misuse any more: nobody remembers the first.
    assert bank.recall(shop, "k1", "other") is None


def test_a_key_used_for_another_body_is_refused(bank: Bank, shop: Merchant) -> None:
    take(bank, shop)
    with pytest.raises(Refusal) as refused:
        bank.recall(shop, "k1", "other")
    assert (refused.value.status, refused.value.code) == (422, "idempotency_key_reused")


def test_a_key_whose_first_request_still_runs_is_refused(bank: Bank, shop: Merchant, time: Time) -> None:
    take(bank, shop, busy_s=2)
    with pytest.raises(Refusal) as refused:
        bank.recall(shop, "k1", "d1")
    assert (refused.value.status, refused.value.code) == (409, "idempotency_key_in_use")
    time.now += 2
    assert bank.recall(shop, "k1", "d1") is not None


def test_keys_belong_to_an_account_and_a_mode(bank: Bank, shop: Merchant) -> None:
    take(bank, shop)
    assert bank.recall(bank.merchant("other", is_live=False), "k1", "d1") is None
    assert bank.recall(bank.merchant("shop", is_live=True), "k1", "d1") is None
    assert bank.merchant("shop", is_live=False) is shop


def test_a_replay_keeps_saying_what_was_first_said(bank: Bank, shop: Merchant) -> None:
    charge = take(bank, shop, status="pending")
    bank.settle(charge.id, "succeeded")
    remembered = bank.recall(shop, "k1", "d1")
    assert remembered is not None
    assert remembered.answer.status == "pending"
    found = bank.find(shop, charge.id)
    assert found is not None
    assert found.status == "succeeded"


def test_the_books_count_only_what_succeeded(bank: Bank, shop: Merchant) -> None:
    take(bank, shop, reference="op_1", key="k1", amount=100)
    take(bank, shop, reference="op_2", key="k2", amount=50)
    take(bank, shop, reference="op_3", key="k3", amount=7, currency="JPY")
    take(bank, shop, reference="op_4", key="k4", amount=1000, status="declined")
    take(bank, shop, reference="op_5", key="k5", amount=1000, status="pending")
    books = bank.books()
    assert books["totals"] == {"EUR": {"count": 2, "amount": 150}, "JPY": {"count": 1, "amount": 7}}
    assert books["statuses"] == {"succeeded": 3, "declined": 1, "pending": 1}
    assert (books["charges"], books["charged_twice"]) == (5, [])


def test_the_books_name_every_reference_charged_twice_once(bank: Bank, shop: Merchant) -> None:
    for key in ("k1", "k2", "k3"):
        take(bank, shop, reference="op_1", key=key)
    take(bank, shop, reference="op_2", key="k4")
    take(bank, shop, reference="op_2", key="k5", status="declined")
    assert bank.books()["charged_twice"] == ["op_1"]
    assert bank.references("succeeded") == {"op_1": (3, 300, "EUR"), "op_2": (1, 100, "EUR")}


def test_two_accounts_charging_one_reference_are_charged_twice(bank: Bank, shop: Merchant) -> None:
    take(bank, shop)
    take(bank, bank.merchant("other", is_live=False), currency="USD")
    assert bank.books()["charged_twice"] == ["op_1"]
    assert bank.references(None) == {"op_1": (2, 200, "mixed")}


def test_a_pending_charge_that_succeeds_second_is_charged_twice(bank: Bank, shop: Merchant) -> None:
    take(bank, shop, key="k1")
    pending = take(bank, shop, key="k2", status="pending")
    assert bank.books()["charged_twice"] == []
    bank.settle(pending.id, "succeeded")
    assert bank.books()["charged_twice"] == ["op_1"]


def test_a_charge_is_decided_once(bank: Bank, shop: Merchant) -> None:
    charge = take(bank, shop, status="pending")
    declined = bank.settle(charge.id, "declined", "card_declined")
    assert (declined.status, declined.decline_code) == ("declined", "card_declined")
    with pytest.raises(Refusal) as refused:
        bank.settle(charge.id, "succeeded")
    assert refused.value.status == 409
    with pytest.raises(Refusal) as unknown:
        bank.settle("ch_none", "succeeded")
    assert unknown.value.status == 404


def test_the_search_lists_newest_first_and_may_lag(bank: Bank, shop: Merchant, time: Time) -> None:
    first = take(bank, shop, key="k1")
    time.now += 5
    second = take(bank, shop, key="k2")
    assert bank.search(shop, "op_1") == [second, first]
    assert bank.search(shop, "op_1", lag_s=3) == [first]
    assert bank.search(shop, "op_9") == []
    assert bank.search(bank.merchant("other", is_live=False), "op_1") == []
    assert bank.find(bank.merchant("other", is_live=False), first.id) is None


def test_pages_cover_all_charges(bank: Bank, shop: Merchant) -> None:
    made = [take(bank, shop, reference=f"op_{number}", key=f"k{number}") for number in range(5)]
    assert bank.page(0, 2) + bank.page(2, 2) + bank.page(4, 2) == made
    assert bank.page(5, 2) == []


def test_forgetting_and_resetting(bank: Bank, shop: Merchant) -> None:
    first = take(bank, shop)
    assert bank.forget_keys() == 1
    assert bank.recall(shop, "k1", "d1") is None
    assert bank.charge_count == 1
    bank.reset()
    assert (bank.charge_count, bank.books()["totals"]) == (0, {})
    # An id is never given twice, so that nobody takes a new charge for an old one.
    assert take(bank, bank.merchant("shop", is_live=False)).id != first.id


def test_the_journal_rebuilds_everything(bank: Bank, shop: Merchant, time: Time, entries: list[Entry]) -> None:
    take(bank, shop, key="gone")
    bank.forget_keys()
    pending = take(bank, shop, key="k1", status="pending")
    take(bank, shop, key="k2", reference="op_2", is_error=True)
    take(bank, shop, key=None, reference="op_3")
    bank.settle(pending.id, "succeeded")

    rebuilt = Bank(clock=time, key_window_s=60)
    for line in [msgspec.json.encode(entry) for entry in entries]:
        rebuilt.apply(msgspec.json.decode(line, type=Entry))

    assert rebuilt.books() == bank.books()
    assert rebuilt.page(0, 10) == bank.page(0, 10)
    assert rebuilt.merchant("shop", is_live=False).keys == shop.keys
    assert take(rebuilt, shop, key="k9").id == take(bank, shop, key="k9").id
