"""One record told in parts by several files: many lines to one, over time, by the PSP's name and to the minor unit."""

from pathlib import Path

import pytest
from tests.integration.psp_files import PSPS, Row
from tests.integration.test_psp_files import Office
from tests.integration.test_reconciliation import kinds

from coatcheck.reconciliation.reconciler import IN_PARTS
from coatcheck.store import Store


@pytest.fixture
def office(store: Store, tmp_path: Path) -> Office:
    return Office(store, tmp_path, PSPS[0])


async def open_breaks(office: Office) -> list[tuple[str, int]]:
    rows = await office.world.store.pool.fetch(
        "SELECT kind, suspense_minor FROM reconciliation_break WHERE closed_at IS NULL ORDER BY 1, 2"
    )
    return [tuple(row) for row in rows]


def part(reference: str, gross: int, *, place: int = 1, name: str = "A1", fee: int = 0) -> list[Row]:
    """A file's rows with this part of the record at a place of its own, which is a time of its own."""
    before = [Row(kind="fee", name=f"F{n}", fee=1) for n in range(1, place)]
    return [*before, Row(kind="charge", name=name, reference=reference, gross=gross, fee=fee)]


async def test_H5_parts_of_a_charge_in_several_files_close_their_breaks_when_the_last_has_come(office: Office) -> None:
    ours = await office.charge("A1", 10_000)
    first = await office.take(*part(ours, 6000), batch="1", name="1.csv")
    assert kinds(first) == ["amount"]
    assert await open_breaks(office) == [("amount", -4000)]
    await office.take(*part(ours, 3000, place=2), batch="2", name="2.csv")
    assert await open_breaks(office) == [("amount", -4000), ("duplicate_line", 3000)]
    last = await office.take(*part(ours, 1000, place=3), batch="3", name="3.csv")
    assert await open_breaks(office) == []
    (found,) = last.mismatches
    assert (found.closed_by, found.reason) == ("coatcheck", IN_PARTS)
    standing = await office.standing()
    assert {name for name in standing if not name.startswith("platform:")} == {"psp:payouts_in_transit EUR"}
    await office.is_true()


@pytest.mark.parametrize(
    ("gross", "place", "name"),
    [
        (3999, 2, "A1"),  # a cent is missing
        (4000, 2, "B2"),  # another charge of the PSP's under our reference
        (4001, 2, "A1"),
    ],
)
async def test_H5_what_does_not_come_to_the_record_exactly_stays_open(
    office: Office, gross: int, place: int, name: str
) -> None:
    ours = await office.charge("A1", 10_000)
    await office.take(*part(ours, 6000), batch="1", name="1.csv")
    await office.take(*part(ours, gross, place=place, name=name), batch="2", name="2.csv")
    assert len(await open_breaks(office)) == 2
    await office.is_true()


@pytest.mark.parametrize(("place", "left"), [(1, 2), (2, 0)])
async def test_H1_a_half_told_twice_is_no_whole(office: Office, place: int, left: int) -> None:
    """The same movement in two files comes to the amount, too; two halves have times of their own."""
    ours = await office.charge("A1", 10_000)
    await office.take(*part(ours, 5000), batch="1", name="1.csv")
    await office.take(*part(ours, 5000, place=place), batch="2", name="2.csv")
    assert len(await open_breaks(office)) == left
    await office.is_true()


async def test_H4_a_part_that_its_batch_issued_again_lacks_opens_the_others_again(office: Office) -> None:
    ours = await office.charge("A1", 10_000)
    await office.take(*part(ours, 6000), batch="1", name="1.csv")
    await office.take(*part(ours, 4000, place=2), batch="2", name="2.csv")
    assert await open_breaks(office) == []
    nothing = Row(kind="fee", name="F1", fee=5)
    await office.take(nothing, batch="2", name="2 again.csv")
    assert await open_breaks(office) == [("amount", -4000)]
    assert (await office.standing())["suspense EUR"] == 4000
    await office.is_true()
    await office.take(*part(ours, 4000, place=2, fee=5), batch="2", name="2 and back.csv")
    assert await open_breaks(office) == []
    await office.is_true()
    await office.take(*part(ours, 10_000), batch="1", name="1 again.csv")  # and the rest of it was never due
    assert await open_breaks(office) == [("duplicate_line", 4000)]
    await office.is_true()


async def test_E8_parts_of_a_converted_charge_are_added_up_in_what_the_buyer_was_charged(office: Office) -> None:
    ours = await office.charge("A1", 10_000, "USD")
    for batch, gross, asked in (("1", 5400, 6000), ("2", 3700, 4000)):
        filler = [Row(kind="fee", name="F1", fee=1)] * (batch == "2")
        line = Row(kind="charge", name="A1", reference=ours, gross=gross, asked=(asked, "USD"))
        await office.take(*filler, line, batch=batch, name=f"{batch}.csv")
    assert await open_breaks(office) == []
    standing = await office.standing()
    assert (standing["fx USD"], standing["fx EUR"]) == (10_000, -9100)
    assert "psp:receivable USD" not in standing
    await office.is_true()
