"""A PSP's settlement file against the books: what agrees is settled, what does not is a break, and nothing is lost."""

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from tests.integration.outside import CALLER, SETTINGS, approved, checkout
from tests.simulation.calm import at_the_psp

from coatcheck.config import Settings
from coatcheck.ids import OPERATION, print_id
from coatcheck.reconciliation.bank_statements import StatementReport
from coatcheck.reconciliation.corrections import Corrections
from coatcheck.reconciliation.files import Source
from coatcheck.reconciliation.lines import FileRefusedError
from coatcheck.reconciliation.reconciler import Reconciler
from coatcheck.reconciliation.report import Report, read_report
from coatcheck.shops import create_key
from coatcheck.states import Capture
from coatcheck.store import Store

SUMS = ("psp_receivable", "psp_payouts_in_transit", "platform_psp_fees", "suspense")


class Desk:
    """A gateway, its PSP, and what finance does with the PSP's files."""

    def __init__(self, store: Store, directory: Path, settings: Settings = SETTINGS, **dial: Any) -> None:
        self.world, self.psp = at_the_psp(store, settings=settings, **dial)
        gateway = self.world.gateway
        self.reconciler = Reconciler(store, self.world.clock)
        self.corrections = Corrections(store, self.world.clock, gateway.operations, gateway.executor)
        self._directory = directory

    def close(self) -> list[str]:
        """Have the PSP pay out; returns the texts of its files."""
        merchant = self.psp.bank.merchant("coatcheck", is_live=False)
        batches = self.psp.bank.close_batches(merchant)
        return ["".join(self.psp.bank.settlements.file(merchant, batch.id)) for batch in batches]

    async def take(self, text: str, name: str = "file.csv") -> Report:
        path = self._directory / name
        path.write_text(text, "utf-8")
        return await self.reconciler.take(
            Source(path=path, name=name, shop_id=CALLER.shop_id, mode=CALLER.mode, brought_by="ada")
        )

    async def balances(self) -> dict[str, int]:
        """What stands in the accounts that settlements move, in minor units."""
        found = await self.world.balances()
        return {kind: found[kind] for kind in SUMS if kind in found}

    async def verdicts(self) -> Sequence[str]:
        rows = await self.world.store.pool.fetch("SELECT verdict FROM settlement_line ORDER BY file_id, line_no")
        return [row["verdict"] for row in rows]


@pytest.fixture
def desk(store: Store, tmp_path: Path) -> Desk:
    return Desk(store, tmp_path)


def kinds(report: Report | StatementReport) -> list[str]:
    return [each.kind for each in report.mismatches]


def lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def summed(header: str, *changed: str) -> str:
    """A file of these lines, with an end that agrees with them."""
    rows = [line.rstrip("\n").split(",") for line in changed]
    cents = [sum(int(row[place].replace(".", "")) for row in rows if row[2] != "payout") for place in (8, 9, 10)]
    sums = ",".join(f"{each // 100}.{each % 100:02}" for each in cents)
    return "".join((header, *changed, f"{rows[0][0]},{len(rows)},end,,,,,EUR,{sums}\n"))


async def test_what_agrees_is_settled_and_the_receivable_returns_to_zero(desk: Desk) -> None:
    world = desk.world
    view = await world.pay(checkout("c1", "o1", "o2"))
    await world.refund("o1", 300)
    held = await world.pay(checkout("c2", "o3", capture=Capture.MANUAL), "k2")
    await world.capture(held, o3=700)
    assert view.status == "SUCCESS"
    (text,) = desk.close()
    report = await desk.take(text)
    assert (report.matched, report.lines, kinds(report)) == (4, 5, [])
    fees = 25 + 25 + 0 + 20
    assert await desk.balances() == {"psp_payouts_in_transit": 2400 - fees, "platform_psp_fees": fees}
    (total,) = report.totals
    assert (total.gross_minor, total.fee_minor, total.payout_minor) == (2400, fees, 2400 - fees)
    assert await world.violations() == {}


async def test_H1_the_same_file_again_is_no_news(desk: Desk) -> None:
    await desk.world.pay(checkout("c1", "o1"))
    (text,) = desk.close()
    first = await desk.take(text)
    before = await desk.world.count("transfer")
    again = await desk.take(text, "another name.csv")
    assert (first.is_repeat, again.is_repeat) == (False, True)
    assert again.totals == first.totals
    assert await desk.world.count("transfer") == before
    assert await desk.world.count("settlement_file") == 1


