"""Bank entries and payouts find each other, whichever is told of first: by what they name, and each once."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from tests.integration.arriving import ArrivalDesk
from tests.integration.outside import CALLER, checkout
from tests.integration.test_bank_statements import statement
from tests.integration.test_nightly import nobody_writes
from tests.integration.test_reconciliation import kinds, lines, summed
from tests.integration.test_replay import differences_of

from coatcheck.reconciliation.ageing import read_ageing
from coatcheck.reconciliation.bank_statements import BankStatements
from coatcheck.reconciliation.breaks import BreakQuery, Destination, Explanation
from coatcheck.reconciliation.nightly import Nightly, NightlyPlan
from coatcheck.store import Store

ALL = BreakQuery()
SUMS = ("psp_receivable", "psp_payouts_in_transit", "bank", "suspense")
SAID = Explanation(destination=Destination.PAYOUT, note="their payout", evidence="their mail", account="simulator")


class BankDesk(ArrivalDesk):
    """A desk where files and statements arrive in any order."""

    async def payout_file(self) -> str:
        """Two orders are paid, and the PSP pays out 19.50 as po_000001 of st_000001."""
        await self.world.pay(checkout("c1", "o1", "o2"))
        (text,) = self.close()
        return text

    async def standing(self) -> dict[str, int]:
        """What stands between the PSP and the bank. All else that must hold is looked at, too."""
        assert await self.world.violations() == {}
        assert await differences_of(self.world.store) == []
        found = await self.world.balances()
        ageing = await read_ageing(self.world.store, self.world.clock, CALLER.shop_id, CALLER.mode)
        assert [each.name for each in ageing.accounts if each.undated_minor] == []
        return {kind: found[kind] for kind in SUMS if kind in found}

    async def only_break(self) -> UUID:
        found: UUID = await self.world.store.pool.fetchval("SELECT break_id FROM reconciliation_break")
        return found

    async def reasons(self) -> list[tuple[str, str]]:
        """Who has closed what, and why."""
        rows = await self.world.store.pool.fetch(
            "SELECT closed_by, reason FROM reconciliation_break WHERE closed_at IS NOT NULL ORDER BY 1, 2"
        )
        return [(row["closed_by"], row["reason"]) for row in rows]


@pytest.fixture
def desk(store: Store, tmp_path: Path) -> BankDesk:
    return BankDesk(store, tmp_path)


def in_parts(text: str, *parts: str) -> str:
    """The PSP's file with several payouts in the place of one: po_000001, po_000002 and so on."""
    header, *charges, payout, _ = lines(text)
    paid = [payout.replace("po_000001", f"po_{n:06}").replace("19.50", part) for n, part in enumerate(parts, start=1)]
    return summed(header, *charges, *paid)


@pytest.mark.parametrize("text", ["Payout po_000001 of the PSP", "settlement st_000001"])
@pytest.mark.parametrize("comes_first", ["settlement", "statement"])
async def test_H9_the_books_are_the_same_whichever_file_comes_first(
    desk: BankDesk, comes_first: str, text: str
) -> None:
    files = {"settlement": await desk.payout_file(), "statement": statement(("19.50", text))}
    for name in sorted(files, key=lambda each: each != comes_first):
        await desk.arrive(files[name], name)
        await desk.standing()
    assert await desk.world.balances() == {
        "bank": 1950,
        "platform_psp_fees": 50,
        "platform_commission": 200,
        "seller_pending": 1800,
    }
    assert await desk.breaks() == []
    assert await desk.standing() == {"bank": 1950}
    before = await desk.world.count("transfer"), await desk.world.count("event")
    for name, file in files.items():
        assert (await desk.arrive(file, f"{name} again")).is_clean
    assert (await desk.world.count("transfer"), await desk.world.count("event")) == before


