"""PayPal's Settlement Report: its sections, the event codes, the footers, and every way of being cut."""

import re
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from coatcheck.ids import OPERATION, print_id
from coatcheck.reconciliation.formats.paypal import _KINDS, _READ, PayPalSettlement
from coatcheck.reconciliation.lines import ControlTotal, FileRefusedError, Format, Item, LineKind, SettlementLine

FORMAT: Format = PayPalSettlement()
OURS = print_id(OPERATION, UUID(int=1 << 8))
CH = (
    '"CH","Transaction ID","Invoice ID","PayPal Reference ID","PayPal Reference ID Type","Transaction Event Code",'
    '"Transaction Initiation Date","Transaction Completion Date",Transaction  Debit or Credit,'
    '"Gross Transaction Amount","Gross Transaction Currency","Fee Debit or Credit","Fee Amount","Fee Currency",'
    '"Custom Field","Consumer ID",'
    '"Payment Tracking ID",Store ID,"Bank Reference ID"'
)
HEAD = ['"RH",2026/01/07 04:11:51 -0800,"A","EZ782AXEUJUW8",009', '"FH",01']
SH = '"SH",2026/01/06 00:00:00 -0800,2026/01/06 23:59:59 -0800,"EZ782AXEUJUW8",""'
# A sale of 52.00 AUD for 2.25, and its refund with 0.47 of the fee given back.
SALE = (
    f'"SB",5678,{OURS},4H844,"TXN","T0006",2026/01/06 00:00:30 -0800,2026/01/06 00:00:31 -0800,"CR",5200,"AUD",'
    '"DR",225,"AUD","",YM2C,"","",""'
)
REFUND = (
    '"SB",6899,op_refund,5678,"TXN",T1107,2026/01/06 23:31:39 -0800,2026/01/06 23:31:39 -0800,DR,1200,"AUD",CR,47,'
    '"AUD","",AZVDZ,"","",""'
)
SF = '"SF","AUD",5200,1200,47,225,"CR",0,"CR",3822,"CR",0,"CR",3822,"CR",0,"CR",0'
RF = SF.replace("SF", "RF")
WHOLE = [*HEAD, SH, CH, SALE, REFUND, SF, '"SC",2', RF, '"RC",2', '"FF",2']


def read(*rows: str) -> list[Item]:
    return list(FORMAT.read(iter(["".join(f"{row}\n" for row in rows)])))


def refusal_of(*rows: str) -> str:
    with pytest.raises(FileRefusedError) as refusal:
        read(*rows)
    return str(refusal.value)


def with_body(*body: str) -> list[str]:
    """A file of these movements, whose footers have the right currency and are wrong in everything else."""
    return [*HEAD, SH, CH, *body, *footers("AUD"), '"FF",0']


def footers(*currencies: str) -> list[str]:
    sums = [f'"{{}}","{currency}",0,0,0,0' for currency in currencies]
    return [*[each.format("SF") for each in sums], '"SC",0', *[each.format("RF") for each in sums], '"RC",0']


def line_of(row: str) -> SettlementLine:
    line = read(*with_body(row))[0]
    assert isinstance(line, SettlementLine)
    return line


def totals_of(*rows: str) -> list[tuple[str, str | None, int, int]]:
    items = [item for item in read(*rows) if isinstance(item, ControlTotal)]
    return [(item.what, item.currency, item.stated, item.counted) for item in items]


def test_a_sale_says_what_was_charged_and_what_it_cost() -> None:
    assert read(*WHOLE)[0] == SettlementLine(
        line_no=5,
        kind=LineKind.CHARGE,
        batch="EZ782AXEUJUW8 2026-01-06",
        reference=OURS,
        provider_reference="5678",
        charge_reference="5678",
        occurred_at=datetime(2026, 1, 6, 8, 0, 30, tzinfo=UTC),
        currency="AUD",
        gross_minor=5200,
        fee_minor=225,
        net_minor=4975,
    )


def test_a_refund_names_its_charge_and_may_give_a_part_of_the_fee_back() -> None:
    line = read(*WHOLE)[1]
    assert isinstance(line, SettlementLine)
    assert (line.kind, line.reference, line.provider_reference, line.charge_reference) == (
        LineKind.REFUND,
        "op_refund",
        "6899",
        "5678",
    )
    assert (line.gross_minor, line.fee_minor, line.net_minor) == (-1200, -47, -1153)
    assert line_of(REFUND.replace('"TXN"', '"ODR"')).charge_reference is None