async def test_H2_a_file_that_is_cut_is_refused_whole(desk: Desk) -> None:
    await desk.world.pay(checkout("c1", "o1", "o2"))
    (text,) = desk.close()
    before = await desk.world.count("transfer")
    with pytest.raises(FileRefusedError, match="cut"):
        await desk.take("".join(lines(text)[:-1]))
    for table in ("settlement_file", "settlement_line", "settled_record", "reconciliation_break"):
        assert await desk.world.count(table) == 0
    assert await desk.world.count("transfer") == before
    assert (await desk.take(text)).is_clean


async def test_H6_what_only_the_psp_has_is_a_break_and_stands_in_suspense(desk: Desk) -> None:
    await desk.world.pay(checkout("c1", "o1"))
    header, charge, *_ = lines(desk.close()[0])
    foreign = charge.replace(",1,charge,", ",2,charge,").replace("ch_0", "ch_9").replace(",op_", ",their_")
    report = await desk.take(summed(header, charge, foreign))
    assert kinds(report) == ["missing_here"]
    (found,) = report.mismatches
    assert (found.stated_minor, found.expected_minor, found.suspense_minor) == (1000, None, 1000)
    assert (await desk.balances())["suspense"] == -1000
    assert await desk.world.violations() == {}


async def test_H7_what_only_we_have_is_asked_for_when_its_time_is_over_and_was_only_late(desk: Desk) -> None:
    await desk.world.pay(checkout("c1", "o1"))
    early = desk.close()[0]
    desk.world.clock.advance(timedelta(days=6))
    await desk.world.pay(checkout("c2", "o2"), "k2")
    report = await desk.take(desk.close()[0])
    assert kinds(report) == []
    rows = await desk.world.store.pool.fetch("SELECT kind, expected_minor FROM reconciliation_break")
    assert [tuple(row) for row in rows] == [("missing_at_psp", 1000)]
    await desk.take(early, "early.csv")
    assert await desk.world.count("reconciliation_break", "closed_at IS NULL") == 0
    assert (await desk.balances()).keys() == {"psp_payouts_in_transit", "platform_psp_fees"}


@pytest.mark.parametrize(
    ("old", "new", "kind", "suspense_minor"),
    [
        (",EUR,10.00,0.25,9.75", ",EUR,11.00,0.25,10.75", "amount", 100),
        (",EUR,10.00,0.25,9.75", ",EUR,9.00,0.25,8.75", "amount", -100),
    ],
)
async def test_H5_another_amount_is_a_break_over_the_difference(
    desk: Desk, old: str, new: str, kind: str, suspense_minor: int
) -> None:
    await desk.world.pay(checkout("c1", "o1"))
    header, charge, *_ = lines(desk.close()[0])
    report = await desk.take(summed(header, charge.replace(old, new)))
    (found,) = report.mismatches
    assert (found.kind, found.suspense_minor) == (kind, suspense_minor)
    assert (await desk.balances())["suspense"] == -suspense_minor
    assert await desk.world.violations() == {}


async def test_H1_a_line_twice_and_a_charge_twice_are_told_apart(desk: Desk) -> None:
    await desk.world.pay(checkout("c1", "o1"))
    header, charge, *_ = lines(desk.close()[0])
    again = charge.replace(",1,charge,", ",2,charge,")
    other = charge.replace(",1,charge,ch_0", ",3,charge,ch_7")
    report = await desk.take(summed(header, charge, again, other))
    assert kinds(report) == ["duplicate_line", "duplicate_charge"]
    assert (await desk.balances())["suspense"] == -2000


async def test_H5_a_capture_that_the_psp_tells_in_parts_is_one_record(desk: Desk) -> None:
    """The whole authorization, and back what was not taken of it; a part more is a break again."""
    await desk.world.pay(checkout("c1", "o1"))
    header, charge, *_ = lines(desk.close()[0])
    whole = charge.replace("10.00,0.25,9.75", "12.00,0.25,11.75")
    back = charge.replace(",1,charge,", ",2,charge,").replace("10.00,0.25,9.75", "-2.00,0.00,-2.00")
    report = await desk.take(summed(header, whole, back))
    assert (kinds(report), report.matched) == ([], 2)
    assert await desk.balances() == {"psp_receivable": 1000 - 25, "platform_psp_fees": 25}
    more = await desk.take(summed(header, whole, back, back.replace(",2,charge,", ",3,charge,")), "more.csv")
    assert sorted(kinds(more)) == ["amount", "duplicate_line", "duplicate_line"]