async def test_H9_an_entry_whose_payout_was_told_of_later_says_so(desk: BankDesk) -> None:
    text = await desk.payout_file()
    report = await desk.arrive(statement(("19.50", "po_000001")), "statement.xml")
    assert kinds(report) == ["unexplained"]
    assert await desk.standing() == {"psp_receivable": 2000, "bank": 1950, "suspense": -1950}
    await desk.arrive(text)
    assert await desk.reasons() == [("coatcheck", "a payout of simulator that was told of later: po_000001")]
    rows = await desk.world.store.pool.fetch(
        "SELECT d.name AS debit, c.name AS credit, t.amount_minor FROM event AS e"
        "  JOIN transfer AS t ON t.transfer_id::text = e.body -> 'transfers' -> 0 ->> 'transfer_id'"
        "  JOIN account AS d ON d.account_id = t.debit_account_id"
        "  JOIN account AS c ON c.account_id = t.credit_account_id"
        " WHERE e.kind = 'break.closed'"
    )
    assert [tuple(row) for row in rows] == [("suspense:bank", "psp:simulator:payouts_in_transit", 1950)]
    again = await desk.arrive(statement(("19.50", "po_000001")), "again.xml")
    (total,) = again.totals
    assert (total.matched, total.settled) == (0, 1)


async def test_H1_a_payout_that_an_earlier_entry_has_got_is_not_got_again(desk: BankDesk) -> None:
    text = await desk.payout_file()
    await desk.arrive(statement(("19.50", "po_000001"), ("19.50", "po_000001")), "statement.xml")
    await desk.arrive(text)
    assert await desk.breaks() == ["unexplained"]
    report = await desk.arrive(statement(("19.50", "st_000001"), ("1.00", "rent")), "later.xml")
    assert kinds(report) == ["duplicate_line", "unexplained"]
    assert await desk.standing() == {"bank": 3 * 1950 + 100, "suspense": -(2 * 1950 + 100)}


async def test_H9_what_a_process_left_undone_is_done_with_the_next_file_and_every_night(
    desk: BankDesk, tmp_path: Path
) -> None:
    text = await desk.payout_file()
    await desk.arrive(statement(("19.50", "po_000001")), "statement.xml")
    await desk.take(text)  # and here the process died
    assert await desk.breaks() == ["unexplained"]
    gateway = desk.world.gateway
    plan = NightlyPlan(shop_id=CALLER.shop_id, mode=CALLER.mode, at=None, directory=tmp_path / "in")
    nightly = Nightly(
        gateway.store, gateway.clock, plan, arrivals=gateway.arrivals, expected=None, settle=nobody_writes
    )
    await nightly.run("ada")
    assert await desk.breaks() == []
    await desk.world.pay(checkout("c2", "o3"), "k2")
    (other,) = desk.close()
    await desk.arrive(statement(("9.75", "po_000002")), "second.xml")
    await desk.take(other, "second.csv")
    await desk.arrive(statement(("1.00", "rent")), "third.xml")
    assert await desk.breaks() == ["unexplained"]
    assert await desk.standing() == {"bank": 1950 + 975 + 100, "suspense": -100}


async def test_H9_an_entry_is_moved_once_by_any_number_that_look_at_once(desk: BankDesk) -> None:
    text = await desk.payout_file()
    await desk.arrive(statement(("19.50", "po_000001")), "statement.xml")
    await desk.take(text)
    others = [BankStatements(desk.world.store, desk.world.clock) for _ in range(4)]
    closed = await asyncio.gather(*[other.match_again(CALLER.shop_id, CALLER.mode) for other in others])
    assert sorted(closed) == [0, 0, 0, 1]
    assert await desk.standing() == {"bank": 1950}


async def test_I1_an_entry_that_is_proposed_to_a_second_person_is_left_alone_until_that_is_over(desk: BankDesk) -> None:
    text = await desk.payout_file()
    await desk.arrive(statement(("19.50", "po_000001")), "statement.xml")
    await desk.world.gateway.breaks.propose(await desk.only_break(), ALL, SAID, "person ada")
    await desk.arrive(text)
    assert await desk.breaks() == ["unexplained"]
    assert await desk.standing() == {"psp_payouts_in_transit": 1950, "bank": 1950, "suspense": -1950}
    desk.world.clock.advance(timedelta(hours=24))
    await desk.arrive(text)
    assert await desk.breaks() == []
    assert await desk.standing() == {"bank": 1950}


