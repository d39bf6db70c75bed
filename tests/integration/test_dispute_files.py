"""Chargebacks in settlement files: each line speaks for one movement of a dispute, or opens it, and none twice."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.integration.outside import CALLER, checkout
from tests.integration.test_reconciliation import Desk, kinds, lines

from coatcheck.disputes import DisputeQuery, DisputeView
from coatcheck.money import format_amount
from coatcheck.providers.disputes import DisputeNews
from coatcheck.store import Store

FEE = 1500


@pytest.fixture
async def desk(store: Store, tmp_path: Path) -> Desk:
    made = Desk(store, tmp_path)
    await made.world.pay(checkout("c1", "o1"))
    return made


def open_dispute(desk: Desk, **more: Any) -> str:
    (charge,) = desk.psp.bank.page(0, 1)
    return str(desk.psp.bank.disputes.open(msgspec.json.encode({"charge": charge.id, **more})).id)


def change(desk: Desk, dispute_id: str, verb: str, **body: Any) -> None:
    desk.psp.bank.disputes.change(dispute_id, verb, msgspec.json.encode(body))


def summed(header: str, *changed: str) -> str:
    """A file of these lines, with an end that agrees with them, also where it is below zero."""
    rows = [line.rstrip("\n").split(",") for line in changed]
    cents = [sum(int(row[place].replace(".", "")) for row in rows if row[2] != "payout") for place in (8, 9, 10)]
    sums = ",".join(format_amount(each, "EUR") for each in cents)
    return "".join((header, *changed, f"{rows[0][0]},{len(rows)},end,,,,,EUR,{sums}\n"))


async def ask(desk: Desk) -> None:
    """Hear of all disputes, as events would have it."""
    line = desk.world.gateway.correspondence
    for each in desk.psp.bank.disputes.page(0, 100):
        hint = DisputeNews(
            provider="simulator", mode=CALLER.mode, provider_reference=each.id, type="hint", is_hint=True
        )
        assert await line.hear(hint) is not None


async def disputes(desk: Desk) -> list[DisputeView]:
    return await desk.world.gateway.disputes.find(DisputeQuery())


async def test_event_first_then_file(desk: Desk) -> None:
    open_dispute(desk)
    await ask(desk)
    booked = await desk.world.count("transfer")
    report = await desk.take(desk.close()[0])
    assert kinds(report) == []
    assert await desk.world.count("transfer", "kind IN ('chargeback', 'dispute_fee')") == 2
    assert await desk.world.count("transfer") == booked + 2  # the fee of the charge, and the payout
    assert "psp_receivable" not in await desk.world.balances()
    assert (await desk.balances())["platform_psp_fees"] == 25
    assert (await desk.world.balances())["platform_dispute_fees"] == FEE
    ((moved,),) = [view.movements for view in await disputes(desk)]
    assert moved.is_settled
    assert await desk.world.violations() == {}


async def test_file_first_then_event(desk: Desk) -> None:
    dispute_id = open_dispute(desk, reason="fraudulent")
    report = await desk.take(desk.close()[0])
    assert kinds(report) == []
    (view,) = await disputes(desk)
    assert (view.provider_reference, view.status, view.reason) == (dispute_id, "NEEDS_RESPONSE", None)
    assert (await desk.world.refund("o1", 100)).verdict == "disputed"
    before = await desk.world.count("transfer")
    await ask(desk)
    (view,) = await disputes(desk)
    assert (view.reason, len(view.movements)) == ("fraudulent", 1)
    assert await desk.world.count("transfer") == before
    assert "psp_receivable" not in await desk.world.balances()
    assert await desk.world.violations() == {}


async def test_what_only_a_file_has_told_is_asked_about_at_once(desk: Desk) -> None:
    dispute_id = open_dispute(desk)
    await desk.take(desk.close()[0])
    change(desk, dispute_id, "review")
    assert await desk.world.gateway.correspondence.tend_once(10) == 1
    (view,) = await disputes(desk)
    assert view.status == "UNDER_REVIEW"


@pytest.mark.parametrize("hears", [[], [0], [1], [2], [0, 1, 2]])
async def test_won_then_reopened_is_three_movements_whoever_tells_first(desk: Desk, hears: list[int]) -> None:
    """A file after each step; events are heard after some of them, in the end once."""
    dispute_id = open_dispute(desk)
    for step, verb in enumerate(["", "win", "reopen"]):
        desk.world.clock.advance(timedelta(days=1))
        if verb:
            change(desk, dispute_id, verb)
        if step in hears:
            await ask(desk)
        assert kinds(await desk.take(desk.close()[0], f"{step}.csv")) == []
    await ask(desk)
    (view,) = await disputes(desk)
    assert [moved.gross_minor for moved in view.movements] == [-1000, 1000, -1000]
    assert all(moved.is_settled for moved in view.movements)
    assert (await desk.world.balances())["platform_dispute_fees"] == 2 * FEE
    assert "psp_receivable" not in await desk.world.balances()
    assert await desk.world.violations() == {}


async def test_files_alone_free_an_order_whose_money_came_back(desk: Desk) -> None:
    dispute_id = open_dispute(desk)
    await desk.take(desk.close()[0], "1.csv")
    change(desk, dispute_id, "win", return_fee=True)
    await desk.take(desk.close()[0], "2.csv")
    (view,) = await disputes(desk)
    assert view.status == "WON"
    assert "platform_dispute_fees" not in await desk.world.balances()
    assert (await desk.world.refund("o1", 100)).verdict == "requested"
    assert await desk.world.violations() == {}


async def test_D7_a_chargeback_in_another_currency_has_accounts_of_its_own(desk: Desk) -> None:
    open_dispute(desk, amount=1085, currency="USD")
    for number, text in enumerate(desk.close()):
        assert kinds(await desk.take(text, f"{number}.csv")) == []
    rows = await desk.world.store.pool.fetch(
        "SELECT name, debits_posted_minor - credits_posted_minor AS balance FROM account WHERE currency = 'USD'"
    )
    books = {row["name"]: row["balance"] for row in rows if row["balance"]}
    assert books == {
        "seller:seller-o1:pending": 1085,
        "platform:dispute_fees": FEE,
        "psp:simulator:payouts_in_transit": -1085 - FEE,
    }
    assert await desk.world.violations() == {}


async def test_H1_a_line_told_twice_is_a_duplicate_and_stands_in_suspense(desk: Desk) -> None:
    open_dispute(desk)
    header, charge, chargeback, *_ = lines(desk.close()[0])
    report = await desk.take(summed(header, charge, chargeback, chargeback.replace(",2,chargeback", ",3,chargeback")))
    assert kinds(report) == ["duplicate_line"]
    assert await desk.world.count("transfer", "kind = 'chargeback'") == 1
    assert (await desk.balances())["suspense"] == 1000
    assert await desk.world.violations() == {}


async def test_another_amount_than_the_event_s_is_a_break_of_the_difference(desk: Desk) -> None:
    open_dispute(desk)
    await ask(desk)
    header, charge, chargeback, *_ = lines(desk.close()[0])
    other = chargeback.replace("-10.00,15.00,-25.00", "-9.00,15.00,-24.00")
    assert other != chargeback
    report = await desk.take(summed(header, charge, other))
    (found,) = report.mismatches
    assert (found.kind, found.expected_minor, found.stated_minor, found.suspense_minor) == ("amount", -1000, -900, 100)
    assert (await desk.balances())["suspense"] == -100
    assert await desk.world.violations() == {}


async def test_a_fee_that_no_event_told_of_is_the_psp_s(desk: Desk) -> None:
    """Adyen's events name no fee: the file's is booked with the PSP's, and nothing twice."""
    open_dispute(desk, fee=0)
    await ask(desk)
    header, charge, chargeback, *_ = lines(desk.close()[0])
    dearer = chargeback.replace("-10.00,0.00,-10.00", "-10.00,15.00,-25.00")
    assert dearer != chargeback
    payout = ",".join([charge.split(",")[0], "3", "payout", "po_1", "", "", "2026-03-01T12:00:00Z", "EUR"])
    report = await desk.take(summed(header, charge, dearer, f"{payout},15.25,0.00,15.25\n"))
    assert kinds(report) == []
    assert (await desk.balances())["platform_psp_fees"] == 25 + FEE
    assert "psp_receivable" not in await desk.world.balances()
    assert await desk.world.violations() == {}