async def test_H1_a_record_of_an_earlier_file_is_not_claimed_again(desk: Desk) -> None:
    await desk.world.pay(checkout("c1", "o1"))
    header, charge, *_ = lines(desk.close()[0])
    assert (await desk.take(summed(header, charge))).is_clean
    later = await desk.take(summed(header, charge.replace("st_000001", "st_000002")), "later.csv")
    assert kinds(later) == ["duplicate_line"]


async def test_H4_a_batch_that_is_issued_again_posts_the_difference(desk: Desk) -> None:
    await desk.world.pay(checkout("c1", "o1", "o2"))
    header, one, two, payout, _ = lines(desk.close()[0])
    first = summed(header, one, two.replace("10.00,0.25,9.75", "12.00,0.25,11.75"), payout)
    report = await desk.take(first)
    assert sorted(kinds(report)) == ["amount", "control_total"]
    again = await desk.take(summed(header, one, two.replace("0.25,9.75", "0.30,9.70"), payout), "again.csv")
    assert kinds(again) == ["control_total"]
    assert await desk.world.count("reconciliation_break", "closed_at IS NULL AND kind = 'amount'") == 0
    assert await desk.balances() == {
        "psp_payouts_in_transit": 1950,
        "platform_psp_fees": 55,
        "psp_receivable": 2000 - 1950 - 55,
    }
    assert await desk.world.count("settlement_file") == 2
    assert await desk.world.violations() == {}


@pytest.mark.parametrize("brought", [("first", "second"), ("second", "first")])
async def test_H4_what_a_batch_issued_again_says_no_more_is_missing_at_the_psp(
    desk: Desk, brought: tuple[str, str]
) -> None:
    """Also when its time was over long ago, and when a file had it before after all."""
    await desk.world.pay(checkout("c1", "o1", "o2"))
    files = {"first": desk.close()[0]}
    desk.world.clock.advance(timedelta(days=6))
    await desk.world.pay(checkout("c2", "o3"), "k2")
    files["second"] = desk.close()[0]
    for name in brought:
        await desk.take(files[name], f"{name}.csv")
    assert await desk.world.count("reconciliation_break", "closed_at IS NULL") == 0
    header, one, two, *_ = lines(files["first"])
    await desk.take(summed(header, one), "again.csv")
    gone = await desk.world.store.pool.fetch(
        "SELECT k.kind, o.payment_order_id FROM reconciliation_break AS k JOIN operation USING (operation_id)"
        "  JOIN payment_order AS o USING (order_id) WHERE k.closed_at IS NULL"
    )
    assert [tuple(row) for row in gone] == [("missing_at_psp", "o2")]
    await desk.take(summed(header, one, two), "and back.csv")
    assert await desk.world.count("reconciliation_break", "closed_at IS NULL") == 0


async def test_control_totals_that_do_not_hold_are_breaks_and_the_lines_are_loaded(desk: Desk) -> None:
    await desk.world.pay(checkout("c1", "o1"))
    (text,) = desk.close()
    report = await desk.take(
        text.replace(",EUR,10.00,0.25,9.75\n", ",EUR,10.01,0.26,9.75\n", 2).replace(
            ",EUR,10.01,0.26,9.75\n", ",EUR,10.00,0.25,9.75\n", 1
        )
    )
    assert kinds(report) == ["control_total", "control_total"]
    assert report.matched == 1


async def test_A1_an_unknown_charge_is_decided_by_the_file(store: Store, tmp_path: Path) -> None:
    """The third step of the ladder: no retry and no look-up had an answer, and the file has."""
    desk = Desk(store, tmp_path, settings=replace(SETTINGS, retry_budget_attempts=1), drop_after_charge_share=1.0)
    view = await desk.world.pay(checkout("c1", "o1"))
    assert await desk.world.count("operation", "status = 'UNRESOLVED'") == 1
    (text,) = desk.close()
    report = await desk.take(text)
    assert kinds(report) == ["status"]
    assert (await desk.balances())["suspense"] == -1000
    assert await desk.corrections.correct(report.file_id) == 1
    (total,) = (await read_report(store, report.file_id, is_repeat=True)).totals
    assert (total.lines, total.matched, total.settled) == (1, 0, 1)
    assert (await desk.world.read(view.payment_id)).status == "SUCCESS"
    assert await desk.world.count("event", "kind = 'order.succeeded' AND body ->> 'told_by' = 'file'") == 1
    assert await desk.balances() == {"psp_payouts_in_transit": 975, "platform_psp_fees": 25}
    assert await desk.corrections.correct(report.file_id) == 0
    assert await desk.world.count("reconciliation_break", "closed_at IS NULL") == 0
    assert await desk.world.violations() == {}