async def test_I1_an_entry_that_two_people_have_explained_stays_as_they_said(desk: BankDesk) -> None:
    text = await desk.payout_file()
    await desk.arrive(statement(("19.50", "po_000001")), "statement.xml")
    breaks, break_id = desk.world.gateway.breaks, await desk.only_break()
    proposal = await breaks.propose(break_id, ALL, SAID, "person ada")
    await breaks.confirm(break_id, proposal.proposal_id, ALL, "person bob")
    await desk.arrive(statement(("1.00", "rent")), "later.xml")
    await desk.arrive(text)
    assert await desk.reasons() == [("person ada and person bob", "their payout")]
    assert (await desk.world.balances()).get("psp_payouts_in_transit", 0) == 0
    assert await desk.world.count("matched_entry") == 0
    assert await desk.world.violations() == {}


async def test_H5_an_entry_of_another_amount_is_found_when_the_batch_is_issued_again(desk: BankDesk) -> None:
    header, one, two, payout, _ = lines(await desk.payout_file())
    await desk.arrive(summed(header, one, two, payout.replace("19.50", "19.40")))
    report = await desk.arrive(statement(("19.50", "po_000001")), "statement.xml")
    assert kinds(report) == ["amount"]
    await desk.arrive(summed(header, one, two, payout), "again.csv")
    assert await desk.breaks() == []
    assert await desk.standing() == {"bank": 1950}


async def test_H9_an_entry_is_never_a_payout_by_its_amount_alone(desk: BankDesk) -> None:
    text = await desk.payout_file()
    await desk.arrive(statement(("19.50", "rent"), ("19.50", "po_0000011"), ("19.40", "po_000001")), "statement.xml")
    await desk.arrive(text)
    assert await desk.breaks() == ["unexplained", "unexplained", "unexplained"]
    assert (await desk.standing())["psp_payouts_in_transit"] == 1950


async def both_ways(desk: BankDesk, comes_first: str, files: dict[str, str], statements: Sequence[str]) -> None:
    """Have settlement files and statements arrive, those or these first; each kind in its order."""
    for name in sorted([*files, *statements], key=lambda each: (each in files) != (comes_first == "settlement")):
        await desk.arrive(files.get(name, name), f"{name[:20]}.txt".replace("/", "").replace("<", ""))


FIRST = pytest.mark.parametrize("comes_first", ["settlement", "statement"])


@FIRST
async def test_H9_each_payout_of_a_batch_is_found_by_its_own_name_and_amount(desk: BankDesk, comes_first: str) -> None:
    files = {"settlement": in_parts(await desk.payout_file(), "12.00", "7.50")}
    await both_ways(desk, comes_first, files, [statement(("7.50", "po_000002"), ("12.00", "st_000001 po_000001"))])
    assert await desk.breaks("closed_at IS NULL AND kind <> 'control_total'") == []
    assert await desk.standing() == {"bank": 1950}
    report = await desk.arrive(statement(("7.50", "po_000002 again")), "more.xml")
    assert kinds(report) == ["duplicate_line"]


@FIRST
async def test_H9_a_payout_of_a_batch_leaves_the_others_in_transit(desk: BankDesk, comes_first: str) -> None:
    files = {"settlement": in_parts(await desk.payout_file(), "12.00", "7.50")}
    await both_ways(desk, comes_first, files, [statement(("7.50", "po_000002 of st_000001"))])
    assert await desk.standing() == {"psp_payouts_in_transit": 1200, "bank": 750}
    await desk.arrive(statement(("12.00", "the rest of st_000001")), "rest.xml")
    assert await desk.standing() == {"bank": 1950}


@FIRST
async def test_H9_a_payout_may_come_in_several_entries_of_one_statement_or_more(
    desk: BankDesk, comes_first: str
) -> None:
    files = {"settlement": await desk.payout_file()}
    parts = [statement(("12.00", "po_000001"), ("4.00", "po_000001")), statement(("3.50", "po_000001"))]
    await both_ways(desk, comes_first, files, parts)
    assert await desk.breaks() == []
    assert await desk.standing() == {"bank": 1950}
    report = await desk.arrive(statement(("19.50", "po_000001")), "more.xml")
    assert kinds(report) == ["duplicate_line"]