@pytest.mark.parametrize("code", ["T0200", "T0201", "T0202"])
def test_the_two_sides_of_a_conversion_name_what_was_converted(code: str) -> None:
    taken = SALE.replace("T0006", code).replace("5678", "A1").replace("4H844", "5678").replace('"CR"', '"DR"', 1)
    given = taken.replace("A1", "A2").replace('"DR",5200', '"CR",3400').replace("AUD", "USD")
    taken, given = taken.replace('"DR",225,', '"",0,'), given.replace('"DR",225,', '"",0,')
    lines = read(*HEAD, SH, CH, SALE, taken, given, *footers("AUD", "USD"), '"FF",0')[:3]
    assert [isinstance(line, SettlementLine) for line in lines] == [True] * 3
    told = [(line.kind, line.currency, line.net_minor) for line in lines if isinstance(line, SettlementLine)]
    assert told[1:] == [(LineKind.CONVERSION, "AUD", -5200), (LineKind.CONVERSION, "USD", 3400)]
    named = [(line.provider_reference, line.charge_reference) for line in lines if isinstance(line, SettlementLine)]
    assert named == [("5678", "5678"), ("A1", "5678"), ("A2", "5678")]
    assert line_of(taken.replace('"TXN"', '"ODR"')).charge_reference is None


@pytest.mark.parametrize(
    ("code", "side", "kind"),
    [
        ("T0006", "CR", LineKind.CHARGE),
        ("T0003", "CR", LineKind.CHARGE),
        ("T0001", "DR", LineKind.ADJUSTMENT),
        ("T0100", "DR", LineKind.FEE),
        ("T0106", "DR", LineKind.FEE),
        ("T0200", "CR", LineKind.CONVERSION),
        ("T0200", "DR", LineKind.CONVERSION),
        ("T0400", "DR", LineKind.PAYOUT),
        ("T0400", "CR", LineKind.ADJUSTMENT),
        ("T1106", "DR", LineKind.CHARGEBACK),
        ("T1107", "DR", LineKind.REFUND),
        ("T1107", "CR", LineKind.ADJUSTMENT),
        ("T1108", "CR", LineKind.FEE),
        ("T1109", "CR", LineKind.FEE),
        ("T1110", "DR", LineKind.ADJUSTMENT),
        ("T1201", "DR", LineKind.CHARGEBACK),
        ("T1202", "CR", LineKind.CHARGEBACK_REVERSED),
        ("T9900", "DR", LineKind.ADJUSTMENT),
    ],
)
def test_the_event_code_and_the_side_make_the_kind(code: str, side: str, kind: LineKind) -> None:
    line = line_of(SALE.replace("T0006", code).replace('"CR"', f'"{side}"'))
    assert line.kind is kind
    assert line.description == (code if kind in (LineKind.FEE, LineKind.ADJUSTMENT) else None)
    assert line.gross_minor == (5200 if side == "CR" else -5200)


@pytest.mark.parametrize(
    ("currency", "hundredths", "minor"),
    [
        ("JPY", "15000", 150),
        ("USD", "15000", 15000),
        ("HUF", "15000", 15000),
        ("TWD", "100", 100),
        ("KWD", "150", 1500),
    ],
)
def test_E2_amounts_are_hundredths_whatever_decimals_the_currency_has(
    currency: str, hundredths: str, minor: int
) -> None:
    row = SALE.replace("5200", hundredths).replace("225", "0").replace("AUD", currency)
    line, *totals = read(*[*HEAD, SH, CH, row, *footers(currency), '"FF",1'])
    assert isinstance(line, SettlementLine)
    assert line.gross_minor == minor
    assert isinstance(totals[0], ControlTotal)
    assert (totals[0].what, totals[0].counted) == ("gross credits of section 1", minor)


def test_a_fee_may_be_missing_with_its_side_and_currency() -> None:
    assert line_of(SALE.replace('"DR",225,"AUD"', "DR,,")).fee_minor == 0
    assert line_of(SALE.replace('"DR",225,"AUD"', ",0,")).fee_minor == 0


def test_small_letters_and_two_accounts_on_two_days_are_told_apart() -> None:
    other = SH.replace("EZ782AXEUJUW8", "OTHER").replace("2026/01/06 00", "2026/01/05 00")
    rows = [
        *HEAD,
        SH,
        CH,
        SALE,
        SF,
        '"SC",1',
        other,
        CH,
        SALE.replace("AUD", "aud"),
        SF,
        '"SC",1',
        RF,
        '"RC",2',
        '"FF",2',
    ]
    lines = [item for item in read(*rows) if isinstance(item, SettlementLine)]
    assert [(line.batch, line.currency) for line in lines] == [
        ("EZ782AXEUJUW8 2026-01-06", "AUD"),
        ("OTHER 2026-01-05", "AUD"),
    ]