async def test_a_chargeback_of_a_charge_that_is_not_ours_is_unexplained(desk: Desk) -> None:
    open_dispute(desk)
    header, charge, chargeback, *_ = lines(desk.close()[0])
    foreign = chargeback.replace(",ch_", ",ch_9").replace(",op_", ",their_")
    report = await desk.take(summed(header, charge, foreign))
    assert kinds(report) == ["unexplained"]
    assert await desk.world.count("dispute") == 0
    assert await desk.world.violations() == {}


async def test_H4_a_batch_that_is_issued_again_speaks_for_its_chargeback_once(desk: Desk) -> None:
    open_dispute(desk)
    header, charge, chargeback, *_ = lines(desk.close()[0])
    await desk.take(summed(header, charge, chargeback), "first.csv")
    late = chargeback.replace("T12:00:00Z", "T12:00:01Z")
    assert late != chargeback
    assert kinds(await desk.take(summed(header, charge, late), "again.csv")) == []
    assert await desk.world.count("transfer", "kind = 'chargeback'") == 1
    gone = await desk.take(summed(header, charge), "without.csv")
    assert gone.is_clean
    (left,) = await desk.world.store.pool.fetch(
        "SELECT kind, expected_minor, detail FROM reconciliation_break WHERE closed_at IS NULL"
    )
    assert (left["kind"], left["expected_minor"]) == ("missing_at_psp", -1000)
    assert "issued again without it" in left["detail"]
    assert await desk.world.count("settled_movement") == 0
    assert await desk.world.violations() == {}