async def test_A1_a_charge_that_was_on_its_way_when_the_file_came_leaves_no_break_behind(
    store: Store, owner: asyncpg.Connection, tmp_path: Path
) -> None:
    """Whoever was at it decides it, not the file; then nothing is left in suspense."""
    desk = Desk(store, tmp_path, drop_after_charge_share=1.0)
    await desk.world.pay(checkout("c1", "o1"))
    assert await desk.world.count("operation", "status = 'OPEN'") == 1
    await owner.execute("UPDATE lease SET holder = gen_random_uuid(), due_at = due_at + interval '1 hour'")
    report = await desk.take(desk.close()[0])
    assert kinds(report) == ["status"]
    arrivals = desk.world.gateway.arrivals
    assert await arrivals.finish_once() == 0
    assert await desk.corrections.correct(report.file_id) == 0
    assert (await desk.balances())["suspense"] == -1000
    await owner.execute("UPDATE lease SET holder = NULL, due_at = due_at - interval '1 day'")
    for _ in range(6):
        await desk.world.recover()
    assert await desk.world.count("operation", "status = 'APPROVED'") == 1
    assert await arrivals.finish_once() == 1
    assert await arrivals.finish_once() == 0
    assert await desk.balances() == {"psp_payouts_in_transit": 975, "platform_psp_fees": 25}
    assert await desk.world.violations() == {}


async def test_D6_a_refund_that_a_file_tells_came_back_is_asked_about_and_leaves_no_break_behind(desk: Desk) -> None:
    """Its webhook was lost: the file is the first to tell."""
    await desk.world.pay(checkout("c1", "o1"))
    await desk.world.refund("o1", None, "k-refund")
    refund_id = await desk.world.store.pool.fetchval("SELECT provider_reference FROM operation WHERE kind = 'refund'")
    desk.psp.bank.fail_refund(refund_id)
    report = await desk.take(desk.close()[0])
    assert kinds(report) == ["status"]
    assert await desk.corrections.correct(report.file_id) == 1
    assert await desk.world.count("refund", "status = 'FAILED'") == 1
    assert await desk.world.count("transfer", "kind = 'refund_return'") == 1
    assert await desk.world.count("reconciliation_break", "closed_at IS NULL") == 0
    assert set(await desk.balances()) == {"psp_payouts_in_transit", "platform_psp_fees"}
    assert await desk.world.violations() == {}


async def test_D6_a_refund_that_went_and_came_back_before_anybody_heard_of_it_leaves_no_break_behind(
    desk: Desk,
) -> None:
    """Here it has only failed; the file has a line for each way, and together they are nothing."""
    await desk.world.pay(checkout("c1", "o1", token="tok_refund_pending"))
    await desk.world.refund("o1", None, "k-refund")
    refund_id = await desk.world.store.pool.fetchval("SELECT provider_reference FROM operation WHERE kind = 'refund'")
    desk.psp.bank.settle_refund(refund_id, "succeeded")
    desk.psp.bank.fail_refund(refund_id)
    desk.world.clock.advance(timedelta(minutes=5))
    for _ in range(3):
        await desk.world.recover()
    assert await desk.world.count("refund", "status = 'FAILED'") == 1
    assert await desk.world.count("transfer", "kind = 'refund'") == 0
    report = await desk.take(desk.close()[0])
    assert kinds(report) == ["status"]
    assert await desk.world.gateway.arrivals.finish_once() == 1
    assert set(await desk.balances()) == {"psp_payouts_in_transit", "platform_psp_fees"}
    assert await desk.world.violations() == {}