def test_every_footer_and_count_is_a_control_total() -> None:
    assert totals_of(*WHOLE) == [
        ("gross credits of section 1", "AUD", 5200, 5200),
        ("gross debits of section 1", "AUD", 1200, 1200),
        ("fee credits of section 1", "AUD", 47, 47),
        ("fee debits of section 1", "AUD", 225, 225),
        ("rows of section 1", None, 2, 2),
        ("gross credits of the report", "AUD", 5200, 5200),
        ("gross debits of the report", "AUD", 1200, 1200),
        ("fee credits of the report", "AUD", 47, 47),
        ("fee debits of the report", "AUD", 225, 225),
        ("rows of the report", None, 2, 2),
        ("rows of the file", None, 2, 2),
    ]


def test_H2_a_footer_or_a_count_that_differs_from_the_body_does_not_hold() -> None:
    wrong = [*WHOLE[:6], SF.replace("5200", "5300"), '"SC",3', RF.replace("225", "0"), '"RC",1', '"FF",9']
    assert [(what, stated, counted) for what, _, stated, counted in totals_of(*wrong) if stated != counted] == [
        ("gross credits of section 1", 5300, 5200),
        ("rows of section 1", 3, 2),
        ("fee debits of the report", 0, 225),
        ("rows of the report", 1, 2),
        ("rows of the file", 9, 2),
    ]


def test_the_report_s_footers_are_over_all_its_sections_and_currencies() -> None:
    pounds = SALE.replace("AUD", "GBP")
    rows = [*HEAD, SH, CH, SALE, pounds, SF, SF.replace("AUD", "GBP"), '"SC",2', SH, CH, SALE, SF, '"SC",1']
    rows += [RF, RF.replace("AUD", "GBP"), '"RC",3', '"FF",3']
    counted = {(what, currency): count for what, currency, _, count in totals_of(*rows)}
    assert counted["gross credits of section 1", "AUD"] == 5200
    assert counted["gross credits of section 2", "AUD"] == 5200
    assert counted["gross credits of the report", "AUD"] == 10400
    assert counted["gross credits of the report", "GBP"] == 5200
    assert counted["rows of the report", None] == 3


def test_a_report_of_a_day_without_movements_has_only_its_totals() -> None:
    rows = [*HEAD, SH, CH, *footers("AUD", "GBP"), '"FF",0']
    assert {total[2:] for total in totals_of(*rows)} == {(0, 0)}
    assert len(totals_of(*[*HEAD, '"RC",0', '"FF",0'])) == 2


@pytest.mark.parametrize("kept", range(len(WHOLE)))
def test_H2_a_file_that_was_cut_between_two_rows_is_refused(kept: int) -> None:
    assert "its footers are missing, so it was cut" in refusal_of(*WHOLE[:kept])


