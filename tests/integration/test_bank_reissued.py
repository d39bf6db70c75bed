"""A bank's statement that is issued again: the difference is posted, what people said holds, and history stays."""

import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.integration.test_bank_matching import ALL, BankDesk
from tests.integration.test_bank_statements import statement
from tests.integration.test_reconciliation import kinds

from coatcheck.reconciliation.breaks import Destination, Explanation
from coatcheck.store import Store

FEE = Explanation(destination=Destination.FEE, note="the bank's fee", evidence="their price list")
PAYOUT, RENT, OTHER = ("19.50", "po_000001"), ("5.00", "rent"), ("7.00", "other")


@pytest.fixture
def desk(store: Store, tmp_path: Path) -> BankDesk:
    return BankDesk(store, tmp_path)


def version(*entries: tuple[str, str], name: str = "S1") -> str:
    """A version of a statement, in which the bank keeps its own number of each entry."""
    return statement(*entries, name=name, numbers=[zlib.crc32(text.encode()) % 10_000 for _, text in entries])


async def transfers(desk: BankDesk) -> int:
    return await desk.world.count("transfer", "kind IN ('bank_credit', 'unexplained', 'explained')")


async def versions(desk: BankDesk) -> Sequence[tuple[str, int, bool]]:
    rows = await desk.world.store.pool.fetch(
        "SELECT statement, version, replaced_by IS NULL AS counts FROM bank_statement ORDER BY version, statement"
    )
    return [tuple(row) for row in rows]


async def explain(desk: BankDesk, detail: str) -> None:
    breaks = desk.world.gateway.breaks
    break_id = await desk.world.store.pool.fetchval(
        "SELECT break_id FROM reconciliation_break WHERE closed_at IS NULL AND detail LIKE $1", f"%{detail}"
    )
    proposal = await breaks.propose(break_id, ALL, FEE, "person ada")
    await breaks.confirm(break_id, proposal.proposal_id, ALL, "person bob")


async def test_H4_a_statement_that_is_issued_again_posts_the_difference(desk: BankDesk) -> None:
    await desk.arrive(await desk.payout_file())
    await desk.arrive(version(PAYOUT, RENT), "first.xml")
    assert await desk.standing() == {"bank": 2450, "suspense": -500}
    before = await transfers(desk)
    report = await desk.arrive(version(PAYOUT, RENT, OTHER), "second.xml")
    assert (report.lines, report.matched, kinds(report)) == (3, 1, ["unexplained", "unexplained"])
    assert await transfers(desk) == before + 1
    assert await desk.standing() == {"bank": 3150, "suspense": -1200}
    report = await desk.arrive(version(PAYOUT, OTHER), "third.xml")
    assert (report.lines, report.matched, kinds(report)) == (2, 1, ["unexplained"])
    assert await desk.breaks() == ["unexplained"]
    assert await desk.standing() == {"bank": 2650, "suspense": -700}
    assert await versions(desk) == [("S1", 1, False), ("S1", 2, False), ("S1", 3, True)]
    assert await desk.world.count("bank_line") == 7
    assert ("coatcheck", "the statement was issued again") in await desk.reasons()
    told = await desk.world.store.pool.fetch(
        "SELECT e.body -> 'statements' -> 0 ->> 'version' AS version FROM event AS e JOIN settlement_file AS f"
        "    ON f.file_id = e.subject_id AND f.provider = 'bank'"
        " WHERE e.kind = 'settlement.booked' ORDER BY 1"
    )
    assert [row["version"] for row in told] == ["1", "2", "3"]


async def test_H4_a_bank_with_one_name_for_all_statements_of_a_day_has_each_of_them_counted(desk: BankDesk) -> None:
    await desk.arrive(version(RENT), "morning.xml")
    noon = version(OTHER).replace(">100.00<", ">105.00<").replace(">107.00<", ">112.00<")
    assert kinds(await desk.arrive(noon, "noon.xml")) == ["unexplained"]
    assert await desk.standing() == {"bank": 1200, "suspense": -1200}
    assert await versions(desk) == [("S1", 1, True), ("S1", 1, True)]


async def test_H4_the_same_entries_in_another_file_of_the_statement_post_nothing(desk: BankDesk) -> None:
    await desk.arrive(await desk.payout_file())
    await desk.arrive(version(PAYOUT, RENT), "first.xml")
    before = await transfers(desk)
    report = await desk.arrive(version(RENT, PAYOUT).replace("M1", "M2"), "second.xml")
    assert (report.is_repeat, report.matched, kinds(report)) == (False, 1, ["unexplained"])
    assert await transfers(desk) == before
    assert await desk.standing() == {"bank": 2450, "suspense": -500}