@pytest.mark.parametrize("decided_by", ["the file", "its holder"])
async def test_D6_a_refund_that_came_back_before_it_was_decided_here_is_asked_about(
    desk: Desk, decided_by: str
) -> None:
    """The first of its lines, or an answer from before, says it went; that is not the end of it."""
    await desk.world.pay(checkout("c1", "o1", token="tok_refund_pending"))
    await desk.world.refund("o1", None, "k-refund")
    operation = await desk.world.store.pool.fetchrow("SELECT * FROM operation WHERE kind = 'refund'")
    assert operation is not None
    desk.psp.bank.settle_refund(operation["provider_reference"], "succeeded")
    if decided_by == "its holder":
        await desk.take(desk.close()[0], "it went.csv")
    desk.psp.bank.fail_refund(operation["provider_reference"])
    report = await desk.take(desk.close()[0], "it came back.csv")
    if decided_by == "the file":
        assert await desk.corrections.correct(report.file_id) == 2
    else:
        (held,) = await desk.world.gateway.operations.claim_named([operation["operation_id"]])
        await desk.world.gateway.executor.settle(held, approved(held.intent))
        assert await desk.world.gateway.arrivals.finish_once() == 2
    assert await desk.world.gateway.arrivals.finish_once() == 0
    assert await desk.world.count("event", "kind = 'operation.reopened'") == 1
    assert await desk.world.count("refund", "status = 'FAILED'") == 1
    assert await desk.world.count("reconciliation_break", "closed_at IS NULL") == 0
    assert set(await desk.balances()) == {"psp_payouts_in_transit", "platform_psp_fees"}
    assert await desk.world.violations() == {}


async def test_H5_what_we_have_declined_and_the_psp_has_charged_is_a_break(desk: Desk) -> None:
    view = await desk.world.pay(checkout("c1", "o1", token="tok_decline_do_not_honor"))
    await desk.world.pay(checkout("c2", "o2"), "k2")
    header, charge, *_ = lines(desk.close()[0])
    declined_id = await desk.world.store.pool.fetchval(
        "SELECT operation_id FROM operation WHERE payment_id = $1", view.payment_id
    )
    fields = charge.replace(",1,charge,ch_0", ",2,charge,ch_5").split(",")
    declined = ",".join([*fields[:5], print_id(OPERATION, declined_id), *fields[6:]])
    report = await desk.take(summed(header, charge, declined))
    assert kinds(report) == ["status"]
    assert (await desk.balances())["suspense"] == -1000
    assert await desk.corrections.correct(report.file_id) == 0  # the PSP itself does not say so
    assert (await desk.world.read(view.payment_id)).status == "FAILED"


async def reconcile(database_url: str, path: Path, *more: str) -> tuple[int, str]:
    """Run the command as a person would; its exit status and what it printed."""
    program = [sys.executable, "-c", "from coatcheck.cli import main; main()", "reconcile", str(path)]
    running = await asyncio.create_subprocess_exec(
        *[*program, "--shop", "hats", "--by", "ada", *more],
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "DATABASE_URL": database_url, "COATCHECK_CONFIG": os.devnull},
    )
    printed, _ = await running.communicate()
    assert running.returncode is not None
    return running.returncode, printed.decode()


async def test_the_command_says_what_agrees_what_does_not_and_what_was_refused(
    desk: Desk, database_url: str, tmp_path: Path
) -> None:
    await create_key(desk.world.store, desk.world.clock, "hats", CALLER.mode)
    await desk.world.pay(checkout("c1", "o1", "o2"))
    (text,) = desk.close()
    path, report_path = tmp_path / "st_1.csv", tmp_path / "report.json"
    path.write_text("".join(lines(text)[:-1]), "utf-8")
    status, printed = await reconcile(database_url, path)
    assert status == 2
    assert "st_1.csv was refused, and nothing of it was taken: the last line, 'end', is missing" in printed
    path.write_text(text, "utf-8")
    status, printed = await reconcile(database_url, path)
    assert (status, "The file and the books agree." in printed) == (0, True)
    status, printed = await reconcile(database_url, path)
    assert (status, "had been taken before: nothing was done" in printed) == (0, True)
    header, one, two, payout, _ = lines(text)
    path.write_text(summed(header, one, two.replace(",op_", ",their_").replace("ch_0", "ch_9"), payout), "utf-8")
    status, printed = await reconcile(database_url, path, "--json", str(report_path))
    assert status == 1
    assert "missing_here" in printed
    written = json.loads(report_path.read_bytes())
    assert [each["kind"] for each in written["mismatches"]] == ["missing_here"]
    status, printed = await reconcile(database_url, path, "--live")
    assert (status, "missing_here" in printed) == (1, True)  # test mode's charges are not live mode's
