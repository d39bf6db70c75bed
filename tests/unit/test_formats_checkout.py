"""Checkout.com's Settlement Breakdown Report: fractions of a cent, the types, the payouts, the refusals."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from coatcheck.ids import OPERATION, print_id
from coatcheck.reconciliation.formats.checkout import _KINDS, _READ, CheckoutSettlementBreakdown
from coatcheck.reconciliation.lines import ControlTotal, FileRefusedError, Format, Item, LineKind, SettlementLine

FORMAT: Format = CheckoutSettlementBreakdown()
OURS = print_id(OPERATION, UUID(int=1 << 8))
COLUMNS = [
    *("Client Entity ID", "Client Entity Name", "Processing Channel ID", "Processing Channel Name", "Type"),
    *("Payment ID", "Reference", "Processed On", "Available On", "Holding Currency", "Payout ID", "Payout Date"),
    *("Gross In Holding Currency", "Deduction In Holding Currency", "Net In Holding Currency"),
    *("Processing Fee In Holding Currency", "Scheme Fee In Holding Currency", "Interchange In Holding Currency"),
    *("Tax In Holding Currency", "Reserve In Holding Currency", "Processing Currency", "Gross In Processing Currency"),
    *(
        "FX Rate Applied",
        "Payment Method",
        "Card Type",
        "Processed On UTC",
        "Action ID",
        "Timezone",
        "Card Product Type",
    ),
]
CHARGE = {
    "Client Entity ID": "ent_1",
    "Type": "Charge",
    "Payment ID": "pay_1",
    "Reference": OURS,
    "Processed On": "2026-01-01T04:00:00",
    "Holding Currency": "USD",
    "Payout ID": "00000000CFJU",
    "Gross In Holding Currency": "50.00",
    "Deduction In Holding Currency": "-1.50",
    "Net In Holding Currency": "48.50",
    "Processing Currency": "USD",
    "Gross In Processing Currency": "50.00",
    "FX Rate Applied": "1",
    "Processed On UTC": "2026-01-01T12:00:00",
    "Action ID": "act_1",
    "Timezone": "America/Los_Angeles",
}


def amounts(gross: str, deduction: str, net: str) -> dict[str, str]:
    return {
        "Gross In Holding Currency": gross,
        "Deduction In Holding Currency": deduction,
        "Net In Holding Currency": net,
    }


PAYOUT = CHARGE | {"Type": "Merchant Payout", "Payment ID": "", "Reference": ""} | amounts("-48.50", "0", "-48.50")


def csv_of(*rows: dict[str, str], columns: Sequence[str] = COLUMNS) -> str:
    lines = [",".join(columns), *[",".join(row.get(name, "") for name in columns) for row in rows]]
    return "".join(f"{line}\n" for line in lines)


def read(*rows: dict[str, str], columns: Sequence[str] = COLUMNS) -> list[Item]:
    return list(FORMAT.read(iter([csv_of(*rows, columns=columns)])))


def lines_of(*rows: dict[str, str], columns: Sequence[str] = COLUMNS) -> list[SettlementLine]:
    return [item for item in read(*rows, columns=columns) if isinstance(item, SettlementLine)]


def refusal_of(*rows: dict[str, str], columns: Sequence[str] = COLUMNS) -> str:
    with pytest.raises(FileRefusedError) as refusal:
        read(*rows, columns=columns)
    return str(refusal.value)


def totals_of(*rows: dict[str, str]) -> list[tuple[str, str | None, int, int]]:
    items = [item for item in read(*rows) if isinstance(item, ControlTotal)]
    return [(item.what, item.currency, item.stated, item.counted) for item in items]


@pytest.mark.parametrize("columns", [COLUMNS, COLUMNS[::-1]])
def test_a_charge_says_what_was_charged_and_what_it_cost(columns: list[str]) -> None:
    assert lines_of(CHARGE, columns=columns) == [
        SettlementLine(
            line_no=2,
            kind=LineKind.CHARGE,
            batch="00000000CFJU",
            reference=OURS,
            provider_reference="pay_1",
            charge_reference="pay_1",
            occurred_at=datetime(2026, 1, 1, 12, tzinfo=UTC),
            currency="USD",
            gross_minor=5000,
            fee_minor=150,
            net_minor=4850,
        )
    ]


@pytest.mark.parametrize(
    ("type_name", "gross", "kind", "description"),
    [
        ("Charge", "10", LineKind.CHARGE, None),
        ("charge", "10", LineKind.CHARGE, None),
        ("Partial Charge", "10", LineKind.CHARGE, None),
        ("Capture", "10", LineKind.CHARGE, None),
        ("Partial Capture", "10", LineKind.CHARGE, None),
        ("Refund", "-10", LineKind.REFUND, None),
        ("Partial Refund", "-10", LineKind.REFUND, None),
        ("Refund", "10", LineKind.REFUND_RETURNED, None),
        ("Chargeback", "-10", LineKind.CHARGEBACK, None),
        ("Chargeback", "10", LineKind.CHARGEBACK_REVERSED, None),
        ("Charge", "-10", LineKind.ADJUSTMENT, "Charge"),
        ("Top Up", "10", LineKind.ADJUSTMENT, "Top Up"),
        ("Merchant Payout", "-10", LineKind.PAYOUT, None),
    ],
)
def test_the_type_and_the_side_of_the_gross_make_the_kind(
    type_name: str, gross: str, kind: LineKind, description: str | None
) -> None:
    (line,) = lines_of(CHARGE | {"Type": type_name} | amounts(gross, "0.00", gross))
    assert (line.kind, line.description, line.gross_minor) == (kind, description, int(gross) * 100)


@pytest.mark.parametrize("type_name", ["Charge", "Void", "Merchant Payout", "Network Token", "Refund"])
def test_a_movement_without_gross_is_a_fee_that_says_its_type(type_name: str) -> None:
    (line,) = lines_of(CHARGE | {"Type": type_name} | amounts("0.00", "-0.25", "-0.25"))
    assert (line.kind, line.description) == (LineKind.FEE, type_name)
    assert (line.gross_minor, line.fee_minor, line.net_minor) == (0, 25, -25)


def test_a_refund_is_known_by_its_action_and_its_charge() -> None:
    refund = CHARGE | {"Type": "Refund", "Action ID": "act_9"} | amounts("-10.00", "-0.30", "-10.30")
    (line,) = lines_of(refund)
    assert (line.reference, line.provider_reference, line.charge_reference) == (OURS, "act_9", "pay_1")
    (line,) = lines_of(refund, columns=[name for name in COLUMNS if name != "Action ID"])
    assert line.provider_reference == "pay_1"


def test_fractions_of_a_cent_are_shared_out_so_that_the_sum_is_right() -> None:
    rows = [CHARGE | amounts("10.00", "-0.33333", "9.66667")] * 3
    lines = lines_of(*rows)
    assert [line.gross_minor for line in lines] == [1000, 1000, 1000]
    assert [line.net_minor for line in lines] == [967, 966, 967]
    assert [line.fee_minor for line in lines] == [33, 34, 33]
    assert totals_of(*rows, PAYOUT | amounts("-29.00", "0", "-29.00")) == [
        ("net of payout 00000000CFJU", "USD", 2900, 2900)
    ]


def test_a_whole_amount_is_never_changed_by_what_is_left_of_others() -> None:
    halves = [CHARGE | amounts("10.005", "0", "10.005")] * 3
    whole = CHARGE | amounts("50.01", "-1.50", "48.51")
    lines = lines_of(*halves, whole, CHARGE | amounts("-50.01", "0", "-50.01"))
    assert [line.gross_minor for line in lines] == [1000, 1001, 1000, 5001, -5001]
    assert [line.net_minor for line in lines] == [1000, 1001, 1000, 4851, -5001]


def test_each_payout_and_currency_keeps_its_own_fractions() -> None:
    third = CHARGE | amounts("10.005", "0", "10.005")
    other = third | {"Payout ID": "00000000CFJV"}
    assert [line.gross_minor for line in lines_of(third, other, third)] == [1000, 1000, 1001]


@pytest.mark.parametrize(
    ("asked", "currency", "gross", "read_as"),
    [
        ("46.20", "EUR", "50.00", (4620, "EUR")),
        ("46.20", "eur", "-50.00", (-4620, "EUR")),
        ("-46.20", "EUR", "-50.00", (-4620, "EUR")),
        ("7800", "JPY", "50.00", (7800, "JPY")),
        ("50.00", "USD", "50.00", (None, None)),
        ("", "", "50.00", (None, None)),
        ("", "EUR", "0.00", (None, None)),
    ],
)
def test_what_was_asked_is_said_where_it_was_converted(
    asked: str, currency: str, gross: str, read_as: tuple[int | None, str | None]
) -> None:
    converted = {"Gross In Processing Currency": asked, "Processing Currency": currency}
    (line,) = lines_of(CHARGE | amounts(gross, "0", gross) | converted)
    assert (line.asked_minor, line.asked_currency) == read_as


def test_the_time_is_the_column_in_utc_or_else_one_that_is_known_to_be() -> None:
    plain = [name for name in COLUMNS if name not in ("Processed On UTC", "Timezone")]
    (line,) = lines_of(CHARGE, columns=plain)
    assert line.occurred_at == datetime(2026, 1, 1, 4, tzinfo=UTC)
    (line,) = lines_of(CHARGE | {"Processed On UTC": "", "Timezone": "Etc/UTC"})
    assert line.occurred_at == datetime(2026, 1, 1, 4, tzinfo=UTC)
    (line,) = lines_of(CHARGE | {"Processed On UTC": "2026-01-01T12:00:00.1234567Z"})
    assert line.occurred_at == datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (amounts("50.00", "-1.50", "48.51"), "line 2: net 48.51 is not gross 50.00 plus deduction -1.50"),
        (amounts("50.00", "1.50", "48.50"), "line 2: net 48.50 is not gross 50.00 plus deduction 1.50"),
        (amounts("50.00", "-1.500001", "48.50"), "line 2: net 48.50 is not gross 50.00 plus deduction -1.500001"),
        (amounts("50.00", "", "50.00"), "line 2: '' is no amount"),
        (amounts("5e1", "0", "50"), "line 2: '5e1' is no amount"),
        (amounts('"50,00"', "0", "50"), "line 2: '50,00' is no amount"),
        (amounts("999999999999999", "0", "999999999999999"), "line 2: '999999999999999' is larger than any amount"),
        ({"Holding Currency": "ZZZ"}, "line 2: this is not an ISO 4217 currency code"),
        ({"Holding Currency": ""}, "line 2: this is not an ISO 4217 currency code"),
        ({"Payout ID": ""}, "line 2: Type and Payout ID must not be blank"),
        ({"Type": ""}, "line 2: Type and Payout ID must not be blank"),
        ({"Processed On UTC": "9999-12-31T23:59:59-08:00"}, "line 2: '9999-12-31T23:59:59-08:00' is no time"),
        ({"Processed On UTC": "2026-01-01"}, "line 2: '2026-01-01' is no time"),
        ({"Processed On UTC": ""}, "line 2: Processed On is in America/Los_Angeles, and Processed On UTC is not there"),
        ({"Processing Currency": "EUR", "Gross In Processing Currency": "1.005"}, "line 2: '1.005' has more decimals"),
        ({"Type": "Merchant Payout"} | amounts("-1.005", "0", "-1.005"), "line 2: '-1.005' has more decimals than USD"),
    ],
)
def test_H8_what_cannot_be_understood_is_refused_with_its_line(changes: dict[str, str], reason: str) -> None:
    assert refusal_of(CHARGE | changes).startswith(reason)


@pytest.mark.parametrize("missing", ["Type", "Reference", "Payout ID", "Deduction In Holding Currency"])
def test_a_file_without_a_needed_column_is_refused_by_name(missing: str) -> None:
    columns = [name for name in COLUMNS if name != missing]
    assert refusal_of(CHARGE, columns=columns) == f"line 1: the header lacks the column '{missing}'"


def test_a_payout_is_held_against_its_lines_where_the_file_has_it() -> None:
    assert totals_of(CHARGE) == []
    assert totals_of(CHARGE, PAYOUT) == [("net of payout 00000000CFJU", "USD", 4850, 4850)]


def test_H2_a_payout_that_differs_from_its_lines_is_a_total_that_does_not_hold() -> None:
    assert totals_of(PAYOUT, CHARGE, CHARGE) == [("net of payout 00000000CFJU", "USD", 4850, 9700)]
    assert totals_of(CHARGE, PAYOUT, PAYOUT) == [("net of payout 00000000CFJU", "USD", 9700, 4850)]
    assert totals_of(CHARGE, PAYOUT | amounts("-48.49", "0", "-48.49")) == [
        ("net of payout 00000000CFJU", "USD", 4849, 4850)
    ]


@pytest.mark.parametrize("paid", ["48.50", "48.51"])
def test_a_payout_may_cut_off_what_is_less_than_a_cent(paid: str) -> None:
    row = CHARGE | amounts("50.00", "-1.495", "48.505")
    (total,) = totals_of(row, PAYOUT | amounts(f"-{paid}", "0", f"-{paid}"))
    assert total[2] == total[3]


def test_H2_a_file_without_rows_or_with_a_row_cut_in_half_is_refused() -> None:
    assert "there are no rows below the header" in refusal_of()
    text = csv_of(CHARGE)
    with pytest.raises(FileRefusedError, match="line 2: it has 13 fields where the header has 29"):
        list(FORMAT.read(iter([text[: text.index(",-1.50")]])))


def test_H2_a_last_line_without_its_end_is_refused_only_where_a_field_that_is_read_may_be_short() -> None:
    assert len(list(FORMAT.read(iter([csv_of(CHARGE).removesuffix("\n")])))) == 1
    with pytest.raises(FileRefusedError, match="the last line has no line end"):
        list(FORMAT.read(iter([csv_of(CHARGE, columns=COLUMNS[:-1]).removesuffix("\n")])))


def test_the_header_is_recognised_in_any_order_and_nothing_else_is() -> None:
    assert FORMAT.recognises(csv_of(CHARGE))
    assert FORMAT.recognises(csv_of(CHARGE, columns=COLUMNS[::-1]).replace("\n", "\r\n"))
    assert not FORMAT.recognises("")
    assert not FORMAT.recognises("Client Entity ID,Payout ID,Payout Date,Holding Currency,Payout Amount\n")
    assert not FORMAT.recognises("<xml>" + "x" * 500_000)


def test_the_page_tells_what_is_read_and_what_becomes_of_it() -> None:
    page = (Path(__file__).parents[2] / "docs/settlement-formats.md").read_text("utf-8")
    section = page.partition("\n## Checkout.com\n")[2].partition("\n## ")[0]
    assert [name for name in _READ if f"`{name}`" not in section] == []
    told = re.findall(r"^\| (`[^|]+) \| `(\w+)`", section, flags=re.MULTILINE)
    named = {name.lower() for names, _ in told for name in re.findall(r"`([^`]+)`", names)}
    assert named == {name for name, _ in _KINDS}
    assert {kind for _, kind in told} <= {kind.value for kind in LineKind}