@FIRST
async def test_H9_entries_that_do_not_sum_up_to_their_payout_are_breaks(desk: BankDesk, comes_first: str) -> None:
    files = {"settlement": await desk.payout_file()}
    parts = statement(("12.00", "po_000001"), ("7.40", "po_000001"), ("7.50", "rent"))
    await both_ways(desk, comes_first, files, [parts])
    assert len(await desk.breaks()) == 3
    assert await desk.standing() == {"psp_payouts_in_transit": 1950, "bank": 2690, "suspense": -2690}


async def test_H9_of_several_ways_one_entry_for_all_goes_first_and_then_the_first_that_came(desk: BankDesk) -> None:
    await desk.arrive(await desk.payout_file())
    entries = [("12.00", "po_000001"), ("7.50", "po_000001"), ("19.50", "po_000001"), ("19.50", "st_000001")]
    report = await desk.arrive(statement(*entries), "statement.xml")
    assert kinds(report) == ["amount", "amount", "duplicate_line"]
    assert [each.stated_minor for each in report.mismatches] == [1200, 750, 1950]


async def test_H9_one_entry_for_a_payout_goes_before_several_for_its_batch(desk: BankDesk) -> None:
    await desk.arrive(in_parts(await desk.payout_file(), "12.00", "7.50"))
    entries = [("10.00", "st_000001"), ("9.50", "st_000001"), ("12.00", "po_000001")]
    report = await desk.arrive(statement(*entries), "statement.xml")
    assert [(each.kind, each.stated_minor) for each in report.mismatches] == [("amount", 1000), ("amount", 950)]
    assert await desk.standing() == {"psp_payouts_in_transit": 750, "bank": 3150, "suspense": -1950}


@FIRST
@pytest.mark.parametrize("text", ["po_000001 po_000002", "st_000001 and st_000002", "po_000001 and st_000002"])
async def test_H9_one_entry_may_be_several_payouts_that_it_names(desk: BankDesk, comes_first: str, text: str) -> None:
    files = {"settlement": await desk.payout_file()}
    await desk.world.pay(checkout("c2", "o3"), "k2")
    (files["second"],) = desk.close()
    await both_ways(desk, comes_first, files, [statement(("29.25", text))])
    assert await desk.breaks() == []
    assert await desk.standing() == {"bank": 2925}
    report = await desk.arrive(statement(("9.75", "po_000002")), "more.xml")
    assert kinds(report) == ["duplicate_line"]


@FIRST
async def test_H9_an_entry_that_names_several_payouts_and_has_another_sum_is_none_of_them(
    desk: BankDesk, comes_first: str
) -> None:
    files = {"settlement": await desk.payout_file()}
    await desk.world.pay(checkout("c2", "o3"), "k2")
    (files["second"],) = desk.close()
    await both_ways(desk, comes_first, files, [statement(("9.75", "po_000001 po_000002"))])
    assert len(await desk.breaks()) == 1
    assert await desk.standing() == {"psp_payouts_in_transit": 2925, "bank": 975, "suspense": -975}


async def test_H4_a_batch_that_is_issued_again_with_other_names_is_not_paid_again(desk: BankDesk) -> None:
    text = await desk.payout_file()
    await desk.arrive(text)
    await desk.arrive(statement(("19.50", "po_000001")), "statement.xml")
    await desk.arrive(text.replace("po_000001", "po_000009"), "again.csv")
    report = await desk.arrive(statement(("19.50", "po_000009")), "more.xml")
    assert kinds(report) == ["duplicate_line"]
    assert await desk.standing() == {"bank": 2 * 1950, "suspense": -1950}


async def test_H9_a_payout_that_the_psp_takes_back_from_the_bank_is_matched_too(desk: BankDesk) -> None:
    """A negative payout: what the PSP is owed it draws from our account."""
    header, one, two, payout, _ = lines(await desk.payout_file())
    await desk.arrive(summed(header, one, two, payout.replace("-19.50", "19.50")))
    assert (await desk.standing())["psp_payouts_in_transit"] == -1950
    debit = statement(("19.50", "po_000001")).replace(
        "<CdtDbtInd>CRDT</CdtDbtInd><Sts>", "<CdtDbtInd>DBIT</CdtDbtInd><Sts>"
    )
    await desk.arrive(debit.replace(">119.50<", ">80.50<"), "statement.xml")
    assert await desk.standing() == {"psp_receivable": 3900, "bank": -1950}