async def test_H4_a_payout_that_is_gone_is_in_transit_again_until_another_entry_names_it(desk: BankDesk) -> None:
    await desk.arrive(await desk.payout_file())
    await desk.arrive(version(PAYOUT, RENT), "first.xml")
    await desk.arrive(version(RENT), "second.xml")
    assert await desk.standing() == {"psp_payouts_in_transit": 1950, "bank": 500, "suspense": -500}
    report = await desk.arrive(version(PAYOUT, name="S2"), "next day.xml")
    assert report.is_clean
    assert await desk.standing() == {"bank": 2450, "suspense": -500}


@pytest.mark.parametrize("before", [("19.40", "po_000001"), ("19.50", "P0_OOOOO1")])
@pytest.mark.parametrize("comes_first", ["settlement", "statement"])
async def test_H4_an_entry_that_the_bank_corrects_is_the_payout(
    desk: BankDesk, before: tuple[str, str], comes_first: str
) -> None:
    text = await desk.payout_file()
    if comes_first == "settlement":
        await desk.arrive(text)
    await desk.arrive(version(before), "first.xml")
    await desk.arrive(version(PAYOUT), "second.xml")
    if comes_first == "statement":
        await desk.arrive(text)
    assert await desk.breaks() == []
    assert await desk.standing() == {"bank": 1950}


async def test_H4_an_entry_that_was_found_to_be_a_payout_later_is_reversed_like_any_other(desk: BankDesk) -> None:
    text = await desk.payout_file()
    await desk.arrive(version(PAYOUT), "first.xml")
    await desk.arrive(text)
    assert await desk.standing() == {"bank": 1950}
    await desk.arrive(version(RENT), "second.xml")
    assert await desk.standing() == {"psp_payouts_in_transit": 1950, "bank": 500, "suspense": -500}


async def test_H4_what_two_people_said_of_an_entry_holds_while_it_is_there(desk: BankDesk) -> None:
    await desk.arrive(version(RENT, OTHER), "first.xml")
    await explain(desk, "rent")
    assert (await desk.world.balances())["platform_psp_fees"] == -500
    report = await desk.arrive(version(RENT, OTHER, ("1.00", "more")), "second.xml")
    assert [each.closed_by for each in report.mismatches] == ["person ada and person bob", None, None]
    assert await desk.standing() == {"bank": 1300, "suspense": -800}
    report = await desk.arrive(version(OTHER, ("1.00", "more")), "third.xml")
    (gone,) = [each for each in report.mismatches if each.line_no is None]
    assert (gone.kind, gone.suspense_minor, "gone from the statement" in gone.detail) == ("unexplained", -500, True)
    assert await desk.standing() == {"bank": 800, "suspense": -300}
    await explain(desk, "rent")
    assert await desk.standing() == {"bank": 800, "suspense": -800}
    assert "platform_psp_fees" not in await desk.world.balances()


async def test_H4_one_of_several_entries_of_a_payout_that_is_gone_is_said_anew(desk: BankDesk) -> None:
    await desk.arrive(await desk.payout_file())
    await desk.arrive(version(("12.00", "po_000001")), "first.xml")
    await desk.arrive(version(("7.50", "po_000001 rest"), name="S2"), "other.xml")
    assert await desk.standing() == {"bank": 1950}
    await desk.arrive(version(RENT), "second.xml")
    assert await desk.breaks() == ["unexplained", "unexplained"]
    assert await desk.standing() == {"bank": 750 + 500, "suspense": 1200 - 500}


async def test_H4_all_entries_of_a_payout_that_are_gone_give_it_back(desk: BankDesk) -> None:
    await desk.arrive(await desk.payout_file())
    await desk.arrive(version(("12.00", "po_000001"), ("7.50", "po_000001 rest")), "first.xml")
    assert await desk.standing() == {"bank": 1950}
    await desk.arrive(version(RENT), "second.xml")
    assert await desk.standing() == {"psp_payouts_in_transit": 1950, "bank": 500, "suspense": -500}


async def test_H1_of_entries_that_are_alike_the_one_that_is_the_payout_is_kept(desk: BankDesk) -> None:
    await desk.arrive(await desk.payout_file())
    report = await desk.arrive(version(PAYOUT, PAYOUT), "first.xml")
    assert kinds(report) == ["duplicate_line"]
    report = await desk.arrive(version(PAYOUT), "second.xml")
    assert (report.matched, report.is_clean) == (1, True)
    assert await desk.breaks() == []
    assert await desk.standing() == {"bank": 1950}


async def test_H1_a_duplicate_is_the_payout_when_the_one_that_was_is_gone(desk: BankDesk) -> None:
    await desk.arrive(await desk.payout_file())
    await desk.arrive(version(PAYOUT), "first.xml")
    await desk.arrive(version(PAYOUT, name="S2"), "other.xml")
    assert await desk.breaks() == ["duplicate_line"]
    await desk.arrive(version(RENT), "second.xml")
    assert await desk.breaks() == ["unexplained"]
    assert await desk.standing() == {"bank": 2450, "suspense": -500}


