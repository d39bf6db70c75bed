"""What is unusual of a PSP is a break, and what becomes of a break is what the rules say."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.integration.arriving import ArrivalDesk
from tests.integration.outside import checkout
from tests.integration.test_reconciliation import kinds, lines, summed

from coatcheck.reconciliation.report import read_report
from coatcheck.states import Capture
from coatcheck.store import Store
from coatcheck.watcher import AlertKind, list_alerts

EXACT: dict[str, Any] = {"psp_fees": {"simulator": "1.5%+0.10 EUR"}, "psp_fee_tolerance_minor": 0}


@pytest.mark.parametrize(
    ("schedule", "tolerance_minor", "found"),
    [
        ("1.5%+0.10 EUR", 0, []),
        ("1.4%+0.10 EUR", 0, ["fee"]),
        ("1.4%+0.10 EUR", 1, []),
        ("1.5%+0.08 EUR", 1, ["fee"]),
        ("9.9% USD", 0, []),
    ],
)
async def test_H5_another_fee_than_the_schedule_s_is_a_break(
    store: Store, tmp_path: Path, schedule: str, tolerance_minor: int, found: list[str]
) -> None:
    desk = ArrivalDesk(store, tmp_path, psp_fees={"simulator": schedule}, psp_fee_tolerance_minor=tolerance_minor)
    await desk.world.pay(checkout("c1", "o1"))
    report = await desk.arrive(desk.close()[0])
    assert kinds(report) == found
    assert report.matched == 1  # the line is settled all the same
    assert await desk.balances() == {"psp_payouts_in_transit": 975, "platform_psp_fees": 25}
    if found:
        (fee,) = report.mismatches
        assert (fee.stated_minor, fee.suspense_minor, fee.line_no) == (25, 0, 2)
        assert not report.is_clean
    assert await desk.world.violations() == {}


async def test_without_a_schedule_no_fee_is_a_break(store: Store, tmp_path: Path) -> None:
    desk = ArrivalDesk(store, tmp_path)
    await desk.world.pay(checkout("c1", "o1"))
    header, charge, *_ = lines(desk.close()[0])
    report = await desk.arrive(summed(header, charge.replace("10.00,0.25,9.75", "10.00,5.00,5.00")))
    assert report.is_clean


async def test_H5_the_fee_of_a_capture_told_in_parts_is_that_of_its_parts_together(
    store: Store, tmp_path: Path
) -> None:
    desk = ArrivalDesk(store, tmp_path, **EXACT)
    held = await desk.world.pay(checkout("c1", "o1", capture=Capture.MANUAL))
    await desk.world.capture(held, o1=1000)
    header, charge, *_ = lines(desk.close()[0])
    whole = charge.replace("10.00,0.25,9.75", "12.00,0.28,11.72")
    back = charge.replace(",1,capture,", ",2,capture,").replace("10.00,0.25,9.75", "-2.00,-0.03,-1.97")
    assert (await desk.arrive(summed(header, whole, back))).is_clean
    dear = await desk.arrive(summed(header, whole, back.replace("-0.03,-1.97", "0.00,-2.00")), "dear.csv")
    assert kinds(dear) == ["fee"]
    (fee,) = dear.mismatches
    assert (fee.expected_minor, fee.stated_minor) == (25, 28)


@pytest.mark.parametrize(("days", "found"), [(2, []), (3, ["late"])])
async def test_H3_what_is_settled_later_than_usual_is_a_break(
    store: Store, tmp_path: Path, days: int, found: list[str]
) -> None:
    desk = ArrivalDesk(store, tmp_path, settlement_delay={"simulator": "2 days"})
    await desk.world.pay(checkout("c1", "o1"))
    desk.world.clock.advance(timedelta(days=days))
    report = await desk.arrive(desk.close()[0])
    assert kinds(report) == found
    assert report.matched == 1
    if found:
        assert "settled 3 days after it was decided, usual are 2" in report.mismatches[0].detail


async def test_H4_a_batch_that_is_issued_again_takes_its_unusual_breaks_along(store: Store, tmp_path: Path) -> None:
    desk = ArrivalDesk(store, tmp_path, **EXACT)
    await desk.world.pay(checkout("c1", "o1"))
    header, charge, *_ = lines(desk.close()[0])
    dear = await desk.arrive(summed(header, charge.replace("0.25,9.75", "0.30,9.70")), "dear.csv")
    assert kinds(dear) == ["fee"]
    assert (await desk.arrive(summed(header, charge), "right.csv")).is_clean
    assert await desk.breaks() == []


async def test_a_line_with_two_breaks_is_counted_once(store: Store, tmp_path: Path) -> None:
    desk = ArrivalDesk(store, tmp_path, settlement_delay={"simulator": "1 day"}, **EXACT)
    await desk.world.pay(checkout("c1", "o1"))
    desk.world.clock.advance(timedelta(days=4))
    header, charge, *_ = lines(desk.close()[0])
    later = charge.replace("0.25,9.75", "0.30,9.70").replace("2026-03-01T", "2026-03-05T")
    report = await desk.arrive(summed(header, later))
    assert sorted(kinds(report)) == ["fee", "late"]
    (total,) = report.totals
    assert (total.lines, total.matched, total.settled, total.gross_minor) == (1, 1, 0, 1000)


async def test_H6_what_must_not_wait_calls_somebody_until_it_is_closed(store: Store, tmp_path: Path) -> None:
    desk = ArrivalDesk(store, tmp_path)
    await desk.world.pay(checkout("c1", "o1"))
    header, charge, *_ = lines(desk.close()[0])
    foreign = charge.replace(",1,charge,", ",2,charge,").replace("ch_0", "ch_9").replace(",op_", ",their_")
    again = charge.replace(",1,charge,", ",3,charge,")
    report = await desk.arrive(summed(header, charge, foreign, again))
    assert kinds(report) == ["missing_here", "duplicate_line"]  # the second kind waits, and calls nobody
    assert await desk.alerts() == [("break_escalated", True)]
    (alert,) = await list_alerts(store)
    assert alert.kind is AlertKind.BREAK_ESCALATED
    assert alert.subject.startswith("brk_")
    assert alert.text.startswith("A break of kind missing_here with simulator in file.csv, line 3 (charge ch_9")
    assert alert.text.endswith("the file's 10.00 EUR).")
    await desk.arrive(summed(header, charge, foreign, again), "again.csv")
    assert await desk.alerts() == []
    assert await desk.events("break.escalated") == ["break.escalated"]
    missing = next(each for each in report.mismatches if each.kind == "missing_here")
    await desk.corrections.close([missing.break_id], "person ada", "a shop of another gateway's")
    assert await desk.alerts() == [("break_escalated", False)]


async def test_a_rule_of_the_settings_calls_for_another_kind_and_not_for_the_usual_one(
    store: Store, tmp_path: Path
) -> None:
    desk = ArrivalDesk(store, tmp_path, break_rules={"missing_here": "queue", "control_total": "escalate"})
    await desk.world.pay(checkout("c1", "o1"))
    header, charge, *_ = lines(desk.close()[0])
    foreign = charge.replace(",1,charge,", ",2,charge,").replace("ch_0", "ch_9").replace(",op_", ",their_")
    text = summed(header, charge, foreign).replace(",2,end,", ",1,end,")
    assert sorted(kinds(await desk.arrive(text))) == ["control_total", "missing_here"]
    assert await desk.alerts() == [("break_escalated", True)]
    (alert,) = await list_alerts(store)
    assert "A break of kind control_total with simulator in file.csv (number of lines)." in alert.text


@pytest.mark.parametrize(("rule", "left"), [("correct", []), ("queue", ["status"])])
async def test_A1_an_unknown_charge_is_decided_by_the_file_where_the_rule_says_so(
    store: Store, tmp_path: Path, rule: str, left: list[str]
) -> None:
    desk = ArrivalDesk(
        store,
        tmp_path,
        dial={"drop_after_charge_share": 1.0},
        retry_budget_attempts=1,
        break_rules={"status": rule},
    )
    await desk.world.pay(checkout("c1", "o1"))
    report = await desk.arrive(desk.close()[0])
    assert [each.kind for each in report.mismatches if each.closed_at is None] == left
    assert report.is_clean is (not left)
    assert await desk.breaks() == left
    assert (await read_report(store, report.file_id, is_repeat=True)).open_breaks == len(left)


@pytest.mark.parametrize(("rule", "left"), [("correct", []), ("queue", ["fee"]), ("escalate", ["fee"])])
async def test_H5_an_unusual_fee_is_booked_and_its_break_closed_where_the_rule_says_so(
    store: Store, tmp_path: Path, rule: str, left: list[str]
) -> None:
    schedule: dict[str, Any] = {"psp_fees": {"simulator": "1.4%+0.10 EUR"}, "psp_fee_tolerance_minor": 0}
    desk = ArrivalDesk(store, tmp_path, break_rules={"fee": rule}, **schedule)
    await desk.world.pay(checkout("c1", "o1"))
    report = await desk.arrive(desk.close()[0])
    (fee,) = report.mismatches
    assert (fee.expected_minor, fee.stated_minor) == (24, 25)
    assert await desk.breaks() == left
    assert await desk.breaks("reason LIKE 'what the provider has kept is booked as its fee%'") == ["fee"][len(left) :]
    assert await desk.balances() == {"psp_payouts_in_transit": 975, "platform_psp_fees": 25}  # booked once, in any case
    assert len(await desk.alerts()) == (rule == "escalate")
    assert await desk.world.violations() == {}
