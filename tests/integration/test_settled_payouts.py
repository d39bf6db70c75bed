"""Payouts to sellers in a PSP's settlement file: what it paid out of its balance with us, and what came back to it."""

from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from tests.integration.outside import CALLER, approved, declined, unknown
from tests.integration.payees import house, pay_out, payout_of
from tests.integration.psp_files import Row
from tests.integration.test_bank_statements import statement
from tests.integration.test_psp_files import Office, called, office_of
from tests.integration.test_reconciliation import kinds
from tests.integration.test_reconciliation_parts import open_breaks

from coatcheck.ids import OPERATION, print_id
from coatcheck.payouts import PayoutAnswer
from coatcheck.payouts.commits import payout_operation_id
from coatcheck.providers.outcome import Outcome
from coatcheck.providers.protocol import Intent
from coatcheck.reconciliation.ageing import read_ageing
from coatcheck.states import OperationKind
from coatcheck.store import Store

DUE = 4500  # of an order of 50.00 with a commission of a tenth
FEES = {"platform:psp_fees EUR": 100}


@pytest.fixture
async def office(store: Store, tmp_path: Path) -> Office:
    """Stripe's, with a seller whose 45.00 are available: their charge is settled, and their time has come."""
    desk = office_of("stripe", store, tmp_path, rules={"status": "correct", "missing_here": "queue"})
    charge = Row(kind="charge", name="A1", reference=await desk.charge("A1"), gross=5000, fee=100)
    assert (await desk.take(charge)).is_clean
    assert (await desk.bank(4900)).is_clean
    desk.world.clock.advance(timedelta(days=30))
    await desk.world.gateway.maturing.mature_once()
    await house(desk.world, "seller-A1", "acct_a")
    return desk


def returned(intent: Intent) -> Outcome:
    return msgspec.structs.replace(declined(intent), decline_code="reversed", provider_reference="tr_1")


async def paid(office: Office, minor: int | None = None, answer: object = approved) -> PayoutAnswer:
    office.provider.acts.setdefault(OperationKind.PAYOUT, []).append(called("tr_1", answer))  # type: ignore[arg-type]
    return await pay_out(office.world, minor, seller="seller-A1")


def transfer_of(made: PayoutAnswer, minor: int = DUE, *, name: str = "tr_1", back: bool = False) -> Row:
    reference = print_id(OPERATION, payout_operation_id(made.payout_id))
    kind = "transfer_reversal" if back else "transfer"
    return Row(kind=kind, name=name, reference=reference, gross=minor if back else -minor)


async def status_of(office: Office, made: PayoutAnswer) -> str:
    return (await payout_of(office.world, made)).status


async def test_H9_what_sellers_were_paid_is_in_the_file_and_the_receivable_returns_to_zero(office: Office) -> None:
    bank = "bank:DE02120300000000202051 EUR"
    made = await paid(office)
    assert await status_of(office, made) == "PAID"
    assert await office.standing() == FEES | {bank: 4900, "psp:receivable EUR": -DUE}
    charge = Row(kind="charge", name="B2", reference=await office.charge("B2"), gross=5000)
    report = await office.take(charge, transfer_of(made), batch="2", name="second.csv")
    assert (kinds(report), report.matched) == ([], 2)
    assert [each.payout_minor for each in report.totals] == [5000 - DUE]
    assert (await office.bank(5000 - DUE, batch="2")).is_clean
    assert await office.standing() == FEES | {bank: 4900 + 5000 - DUE}
    await office.is_true()


async def test_D10_a_payout_that_came_back_has_a_line_for_each_way(office: Office) -> None:
    made = await paid(office)
    assert (await office.take(transfer_of(made), batch="2", name="second.csv")).is_clean
    office.provider.look_ups.append(returned)
    back = await office.take(transfer_of(made, name="trr_1", back=True), batch="3", name="third.csv")
    assert (kinds(back), await open_breaks(office), await status_of(office, made)) == (["status"], [], "RETURNED")
    assert "psp:receivable EUR" not in await office.standing()
    await office.is_true()


async def test_G8_a_payout_of_unknown_outcome_is_decided_by_the_file(office: Office) -> None:
    made = await paid(office, answer=unknown)
    assert await status_of(office, made) == "PENDING"
    report = await office.take(transfer_of(made), batch="2", name="second.csv")
    assert (kinds(report), await open_breaks(office), await status_of(office, made)) == (["status"], [], "PAID")
    await office.is_true()


async def test_H5_a_transfer_of_another_amount_is_a_break_of_the_difference(office: Office) -> None:
    made = await paid(office)
    report = await office.take(transfer_of(made, DUE + 70), batch="2", name="second.csv")
    assert kinds(report) == ["amount"]
    (told,) = report.mismatches
    assert (told.expected_minor, told.stated_minor) == (-DUE, -DUE - 70)
    assert (await office.standing())["suspense EUR"] == 70
    await office.is_true()


async def test_H5_a_transfer_that_nobody_here_made_is_missing_here(office: Office) -> None:
    report = await office.take(Row(kind="transfer", name="tr_9", gross=-300), batch="2", name="second.csv")
    assert kinds(report) == ["missing_here"]
    assert (await office.standing())["suspense EUR"] == 300
    await office.is_true()


async def test_H1_what_the_psp_paid_out_of_its_balance_is_not_found_at_the_bank_as_well(office: Office) -> None:
    made = await paid(office)
    named = print_id(OPERATION, payout_operation_id(made.payout_id))
    report = await office.arrive(statement(("-45.00", f"tr_1 {named}")), "debit.xml")
    assert kinds(report) == ["unexplained"]
    standing = await office.standing()
    assert (standing["suspense:bank EUR"], standing["psp:receivable EUR"]) == (DUE, -DUE)
    assert "bank EUR" not in standing  # of "bank:stripe", on which it never stood
    await office.is_true()


async def test_H5_a_payout_that_no_file_has_is_missing_at_the_psp_and_has_an_age(office: Office) -> None:
    await paid(office)
    ageing = await read_ageing(office.world.store, office.world.clock, CALLER.shop_id, CALLER.mode)
    assert [(part.part, sum(part.aged_minor)) for each in ageing.accounts for part in each.parts] == [
        ("unsettled_records", -DUE)
    ]
    office.world.clock.advance(timedelta(days=20))
    later = Row(kind="charge", name="B2", reference=await office.charge("B2"), gross=5000)
    at = f"{office.world.clock.now():%Y-%m-%d %H:%M:%S}"
    text = office.psp.write([later], "2").replace("2026-03-01 13:00:01", at)
    assert (await office.arrive(text, "second.csv")).is_clean
    assert await open_breaks(office) == [("missing_at_psp", 0)]
    await office.is_true()
