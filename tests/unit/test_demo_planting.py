"""The mistakes that the demo plants: each where it says, and a file that is whole but for them."""

import pytest

from coatcheck.demo.evening import minor_units
from coatcheck.demo.planting import Mistake, Unpaid, plant

HEADER = "batch,line,type,id,charge,reference,occurred_at,currency,gross,fee,net"
AT = "2026-11-21T20:00:00Z"


def settlement(charges: int) -> str:
    rows = [f"st_1,{n},charge,ch_{n},ch_{n},op_{n},{AT},EUR,{n}.00,0.20,{n - 1}.80" for n in range(1, charges + 1)]
    gross, fee = sum(range(1, charges + 1)) * 100, 20 * charges
    net = gross - fee
    rows.append(f"st_1,{charges + 1},payout,po_1,,,{AT},EUR,-{net / 100:.2f},0.00,-{net / 100:.2f}")
    rows.append(f"st_1,{charges + 1},end,,,,,EUR,{gross / 100:.2f},{fee / 100:.2f},{net / 100:.2f}")
    return "\n".join([HEADER, *rows]) + "\n"


def rows_of(text: str) -> list[list[str]]:
    return [line.split(",") for line in text.splitlines()]


def test_each_mistake_is_on_the_line_that_it_names() -> None:
    clean = settlement(9)
    spoiled, planted = plant(clean, 1, [Unpaid("ch_declined", "op_declined", 4_200)])
    rows, before = rows_of(spoiled), {row[3]: row for row in rows_of(clean)}
    on = {mistake.kind: rows[mistake.line - 1] for mistake in planted if mistake.line}
    assert on.keys() == {"amount", "fee", "missing_here", "duplicate_line", "duplicate_charge", "status"}
    assert minor_units(on["amount"][8], "EUR") == minor_units(before[on["amount"][3]][8], "EUR") + 100
    assert minor_units(on["fee"][9], "EUR") == 120
    assert (on["missing_here"][3], on["duplicate_charge"][3]) == ("ch_nobody", "ch_stranger")
    assert on["duplicate_charge"][5] in {row[5] for row in before.values()}
    assert on["duplicate_line"][3:6] == before[on["duplicate_line"][3]][3:6]
    assert (on["status"][3], on["status"][5], on["status"][8]) == ("ch_declined", "op_declined", "42.00")
    assert Mistake("control_total", 0) in planted


@pytest.mark.parametrize("charges", [1, 2, 3, 4, 12])
def test_the_payout_is_that_of_the_lines_and_only_the_total_is_one_too_high(charges: int) -> None:
    spoiled, planted = plant(settlement(charges), 7, [])
    _, *lines, payout, end = rows_of(spoiled)
    gross, fee = (sum(minor_units(row[place], "EUR") for row in lines) for place in (8, 9))
    assert all(minor_units(row[8], "EUR") - minor_units(row[9], "EUR") == minor_units(row[10], "EUR") for row in lines)
    assert minor_units(payout[10], "EUR") == fee - gross
    assert (minor_units(end[8], "EUR"), minor_units(end[9], "EUR")) == (gross + 1, fee)
    assert [int(row[1]) for row in lines] == list(range(1, len(lines) + 1))
    assert len({mistake.line for mistake in planted}) == len(planted)


def test_the_same_seed_plants_the_same_mistakes() -> None:
    assert plant(settlement(20), 3, []) == plant(settlement(20), 3, [])
    assert plant(settlement(20), 3, []) != plant(settlement(20), 4, [])