@pytest.mark.parametrize("lost", range(len(WHOLE)))
def test_H2_a_row_that_was_lost_is_refused_or_breaks_a_total(lost: int) -> None:
    rows = [*WHOLE[:lost], *WHOLE[lost + 1 :]]
    try:
        items = read(*rows)
    except FileRefusedError:
        return
    assert not all(item.holds for item in items if isinstance(item, ControlTotal))


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([*HEAD, SH, CH, SALE, '"SC",1'], "line 6: section 1 has movements in AUD and no footer for it"),
        ([*WHOLE[:8], '"RC",2'], "line 9: the report has movements in AUD and no footer for it"),
        ([*WHOLE[:7], SF], "line 8: section 1 already has a footer for AUD"),
        ([*WHOLE[:8], '"FF",2'], "line 9: the report goes on in another file: only a report in one file can be read"),
        ([HEAD[0], '"FH",02'], "line 2: it is a further file of its report"),
        ([HEAD[0], '"FH"'], "line 2: it is a further file of its report"),
        ([*WHOLE, '"FF",2'], "line 12: a row FF cannot follow FF"),
        ([SH], "line 1: a row SH cannot follow nothing"),
        ([*WHOLE[:6], RF], "line 7: a row RF cannot follow SB"),
        ([*WHOLE[:6], '"RC",2'], "line 7: a row RC cannot follow SB"),
        ([*WHOLE[:6], '"FF",2'], "line 7: a row FF cannot follow SB"),
        ([*WHOLE[:7], RF], "line 8: a row RF cannot follow SF"),
        ([*WHOLE[:7], '"RC",2'], "line 8: a row RC cannot follow SF"),
        ([*HEAD, SH.replace('"EZ782AXEUJUW8"', "")], "line 3: a row SH says the period"),
        ([*WHOLE[:4], '"XX",1'], "line 5: 'XX' is no kind of row that a Settlement Report has"),
        ([*WHOLE[:4], ",1"], "line 5: '' is no kind of row that a Settlement Report has"),
        (
            [*HEAD, '"SH",2026/01/06 00:00:00 -0800'],
            "line 3: a row SH says the period (YYYY/MM/DD ...) and the account",
        ),
        ([*HEAD, SH.replace("2026/01/06 00", "06.01.2026 00")], "line 3: a row SH says the period"),
        ([*HEAD, SH, CH.replace("Invoice", "Order")], "line 4: the section's header lacks the column 'Invoice ID'"),
        ([*HEAD, SH, CH + ",Fee Amount"], "line 4: the section's header has more than once the column 'Fee Amount'"),
        ([*WHOLE[:6], '"SF","AUD",1,2,3'], "line 7: a footer has at least six fields, this one has 5"),
        ([*WHOLE[:7], '"SC",two'], "line 8: a row SC says a number of rows"),
        ([*WHOLE[:7], '"SC"'], "line 8: a row SC says a number of rows"),
    ],
)
def test_H2_a_row_out_of_its_place_or_incomplete_is_refused_with_its_line(rows: list[str], reason: str) -> None:
    assert refusal_of(*rows).startswith(reason)


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ("5200", "52.00", "line 5: '52.00' is no amount: hundredths without sign or point are expected"),
        ("5200", "-5200", "line 5: '-5200' is no amount"),
        ("5200", "", "line 5: '' is no amount"),
        ('"CR",5200', "XX,5200", "line 5: 'XX' is neither CR nor DR"),
        ('"DR",225', ",225", "line 5: '' is neither CR nor DR"),
        ('225,"AUD"', '225,"USD"', "line 5: its fee is in USD and its gross in AUD"),
        ("AUD", "ZZZ", "line 5: this is not an ISO 4217 currency code"),
        ("AUD", "JPY", "line 5: 225 hundredths of JPY are no whole amount"),
        ("T0006", "T006", "line 5: 'T006' is no event code, such as T0006"),
        ("00:00:30 -0800", "00:00:30", "line 5: '2026/01/06 00:00:30' is no time"),
        ("2026/01/06 00:00:30", "06/01/2026 00:00:30", "line 5: '06/01/2026 00:00:30 -0800' is no time"),
        ("2026/01/06 00:00:30", "9999/12/31 23:00:00", "line 5: '9999/12/31 23:00:00 -0800' is no time"),
        (',"",""', "", "line 5: it has 17 fields where the header has 19: the file was cut or damaged"),
    ],
)
def test_H8_what_cannot_be_understood_is_refused_with_its_line(before: str, after: str, reason: str) -> None:
    assert refusal_of(*with_body(SALE.replace(before, after))).startswith(reason)


def test_columns_may_be_written_without_blanks_and_in_another_order() -> None:
    names = [name.strip('"').replace(" ", "") for name in CH.split(",")]
    fields = SALE.split(",")
    turned = [names[0], *names[:0:-1]], [fields[0], *fields[:0:-1]]
    rows = [*HEAD, SH, ",".join(turned[0]), ",".join(turned[1]), *footers("AUD"), '"FF",1']
    assert read(*rows)[0] == read(*WHOLE)[0]


def test_the_report_is_recognised_and_paypal_s_others_are_not() -> None:
    text = "\n".join(WHOLE)
    assert FORMAT.recognises(text)
    assert FORMAT.recognises(text.replace('"RH"', "RH").replace("\n", "\r\n"))
    assert not FORMAT.recognises(text.replace("Store ID", "Transactional Status"))
    assert not FORMAT.recognises(text.replace("Gross Transaction Amount", "Amount"))
    assert not FORMAT.recognises("\n".join(WHOLE[:3]))
    assert not FORMAT.recognises("")
    assert not FORMAT.recognises("<xml>" + "x" * 500_000)


def test_the_page_tells_what_is_read_and_what_becomes_of_it() -> None:
    page = (Path(__file__).parents[2] / "docs/settlement-formats.md").read_text("utf-8")
    section = page.partition("\n## PayPal\n")[2].partition("\n## ")[0]
    assert [name for name in _READ if f"`{name}`" not in section] == []
    told = re.findall(r"^\| (`[^|]+) \| `(\w+)`", section, flags=re.MULTILINE)
    kinds = {name[:5].rstrip("n"): kind for names, kind in told for name in re.findall(r"`(\w+)`", names)}
    assert kinds == {name: kind.value for (name, _), kind in _KINDS.items()}
