"""The ageing of the clearing accounts: what stands there is named and dated, and comes to the balance to the cent."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from tests.integration.arriving import ArrivalDesk
from tests.integration.outside import CALLER, checkout
from tests.integration.test_bank_statements import statement
from tests.integration.test_reconciliation import lines, summed

from coatcheck.ids import account_id_of, time_ordered_ids
from coatcheck.ledger import (
    Account,
    AccountName,
    Ledger,
    PostOutcome,
    Transfer,
    bank,
    payouts_in_transit,
    psp_receivable,
    seller_available,
)
from coatcheck.reconciliation.ageing import Ageing, read_ageing
from coatcheck.states import Mode
from coatcheck.store import Store

RECEIVABLE, TRANSIT, SUSPENSE = "psp:simulator:receivable", "psp:simulator:payouts_in_transit", "suspense:simulator"


@pytest.fixture
def desk(store: Store, tmp_path: Path) -> ArrivalDesk:
    return ArrivalDesk(store, tmp_path)


async def aged(desk: ArrivalDesk) -> Ageing:
    """Read the ageing, and hold it against the trial balance: nothing is lost, and nothing is undated."""
    world = desk.world
    found = await read_ageing(world.store, world.clock, CALLER.shop_id, CALLER.mode)
    balances = {
        (account.name, balance.currency): account.balance_minor
        for balance in await Ledger(world.store).trial_balance(CALLER.shop_id, CALLER.mode)
        for account in balance.accounts
        if account.kind in ("psp_receivable", "psp_payouts_in_transit", "suspense", "payouts_in_transit")
    }
    assert {key: minor for key, minor in balances.items() if minor} == {
        (each.name, each.currency): each.balance_minor for each in found.accounts if each.balance_minor
    }
    for each in found.accounts:
        assert sum(each.aged_minor) + each.undated_minor == each.balance_minor
        assert each.undated_minor == 0
    return found


def parts_of(ageing: Ageing, name: str, currency: str = "EUR") -> Mapping[str, tuple[int, list[int]]]:
    """What makes up an account: how many, and their sums by age."""
    (account,) = [each for each in ageing.accounts if (each.name, each.currency) == (name, currency)]
    return {part.part: (part.items, list(part.aged_minor)) for part in account.parts}


async def test_H9_what_no_file_has_is_aged_by_when_it_was_decided(desk: ArrivalDesk) -> None:
    world = desk.world
    await world.pay(checkout("c1", "o1", "o2"))
    world.clock.advance(timedelta(days=32))
    await world.pay(checkout("c2", "o3"), "k2")
    world.clock.advance(timedelta(days=4))
    await world.refund("o1", 300)
    world.clock.advance(timedelta(days=2))
    await world.pay(checkout("c3", "o4"), "k3")
    ageing = await aged(desk)
    assert parts_of(ageing, RECEIVABLE) == {"unsettled_records": (5, [1000, -300, 1000, 2000])}
    assert ageing.breaks == []


@pytest.mark.parametrize(
    ("age", "place"),
    [
        (timedelta(days=1, hours=23), 0),
        (timedelta(days=2), 1),
        (timedelta(days=5, hours=23), 1),
        (timedelta(days=6), 2),
        (timedelta(days=30, hours=23), 2),
        (timedelta(days=31), 3),
    ],
)
async def test_H9_an_age_is_counted_in_whole_days(desk: ArrivalDesk, age: timedelta, place: int) -> None:
    await desk.world.pay(checkout("c1", "o1"))
    desk.world.clock.advance(age)
    (_, sums) = parts_of(await aged(desk), RECEIVABLE)["unsettled_records"]
    assert sums == [1000 if each == place else 0 for each in range(4)]


async def test_H9_a_payout_is_in_transit_until_a_bank_has_it(desk: ArrivalDesk) -> None:
    await desk.world.pay(checkout("c1", "o1"))
    await desk.arrive(desk.close()[0])
    desk.world.clock.advance(timedelta(days=3))
    ageing = await aged(desk)
    assert parts_of(ageing, TRANSIT) == {"unconfirmed_payouts": (1, [0, 975, 0, 0])}
    assert [each.name for each in ageing.accounts] == [TRANSIT]
    await desk.arrive(statement(("9.75", "po_000001")), "statement.xml")
    assert (await aged(desk)).accounts == []


async def test_H9_what_was_told_of_and_not_paid_out_is_a_batch_s(desk: ArrivalDesk) -> None:
    await desk.world.pay(checkout("c1", "o1"))
    header, charge, *_ = lines(desk.close()[0])
    await desk.arrive(summed(header, charge))
    desk.world.clock.advance(timedelta(days=7))
    assert parts_of(await aged(desk), RECEIVABLE) == {"batches_not_paid_out": (1, [0, 0, 975, 0])}


async def test_H9_breaks_stand_in_suspense_until_they_are_explained(desk: ArrivalDesk) -> None:
    await desk.world.pay(checkout("c1", "o1", "o2"))
    header, one, two, *_ = lines(desk.close()[0])
    foreign = one.replace(",1,charge,", ",3,charge,").replace("ch_0", "ch_9").replace(",op_", ",their_")
    report = await desk.arrive(
        summed(header, one, two.replace("10.00,0.25,9.75", "12.00,0.25,11.75"), foreign), "strange.csv"
    )
    desk.world.clock.advance(timedelta(days=2))
    ageing = await aged(desk)
    assert parts_of(ageing, SUSPENSE) == {"open_breaks": (2, [0, -1200, 0, 0])}
    assert parts_of(ageing, RECEIVABLE) == {"batches_not_paid_out": (1, [0, 3200 - 75, 0, 0])}
    assert {each.kind: list(each.aged) for each in ageing.breaks} == {
        "amount": [0, 1, 0, 0],
        "missing_here": [0, 1, 0, 0],
    }
    await desk.corrections.close([each.break_id for each in report.mismatches], "person ada", "looked into")
    desk.world.clock.advance(timedelta(days=6))
    ageing = await aged(desk)
    assert parts_of(ageing, RECEIVABLE) == {
        "batches_not_paid_out": (1, [0, 0, 3200 - 75, 0]),
        "explained_breaks": (2, [0, 0, -1200, 0]),
    }
    assert ageing.breaks == []


async def test_H9_a_record_that_the_file_has_decided_is_the_batch_s(store: Store, tmp_path: Path) -> None:
    desk = ArrivalDesk(store, tmp_path, dial={"drop_after_charge_share": 1.0}, retry_budget_attempts=1)
    await desk.world.pay(checkout("c1", "o1"))
    header, charge, *_ = lines(desk.close()[0])
    await desk.arrive(summed(header, charge))
    ageing = await aged(desk)
    assert parts_of(ageing, RECEIVABLE) == {"batches_not_paid_out": (1, [975, 0, 0, 0])}


async def test_H9_a_status_that_waits_stands_in_suspense(store: Store, tmp_path: Path) -> None:
    desk = ArrivalDesk(
        store,
        tmp_path,
        dial={"drop_after_charge_share": 1.0},
        retry_budget_attempts=1,
        break_rules={"status": "queue"},
    )
    await desk.world.pay(checkout("c1", "o1"))
    await desk.arrive(desk.close()[0])
    ageing = await aged(desk)
    assert parts_of(ageing, SUSPENSE) == {"open_breaks": (1, [-1000, 0, 0, 0])}


async def test_H9_a_refund_that_came_back_is_told_of_twice(desk: ArrivalDesk) -> None:
    world, gateway = desk.world, desk.world.gateway
    await world.pay(checkout("c1", "o1"))
    await world.refund("o1", 300)
    (row,) = await world.store.pool.fetch(
        "SELECT operation_id, provider_reference FROM operation WHERE kind = 'refund'"
    )
    desk.psp.bank.fail_refund(row["provider_reference"])
    await gateway.executor.start(await gateway.operations.reopen([row["operation_id"]], "it may have come back"))
    assert await desk.events("refund.returned") == ["refund.returned"]
    ageing = await aged(desk)
    assert parts_of(ageing, RECEIVABLE) == {"unsettled_records": (3, [1000, 0, 0, 0])}
    (text,) = desk.close()
    assert (await desk.arrive(text)).is_clean
    assert [each.name for each in (await aged(desk)).accounts] == [TRANSIT]


async def test_payouts_to_sellers_are_aged_by_what_they_are_about(desk: ArrivalDesk) -> None:
    world = desk.world
    ledger = Ledger(world.store)
    names = psp_receivable("other"), seller_available("s"), payouts_in_transit("s"), bank("b")
    accounts = [Account(CALLER.shop_id, CALLER.mode, name, "EUR") for name in names]
    await ledger.open_accounts(accounts, world.clock.now())

    async def move(debit: AccountName, credit: AccountName, minor: int, about: int) -> None:
        at = world.clock.now()
        (transfer_id,) = time_ordered_ids(at, 1)
        debit_id, credit_id = (account_id_of(CALLER.shop_id, CALLER.mode, each.name, "EUR") for each in (debit, credit))
        transfer = Transfer(
            transfer_id=transfer_id,
            kind="charge",
            debit_account_id=debit_id,
            credit_account_id=credit_id,
            amount_minor=minor,
            currency="EUR",
            subject_id=UUID(int=about),
        )
        assert await ledger.post([transfer], at) == [PostOutcome.POSTED]

    await move(names[0], names[1], 5000, 0)
    await move(names[1], names[2], 1000, 1)
    world.clock.advance(timedelta(days=10))
    await move(names[1], names[2], 700, 2)
    await move(names[2], names[3], 1000, 1)  # the first has arrived
    found = await read_ageing(world.store, world.clock, CALLER.shop_id, CALLER.mode)
    assert parts_of(found, "payouts:in_transit:s") == {"payouts_in_transit": (1, [700, 0, 0, 0])}
    # What was posted past every record of ours has a balance and no age.
    (receivable,) = [each for each in found.accounts if each.name == "psp:other:receivable"]
    assert (receivable.balance_minor, receivable.undated_minor, list(receivable.parts)) == (5000, 5000, [])


async def test_E8_currencies_and_worlds_are_kept_apart(desk: ArrivalDesk) -> None:
    await desk.world.pay(checkout("c1", "o1"))
    other = await read_ageing(desk.world.store, desk.world.clock, CALLER.shop_id, Mode.LIVE)
    assert (other.accounts, other.breaks) == ([], [])