async def test_H4_a_statement_of_the_same_name_and_other_days_is_another_one(desk: BankDesk) -> None:
    await desk.arrive(version(RENT), "first.xml")
    await desk.arrive(version(OTHER).replace("2026-03-01", "2027-03-01"), "a year later.xml")
    assert await desk.standing() == {"bank": 1200, "suspense": -1200}
    assert await versions(desk) == [("S1", 1, True), ("S1", 1, True)]


async def test_H4_a_page_of_a_statement_is_no_other_version_of_it(desk: BankDesk) -> None:
    page = "<Id>S1</Id><StmtPgntn><PgNb>{}</PgNb><LastPgInd>true</LastPgInd></StmtPgntn>"
    await desk.arrive(version(RENT).replace("<Id>S1</Id>", page.format(1)), "one.xml")
    await desk.arrive(version(OTHER).replace("<Id>S1</Id>", page.format(2)), "two.xml")
    assert await desk.standing() == {"bank": 1200, "suspense": -1200}
    assert await versions(desk) == [("S1", 1, True), ("S1/2", 1, True)]


async def test_H4_a_total_that_did_not_hold_is_closed_by_the_version_that_does(desk: BankDesk) -> None:
    wrong = version(RENT).replace(">105.00<", ">105.01<")
    assert sorted(kinds(await desk.arrive(wrong, "first.xml"))) == ["control_total", "unexplained"]
    await desk.arrive(version(RENT), "second.xml")
    assert await desk.breaks() == ["unexplained"]


MT940 = """:20:X
:25:123456
:28C:7/1
:60F:C260301EUR100,00
:61:2603010301C5,00NMSCrent
:62M:C260301EUR105,00
-
:20:X
:25:123456
:28C:7/2
:60M:C260301EUR105,00
:61:2603010301C7,00NMSCother
:62F:C260301EUR112,00
-
"""
ONE_PAGE = """:20:X
:25:123456
:28C:7/1
:60F:C260301EUR100,00
:61:2603010301C5,00NMSCrent
:61:2603010301C7,00NMSCother
:62F:C260301EUR112,00
-
"""


async def test_H4_a_statement_may_have_other_pages_when_it_is_issued_again(desk: BankDesk) -> None:
    await desk.arrive(MT940, "first.sta")
    assert await desk.standing() == {"bank": 1200, "suspense": -1200}
    before = await transfers(desk)
    await desk.arrive(ONE_PAGE, "second.sta")
    assert await transfers(desk) == before
    assert await desk.standing() == {"bank": 1200, "suspense": -1200}
    await desk.arrive(MT940.replace("7/", "8/"), "another.sta")
    assert await desk.standing() == {"bank": 2400, "suspense": -2400}


BAI2 = """01,BANK,ME,260301,0600,1,80,,2/
02,ME,BANK,1,260301,0600,EUR,2/
03,123456,EUR,010,10000,,,015,{closing},,/
{entries}49,{total},{records}/
98,{total},1,{all}/
99,{total},1,{file}/
"""


def bai2(*entries: tuple[int, str]) -> str:
    """A report of one account and day; its totals count every amount of it."""
    moved = sum(minor for minor, _ in entries)
    written = "".join(f"16,195,{minor},,B{text},,{text}\n" for minor, text in entries)
    total = 10_000 + 10_000 + moved + moved
    n = len(entries) + 2
    return BAI2.format(closing=10_000 + moved, entries=written, total=total, records=n, all=n + 2, file=n + 4)


async def test_H4_a_report_without_a_name_is_known_by_its_account_and_day(desk: BankDesk) -> None:
    await desk.arrive(bai2((500, "rent"), (700, "other")), "first.bai")
    assert await desk.standing() == {"bank": 1200, "suspense": -1200}
    await desk.arrive(bai2((500, "rent"), (750, "other")), "second.bai")
    assert await desk.standing() == {"bank": 1250, "suspense": -1250}
    await desk.arrive(bai2((500, "rent")).replace("260301", "260302"), "next day.bai")
    assert await desk.standing() == {"bank": 1750, "suspense": -1750}


async def test_H4_what_is_gone_with_the_earlier_version_claims_no_payout(desk: BankDesk) -> None:
    """The payout was told of, and nobody has looked at the entry since, when its words are corrected."""
    text = await desk.payout_file()
    await desk.arrive(version(PAYOUT), "first.xml")
    await desk.take(text)
    report = await desk.arrive(version(("19.50", "po_000001 of the PSP")), "second.xml")
    assert (report.matched, await desk.breaks()) == (1, [])
    assert await desk.standing() == {"bank": 1950}