async def test_H7_money_that_no_file_has_is_asked_for_and_was_only_late(desk: Desk) -> None:
    open_dispute(desk)
    await ask(desk)
    header, charge, chargeback, *_ = lines(desk.close()[0])
    await desk.take(summed(header, charge), "1.csv")
    desk.world.clock.advance(timedelta(days=6))
    await desk.world.pay(checkout("c2", "o2"), "k2")
    await desk.take(desk.close()[0], "2.csv")
    open_breaks = "SELECT expected_minor, detail FROM reconciliation_break WHERE closed_at IS NULL"
    (found,) = await desk.world.store.pool.fetch(open_breaks)
    assert (found["expected_minor"], found["detail"].split()[0]) == (-1000, "chargeback")
    late = chargeback.replace("st_000001", "st_000003").replace(",2,chargeback", ",1,chargeback")
    assert kinds(await desk.take(summed(header, late), "3.csv")) == []
    assert await desk.world.store.pool.fetch(open_breaks) == []
    assert await desk.world.violations() == {}


async def test_a_psp_that_names_each_movement_anew_still_ends_its_dispute(desk: Desk) -> None:
    """PayPal's way: the reversal has an id of its own, and only one dispute of the order waits for that money."""
    dispute_id = open_dispute(desk)
    await desk.take(desk.close()[0], "1.csv")
    desk.world.clock.advance(timedelta(days=1))
    change(desk, dispute_id, "win")
    text = desk.close()[0].replace(dispute_id, "reversal_1")
    assert kinds(await desk.take(text, "2.csv")) == []
    (view,) = await disputes(desk)
    assert [moved.gross_minor for moved in view.movements] == [-1000, 1000]
    assert view.status == "WON"
    assert await desk.world.violations() == {}
