"""Adyen's Settlement Detail Report in both layouts: the arithmetic of a line, the types, the batches, the refusals."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from coatcheck.ids import OPERATION, print_id
from coatcheck.reconciliation.formats.adyen import _KINDS, _NEEDED, _OPTIONAL, AdyenSettlementDetail
from coatcheck.reconciliation.lines import ControlTotal, FileRefusedError, Format, Item, LineKind, SettlementLine

FORMAT: Format = AdyenSettlementDetail()
CHARGED = print_id(OPERATION, UUID(int=1 << 8))
REFUNDED = print_id(OPERATION, UUID(int=2 << 8))
OLD = [
    *("Company Account", "Merchant Account", "Psp Reference", "Merchant Reference", "Payment Method", "Creation Date"),
    *("TimeZone", "Type", "Modification Reference", "Gross Currency", "Gross Debit (GC)", "Gross Credit (GC)"),
    *("Exchange Rate", "Net Currency", "Net Debit (NC)", "Net Credit (NC)", "Commission (NC)", "Markup (NC)"),
    *("Scheme Fees (NC)", "Interchange (NC)", "Payment Method Variant", "Modification Merchant Reference"),
    *("Batch Number", "Reserved4", "Reserved5", "Reserved6", "Reserved7", "Reserved8", "Reserved9", "Reserved10"),
]
OF_2025 = [
    *OLD,
    *("Booking Date", "Booking Date TimeZone", "Metadata", "Balance Currency", "Net Debit (BC)", "Net Credit (BC)"),
    *("Payment Fees (NC)", "DCC Markup (NC)", "Funds Destination", "Balance Platform Debit", "Balance Platform Credit"),
    *("Shopper Country", "Clearing Network", "Merchant Order Reference", "Dispute Reference", "ARN"),
    *("Settlement Flow", "Authorisation Code", "Gross Fees (NC)"),
]
SETTLED = {
    "Company Account": "Hats",
    "Merchant Account": "HatsEU",
    "Psp Reference": "PSP0000000000001",
    "Merchant Reference": CHARGED,
    "Payment Method": "visa",
    "Creation Date": "2026-05-20 00:06:43",
    "TimeZone": "CEST",
    "Type": "Settled",
    "Modification Reference": "MOD0000000000001",
    "Gross Currency": "EUR",
    "Gross Credit (GC)": "100.00",
    "Exchange Rate": "1",
    "Net Currency": "EUR",
    "Net Credit (NC)": "98.55",
    "Markup (NC)": "0.60",
    "Scheme Fees (NC)": "0.15",
    "Interchange (NC)": "0.70",
    "Batch Number": "118",
}
REFUND = SETTLED | {
    "Type": "Refunded",
    "Modification Reference": "MOD0000000000002",
    "Modification Merchant Reference": REFUNDED,
    "Gross Debit (GC)": "40.00",
    "Gross Credit (GC)": "",
    "Net Debit (NC)": "40.10",
    "Net Credit (NC)": "",
    "Commission (NC)": "0.10",
    "Markup (NC)": "",
    "Scheme Fees (NC)": "",
    "Interchange (NC)": "",
}
BARE = {
    name: SETTLED[name] for name in ("Merchant Account", "Creation Date", "TimeZone", "Net Currency", "Batch Number")
}
PAYOUT = BARE | {
    "Type": "MerchantPayout",
    "Modification Reference": '"TX1 batch 118, HatsEU"',
    "Net Debit (NC)": "58.45",
}


def csv_of(*rows: dict[str, str], columns: Sequence[str] = OLD) -> str:
    lines = [",".join(columns), *[",".join(row.get(name, "") for name in columns) for row in rows]]
    return "".join(f"{line}\n" for line in lines)


def read(*rows: dict[str, str], columns: Sequence[str] = OLD) -> list[Item]:
    return list(FORMAT.read(iter([csv_of(*rows, columns=columns)])))


def line_of(row: dict[str, str], columns: Sequence[str] = OLD) -> SettlementLine:
    """Read one row: a file of it alone is no whole batch."""
    line = next(iter(FORMAT.read(iter([csv_of(row, columns=columns)]))))
    assert isinstance(line, SettlementLine)
    return line


def refusal_of(*rows: dict[str, str], columns: Sequence[str] = OLD) -> str:
    with pytest.raises(FileRefusedError) as refusal:
        read(*rows, columns=columns)
    return str(refusal.value)


def totals_of(*rows: dict[str, str]) -> list[tuple[str, str | None, int, int]]:
    items = [item for item in read(*rows) if isinstance(item, ControlTotal)]
    return [(item.what, item.currency, item.stated, item.counted) for item in items]


@pytest.mark.parametrize("columns", [OLD, OF_2025, OF_2025[::-1]])
def test_a_settled_charge_reads_the_same_in_every_layout_and_order(columns: list[str]) -> None:
    assert line_of(SETTLED, columns) == SettlementLine(
        line_no=2,
        kind=LineKind.CHARGE,
        batch="HatsEU 118",
        reference=CHARGED,
        provider_reference="PSP0000000000001",
        charge_reference="PSP0000000000001",
        occurred_at=datetime(2026, 5, 19, 22, 6, 43, tzinfo=UTC),
        currency="EUR",
        gross_minor=10000,
        fee_minor=145,
        net_minor=9855,
    )


def test_the_modification_merchant_reference_may_be_missing() -> None:
    columns = [name for name in OLD if name != "Modification Merchant Reference"]
    assert line_of(SETTLED, columns).reference == CHARGED
    assert line_of(REFUND, columns).reference is None


def test_a_capture_that_we_asked_for_has_its_own_reference_and_id() -> None:
    line = line_of(SETTLED | {"Modification Merchant Reference": REFUNDED})
    assert (line.reference, line.provider_reference, line.charge_reference) == (
        REFUNDED,
        "MOD0000000000001",
        "PSP0000000000001",
    )


def test_a_refund_has_its_own_reference_and_its_fee_comes_on_top() -> None:
    line = line_of(REFUND)
    assert (line.kind, line.reference, line.provider_reference, line.charge_reference) == (
        LineKind.REFUND,
        REFUNDED,
        "MOD0000000000002",
        "PSP0000000000001",
    )
    assert (line.gross_minor, line.fee_minor, line.net_minor) == (-4000, 10, -4010)
    assert line_of(REFUND | {"Modification Merchant Reference": ""}).reference is None


def test_a_chargeback_carries_the_reference_of_its_charge() -> None:
    row = REFUND | {"Type": "Chargeback", "Modification Merchant Reference": "", "Net Debit (NC)": "50.65"}
    line = line_of(row | {"Commission (NC)": "", "Markup (NC)": "10.65"})
    assert (line.kind, line.reference, line.gross_minor, line.fee_minor, line.net_minor) == (
        LineKind.CHARGEBACK,
        CHARGED,
        -4000,
        1065,
        -5065,
    )


@pytest.mark.parametrize(
    ("type_name", "kind"),
    [
        ("Settled", LineKind.CHARGE),
        ("SettledBulk", LineKind.CHARGE),
        ("SettledInstallment", LineKind.CHARGE),
        ("settled", LineKind.CHARGE),
        ("Refunded", LineKind.REFUND),
        ("RefundedBulk", LineKind.REFUND),
        ("RefundedReversed", LineKind.REFUND_RETURNED),
        ("Chargeback", LineKind.CHARGEBACK),
        ("SecondChargeback", LineKind.CHARGEBACK),
        ("ChargebackReversed", LineKind.CHARGEBACK_REVERSED),
    ],
)
def test_each_type_of_a_payment_becomes_a_kind(type_name: str, kind: LineKind) -> None:
    line = line_of(SETTLED | {"Type": type_name})
    assert (line.kind, line.description) == (kind, None)


@pytest.mark.parametrize(
    ("type_name", "kind"),
    [
        ("Fee", LineKind.FEE),
        ("MiscCosts", LineKind.FEE),
        ("PaymentCost", LineKind.FEE),
        ("InvoiceDeduction", LineKind.FEE),
        ("DepositCorrection", LineKind.ADJUSTMENT),
        ("Balancetransfer", LineKind.ADJUSTMENT),
        ("ManualCorrected", LineKind.ADJUSTMENT),
        ("ATypeOfNextYear", LineKind.ADJUSTMENT),
    ],
)
def test_each_type_of_the_batch_itself_becomes_a_fee_or_an_adjustment_that_says_it(
    type_name: str, kind: LineKind
) -> None:
    line = line_of(BARE | {"Type": type_name, "Modification Reference": "May", "Net Debit (NC)": "2.00"})
    assert (line.kind, line.description) == (kind, type_name)
    assert (line.provider_reference, line.charge_reference) == ("May", None)
    assert (line.gross_minor, line.fee_minor, line.net_minor) == (-200, 0, -200)


def test_a_conversion_gives_the_gross_in_our_currency_and_what_was_asked() -> None:
    row = SETTLED | {"Net Currency": "USD", "Net Credit (NC)": "107.07", "Exchange Rate": "1.0865"}
    line = line_of(row)
    assert (line.currency, line.gross_minor, line.fee_minor, line.net_minor) == ("USD", 10852, 145, 10707)
    assert (line.asked_minor, line.asked_currency) == (10000, "EUR")
    refund = line_of(REFUND | {"Gross Currency": "usd", "Net Currency": "eur"})
    assert (refund.currency, refund.asked_minor, refund.asked_currency) == ("EUR", -4000, "USD")


@pytest.mark.parametrize(
    ("changes", "fee"),
    [
        ({"Payment Fees (NC)": "1.45"}, 145),
        ({"Markup (NC)": "", "Scheme Fees (NC)": "", "Interchange (NC)": "", "Payment Fees (NC)": "1.45"}, 145),
        ({"DCC Markup (NC)": "0.30", "Net Credit (NC)": "98.25"}, 175),
        ({"DCC Markup (NC)": "-0.30", "Net Credit (NC)": "98.85"}, 115),
        ({"DCC Markup (NC)": "0.30", "Payment Fees (NC)": "1.45", "Net Credit (NC)": "98.25"}, 175),
        ({"DCC Markup (NC)": "0.30", "Payment Fees (NC)": "1.75", "Net Credit (NC)": "98.25"}, 175),
        ({"DCC Markup (NC)": "0.30"}, 145),
    ],
)
def test_the_fees_of_2025_are_counted_once(changes: dict[str, str], fee: int) -> None:
    line = line_of(SETTLED | changes, OF_2025)
    assert (line.gross_minor, line.fee_minor, line.net_minor) == (10000, fee, 10000 - fee)


def test_the_markup_of_a_shopper_s_conversion_is_a_fee_where_adyen_converted_too() -> None:
    row = SETTLED | {"Net Currency": "USD", "Net Credit (NC)": "107.07", "DCC Markup (NC)": "-0.45"}
    line = line_of(row, OF_2025)
    assert (line.currency, line.gross_minor, line.fee_minor, line.net_minor) == ("USD", 10807, 100, 10707)


@pytest.mark.parametrize(
    ("changes", "fees"),
    [
        ({"DCC Markup (NC)": "0.31", "Net Credit (NC)": "98.25"}, "1.76"),
        ({"Payment Fees (NC)": "1.75", "Net Credit (NC)": "98.25"}, "1.45"),
        ({"Markup (NC)": "0.00", "Scheme Fees (NC)": "", "Interchange (NC)": "", "Payment Fees (NC)": "1.45"}, "0.00"),
    ],
)
def test_H8_fees_that_do_not_come_to_the_difference_are_refused(changes: dict[str, str], fees: str) -> None:
    row = SETTLED | changes
    net = row["Net Credit (NC)"]
    assert refusal_of(row, columns=OF_2025) == f"line 2: net {net} is not gross 100.00 minus fees {fees}"


def test_a_charge_that_its_fee_eats_up_has_no_net() -> None:
    line = line_of(SETTLED | {"Gross Credit (GC)": "1.45", "Net Credit (NC)": ""})
    assert (line.gross_minor, line.fee_minor, line.net_minor) == (145, 145, 0)


@pytest.mark.parametrize(
    ("currency", "text", "minor"),
    [
        ("CLP", "1000.00", 1000),
        ("CLP", "1000", 1000),
        ("CVE", "1000", 100_000),
        ("IDR", "150000", 15_000_000),
        ("ISK", "150.00", 150),
        ("JPY", "150", 150),
        ("KWD", "1.500", 1500),
    ],
)
def test_E4_amounts_are_read_as_the_major_units_they_are(currency: str, text: str, minor: int) -> None:
    row = BARE | {"Type": "Settled", "Gross Currency": currency, "Net Currency": currency}
    line = line_of(row | {"Gross Credit (GC)": text, "Net Credit (NC)": text})
    assert (line.gross_minor, line.net_minor) == (minor, minor)


@pytest.mark.parametrize(
    ("zone", "hour"),
    [
        ("UTC", 12),
        ("GMT", 12),
        ("CET", 11),
        ("CEST", 10),
        ("BST", 11),
        ("EST", 17),
        ("PDT", 19),
        ("SGT", 4),
        ("AEST", 2),
    ],
)
def test_H5_the_zone_s_abbreviation_tells_the_offset(zone: str, hour: int) -> None:
    line = line_of(SETTLED | {"Creation Date": "2026-05-20 12:00:00", "TimeZone": zone})
    assert line.occurred_at == datetime(2026, 5, 20, hour, tzinfo=UTC)


@pytest.mark.parametrize("zone", ["CST", "IST", "", "XYZ", "+02:00"])
def test_H5_a_zone_that_means_several_offsets_is_refused(zone: str) -> None:
    assert f"the TimeZone {zone!r} does not say which offset is meant" in refusal_of(SETTLED | {"TimeZone": zone})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"Net Credit (NC)": "98.54"}, "line 2: net 98.54 is not gross 100.00 minus fees 1.45"),
        ({"Markup (NC)": ""}, "line 2: net 98.55 is not gross 100.00 minus fees 0.85"),
        ({"Net Debit (NC)": "1.00"}, "line 2: it has both a debit 1.00 and a credit 98.55"),
        ({"Gross Debit (GC)": "1.00"}, "line 2: it has both a debit 1.00 and a credit 100.00"),
        ({"Net Credit (NC)": "-98.55"}, "line 2: debit and credit are written without a sign"),
        ({"Gross Credit (GC)": "-100.00"}, "line 2: debit and credit are written without a sign"),
        ({"Gross Credit (GC)": "", "Net Credit (NC)": ""}, "line 2: it has no amount at all"),
        (
            {"Net Currency": "USD", "Net Credit (NC)": "", "Net Debit (NC)": "99.00"},
            "line 2: the gross in EUR and in USD",
        ),
        ({"Net Credit (NC)": "98,55".join('""')}, "line 2: '98,55' is no amount"),
        ({"Commission (NC)": "free"}, "line 2: 'free' is no amount"),
        ({"Net Currency": "ISK"}, "line 2: '98.55' has more decimals than ISK (0)"),
        ({"Net Currency": ""}, "line 2: this is not an ISO 4217 currency code"),
        ({"Gross Currency": "EURO"}, "line 2: this is not an ISO 4217 currency code"),
        ({"Creation Date": "2026-05-20"}, "line 2: '2026-05-20' is no time"),
        ({"Creation Date": "2026-13-20 00:06:43"}, "line 2: '2026-13-20 00:06:43' is no time"),
        ({"Creation Date": "0001-01-01 00:00:00"}, "line 2: '0001-01-01 00:00:00' is no time"),
        ({"Merchant Account": ""}, "line 2: Merchant Account, Type and Batch Number must not be blank"),
        ({"Batch Number": ""}, "line 2: Merchant Account, Type and Batch Number must not be blank"),
        ({"Type": ""}, "line 2: Merchant Account, Type and Batch Number must not be blank"),
    ],
)
def test_H8_what_cannot_be_understood_is_refused_with_its_line(changes: dict[str, str], reason: str) -> None:
    assert refusal_of(SETTLED | changes).startswith(reason)


@pytest.mark.parametrize("missing", ["TimeZone", "Type", "Net Debit (NC)", "Interchange (NC)", "Batch Number"])
def test_a_file_without_a_needed_column_is_refused_by_name(missing: str) -> None:
    columns = [name for name in OF_2025 if name != missing]
    assert refusal_of(SETTLED, columns=columns) == f"line 1: the header lacks the column '{missing}'"


def test_a_batch_that_closes_with_its_payout_holds() -> None:
    _, _, payout, total = read(SETTLED, REFUND, PAYOUT)
    assert isinstance(payout, SettlementLine)
    assert (payout.kind, payout.net_minor, payout.provider_reference) == (
        LineKind.PAYOUT,
        -5845,
        "TX1",  # the one word that a bank's statement has of it
    )
    assert total == ControlTotal(
        what="payout of batch HatsEU 118", batch="HatsEU 118", currency="EUR", stated=5845, counted=5845
    )


def test_H2_a_batch_whose_payout_differs_does_not_hold() -> None:
    assert totals_of(SETTLED, PAYOUT) == [("payout of batch HatsEU 118", "EUR", 5845, 9855)]


def test_H2_a_file_cut_between_two_rows_is_refused_for_its_batch_has_no_end() -> None:
    others = [row | {"Batch Number": "117"} for row in (SETTLED, REFUND, PAYOUT)]
    fee = BARE | {"Type": "InvoiceDeduction", "Modification Reference": "May", "Net Debit (NC)": "2.00"}
    correction = fee | {"Type": "DepositCorrection"}
    rows = [*others, SETTLED, REFUND, correction, fee, PAYOUT | {"Net Debit (NC)": "54.45"}]
    assert all(stated == counted for _, _, stated, counted in totals_of(*rows))
    for end in (1, 2, 4, 5, 6, 7):
        comes_to = {1: "98.55", 2: "58.45", 4: "98.55", 5: "58.45", 6: "56.45", 7: "54.45"}[end]
        number = 117 if end < len(others) else 118
        assert refusal_of(*rows[:end]) == (
            f"line {end + 1}: batch HatsEU {number} comes to {comes_to} EUR, and its payout is missing: the file was "
            "cut, or the batch is not closed yet; fetch it again"
        )
    assert len(totals_of(*others)) == 1  # one batch less cannot be seen


@pytest.mark.parametrize("type_name", ["Balancetransfer", "balancetransfer", "ATypeOfNextYear"])
def test_a_batch_that_may_have_been_closed_without_a_payout_is_no_cut_file(type_name: str) -> None:
    moved = BARE | {"Type": type_name, "Net Debit (NC)": "50.00"}
    assert totals_of(SETTLED, moved) == [("payout of batch HatsEU 118", "EUR", 0, 4855)]


def test_a_batch_that_comes_to_nothing_needs_no_payout() -> None:
    back = SETTLED | {"Type": "Chargeback", "Gross Debit (GC)": "97.10", "Gross Credit (GC)": "", "Net Credit (NC)": ""}
    assert totals_of(SETTLED, back | {"Net Debit (NC)": "98.55"}) == [("payout of batch HatsEU 118", "EUR", 0, 0)]


def test_a_batch_whose_negative_balance_was_moved_on_comes_to_nothing_and_holds() -> None:
    moved = BARE | {"Type": "Balancetransfer", "Net Credit (NC)": "40.10"}
    assert totals_of(REFUND, moved) == [("payout of batch HatsEU 118", "EUR", 0, 0)]


def test_each_merchant_account_batch_and_currency_has_its_own_total() -> None:
    other = {"Merchant Account": "HatsUS", "Net Currency": "USD", "Gross Currency": "USD"}
    later = {"Batch Number": "119"}
    rows = [SETTLED, SETTLED | other, SETTLED | later, PAYOUT | other, PAYOUT, PAYOUT | later]
    assert totals_of(*rows) == [
        ("payout of batch HatsEU 118", "EUR", 5845, 9855),
        ("payout of batch HatsUS 118", "USD", 5845, 9855),
        ("payout of batch HatsEU 119", "EUR", 5845, 9855),
    ]


def test_H2_a_file_without_rows_or_with_a_row_cut_in_half_is_refused() -> None:
    assert "there are no rows below the header" in refusal_of()
    text = csv_of(SETTLED, REFUND)
    with pytest.raises(FileRefusedError, match="line 3: it has 3 fields where the header has 30"):
        list(FORMAT.read(iter([text[: text.rindex("PSP")]])))


def test_H2_a_last_line_without_its_end_is_refused_only_where_a_field_that_is_read_may_be_short() -> None:
    assert len(list(FORMAT.read(iter([csv_of(REFUND, SETTLED, PAYOUT).removesuffix("\n")])))) == 4
    columns = [*OLD[:22], *OLD[23:], "Batch Number"]
    with pytest.raises(FileRefusedError, match="the last line has no line end"):
        list(FORMAT.read(iter([csv_of(REFUND, SETTLED, PAYOUT, columns=columns).removesuffix("\n")])))


def test_both_layouts_are_recognised_and_nothing_else_is() -> None:
    assert FORMAT.recognises(csv_of(SETTLED))
    assert FORMAT.recognises(csv_of(SETTLED, columns=OF_2025[::-1]).replace("\n", "\r\n"))
    assert not FORMAT.recognises("")
    assert not FORMAT.recognises("Company Account,Merchant Account,Psp Reference,Type\n")
    assert not FORMAT.recognises("<xml>" + "x" * 500_000)


def test_the_page_tells_what_is_read_and_what_becomes_of_it() -> None:
    page = (Path(__file__).parents[2] / "docs/settlement-formats.md").read_text("utf-8")
    section = page.partition("\n## Adyen\n")[2].partition("\n## ")[0]
    assert [name for name in (*_NEEDED, *_OPTIONAL) if f"`{name}`" not in section] == []
    told = re.findall(r"^\| (`[^|]+) \| `(\w+)`", section, flags=re.MULTILINE)
    kinds = {name.lower(): kind for names, kind in told for name in re.findall(r"`(\w+)`", names)}
    assert kinds == {name: kind.value for name, kind in _KINDS.items()}
