"""A settlement file reads back as what was written, however it is laid out and encoded; one that was cut never does."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck.money import EXPONENTS, format_amount
from coatcheck.providers.stripe_words import CAPTURE_KEY, REFERENCE_KEY
from coatcheck.reconciliation.formats.adyen import AdyenSettlementDetail
from coatcheck.reconciliation.formats.checkout import CheckoutSettlementBreakdown
from coatcheck.reconciliation.formats.paypal import PayPalSettlement
from coatcheck.reconciliation.formats.simulator import SimulatorFormat
from coatcheck.reconciliation.formats.stripe import StripeItemized
from coatcheck.reconciliation.lines import ControlTotal, FileRefusedError, Format, Item, LineKind, SettlementLine
from coatcheck.reconciliation.reading import decoded

CURRENCIES = st.sampled_from(["USD", "EUR", "JPY", "KWD", "ISK", "CLP"])
# All that means something to a CSV but for line ends, and letters of one to four bytes.
WORDS = st.text("aZ0 ,;\"'=+-\tßé€日🎩", max_size=8)
MAYBE_IDS = st.sampled_from(["", "a_1", "B-2", "c3"])
SECONDS = st.integers(0, 10**9).map(lambda passed: datetime(2020, 1, 1) + timedelta(seconds=passed))  # noqa: DTZ001
GROSS = st.integers(-(10**9), 10**9).filter(bool)
FEES = st.integers(0, 10**6)

Row = dict[str, str]


class Written(NamedTuple):
    """A file as columns and rows, and the lines that it was made of, in the order of the rows."""

    form: Format
    rows: list[Row]
    lines: list[SettlementLine]

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(name for row in self.rows for name in row))


Writer = Callable[[st.DrawFn, bool], Written]


def text_of(columns: Sequence[str], rows: Sequence[Row], *, line_end: str = "\n", is_quoted: bool = False) -> str:
    written = io.StringIO(newline="")
    writer = csv.writer(written, lineterminator=line_end, quoting=csv.QUOTE_ALL if is_quoted else csv.QUOTE_MINIMAL)
    writer.writerows([columns, *[[row.get(name, "") for name in columns] for row in rows]])
    return written.getvalue()


def amounts(draw: st.DrawFn, *, is_credit: bool) -> tuple[str, int, int]:
    currency = draw(CURRENCIES)
    if is_credit:  # a net above zero, so that what is cut away cannot come to nothing
        fee = draw(FEES)
        return currency, fee + draw(st.integers(1, 10**9)), fee
    return currency, draw(GROSS), draw(st.integers(-(10**6), 10**6))


def paid_out(lines: Sequence[SettlementLine]) -> dict[tuple[str, str], int]:
    sums: dict[tuple[str, str], int] = {}
    for line in lines:
        sums[line.batch, line.currency] = sums.get((line.batch, line.currency), 0) + line.net_minor
    return sums


def conversion(draw: st.DrawFn, currency: str, gross: int) -> tuple[int, str] | None:
    other = draw(CURRENCIES)
    if other == currency or not draw(st.booleans()):
        return None
    asked = draw(st.integers(1, 10**9))
    return (asked if gross > 0 else -asked), other


STRIPE_KINDS = {
    "charge": LineKind.CHARGE,
    "partial_capture_reversal": LineKind.CHARGE,
    "refund": LineKind.REFUND,
    "refund_failure": LineKind.REFUND_RETURNED,
    "dispute": LineKind.CHARGEBACK,
    "dispute_reversal": LineKind.CHARGEBACK_REVERSED,
    "network_cost": LineKind.FEE,
    "topup": LineKind.ADJUSTMENT,
    "transfer": LineKind.SELLER_PAYOUT,
    "transfer_reversal": LineKind.SELLER_PAYOUT_RETURNED,
}


def stripe_row(draw: st.DrawFn, is_credit: bool) -> tuple[Row, SettlementLine]:  # noqa: FBT001 - as drawn
    category, (currency, gross, fee) = draw(st.sampled_from(sorted(STRIPE_KINDS))), amounts(draw, is_credit=is_credit)
    kind, at = STRIPE_KINDS[category], draw(SECONDS)
    ids = {name: draw(MAYBE_IDS) for name in ("source_id", "charge_id", "payment_intent_id")}
    ours = {
        name: draw(WORDS)
        for name in (
            f"payment_metadata[{REFERENCE_KEY}]",
            f"payment_metadata[{CAPTURE_KEY}]",
            f"refund_metadata[{REFERENCE_KEY}]",
            f"transfer_metadata[{REFERENCE_KEY}]",
        )
    }
    operation, capture, refund, transfer = ours.values()
    own = {LineKind.REFUND: refund, LineKind.REFUND_RETURNED: refund}.get(kind, capture or operation)
    asked = conversion(draw, currency, gross)
    line = SettlementLine(
        line_no=0,
        kind=kind,
        batch=draw(st.sampled_from(["po_1", "po_2"])),
        reference=(transfer if category.startswith("transfer") else own) or None,
        provider_reference=(ids["payment_intent_id"] if kind is LineKind.CHARGE else "") or ids["source_id"] or "txn_1",
        charge_reference=ids["payment_intent_id"] or ids["charge_id"] or None,
        occurred_at=at.replace(tzinfo=UTC),
        currency=currency,
        gross_minor=gross,
        fee_minor=fee,
        net_minor=gross - fee,
        asked_minor=asked[0] if asked else None,
        asked_currency=asked[1] if asked else None,
        description={LineKind.FEE: "about it", LineKind.ADJUSTMENT: category}.get(kind),
    )
    row = stripe_amounts(currency if draw(st.booleans()) else currency.lower(), gross, fee) | ids | ours
    row |= {
        "automatic_payout_id": line.batch,
        "balance_transaction_id": "txn_1",
        "created_utc": f"{at}",
        "reporting_category": category,
        "description": "about it",
        "customer_facing_amount": format_amount(*asked) if asked else "",
        "customer_facing_currency": asked[1].lower() if asked else "",
    }
    return row, line


def stripe_amounts(currency: str, gross: int, fee: int) -> Row:
    texts = [format_amount(minor, currency.upper()) for minor in (gross, fee, gross - fee)]
    return {"currency": currency, "gross": texts[0], "fee": texts[1], "net": texts[2]}


def payout_line(batch: str, currency: str, net: int, reference: str | None) -> SettlementLine:
    return SettlementLine(
        line_no=0,
        kind=LineKind.PAYOUT,
        batch=batch,
        reference=None,
        provider_reference=reference,
        charge_reference=None,
        occurred_at=datetime(2026, 1, 31, tzinfo=UTC),
        currency=currency,
        gross_minor=-net,
        fee_minor=0,
        net_minor=-net,
    )


def stripe_file(draw: st.DrawFn, is_credit: bool) -> Written:  # noqa: FBT001 - as drawn
    pairs = [stripe_row(draw, is_credit) for _ in range(draw(st.integers(1, 4)))]
    lines = [line for _, line in pairs]
    payouts = [
        (
            stripe_amounts(currency, -net, 0)
            | {
                "automatic_payout_id": batch,
                "balance_transaction_id": "txn_2",
                "created_utc": "2026-01-31 00:00:00",
                "reporting_category": "payout",
                "source_id": batch,
            },
            payout_line(batch, currency, net, batch),
        )
        for (batch, currency), net in paid_out(lines).items()
    ]
    return Written(StripeItemized(), [row for row, _ in [*payouts, *pairs]], [line for _, line in [*payouts, *pairs]])


ADYEN_KINDS = {
    "Settled": LineKind.CHARGE,
    "Refunded": LineKind.REFUND,
    "RefundedReversed": LineKind.REFUND_RETURNED,
    "Chargeback": LineKind.CHARGEBACK,
    "ChargebackReversed": LineKind.CHARGEBACK_REVERSED,
    "InvoiceDeduction": LineKind.FEE,
    "DepositCorrection": LineKind.ADJUSTMENT,
}


def on_sides(name: str, code: str, minor: int, currency: str) -> Row:
    side = "Credit" if minor > 0 else "Debit"
    return {f"{name} Debit ({code})": "", f"{name} Credit ({code})": ""} | (
        {f"{name} {side} ({code})": format_amount(abs(minor), currency)} if minor else {}
    )


def adyen_row(draw: st.DrawFn, is_credit: bool) -> tuple[Row, SettlementLine]:  # noqa: FBT001 - as drawn
    type_name, (currency, gross, _) = draw(st.sampled_from(sorted(ADYEN_KINDS))), amounts(draw, is_credit=is_credit)
    kind, at, (zone, hours) = ADYEN_KINDS[type_name], draw(SECONDS), draw(st.sampled_from([("UTC", 0), ("PDT", -7)]))
    most = max(0, min(gross - 1, 1000)) if is_credit else 1000
    names = draw(st.sampled_from([("Commission",), ("Markup", "Scheme Fees", "Interchange")]))
    fees = {name: draw(st.integers(0, most // len(names))) for name in names}
    fee = sum(fees.values())
    account, batch = draw(st.sampled_from(["HatsEU", "Hats, US"])), draw(st.sampled_from(["1", "2"]))
    ids = {name: draw(MAYBE_IDS) for name in ("Psp Reference", "Modification Reference")}
    reference, modified = draw(WORDS), draw(WORDS)
    charge, modification = ids.values()
    is_plain = kind is LineKind.CHARGE and not modified
    asked = conversion(draw, currency, gross)
    line = SettlementLine(
        line_no=0,
        kind=kind,
        batch=f"{account} {batch}",
        reference=(modified if kind in (LineKind.REFUND, LineKind.REFUND_RETURNED) else modified or reference) or None,
        provider_reference=(charge if is_plain else modification or charge) or None,
        charge_reference=charge or None,
        occurred_at=(at - timedelta(hours=hours)).replace(tzinfo=UTC),
        currency=currency,
        gross_minor=gross,
        fee_minor=fee,
        net_minor=gross - fee,
        asked_minor=asked[0] if asked else None,
        asked_currency=asked[1] if asked else None,
        description=type_name if kind in (LineKind.FEE, LineKind.ADJUSTMENT) else None,
    )
    asked_minor, asked_currency = asked or (gross, currency)
    row = ids | {"Merchant Reference": reference, "Modification Merchant Reference": modified, "Type": type_name}
    row |= {"Merchant Account": account, "Batch Number": batch, "Creation Date": f"{at}", "TimeZone": zone}
    row |= {"Gross Currency": asked_currency, "Net Currency": currency}
    row |= on_sides("Gross", "GC", asked_minor, asked_currency) | on_sides("Net", "NC", gross - fee, currency)
    row |= {f"{name} (NC)": "" for name in ("Commission", "Markup", "Scheme Fees", "Interchange")}
    row |= {f"{name} (NC)": format_amount(minor, currency) for name, minor in fees.items()}
    return row, line


def adyen_file(draw: st.DrawFn, is_credit: bool) -> Written:  # noqa: FBT001 - as drawn
    pairs = [adyen_row(draw, is_credit) for _ in range(draw(st.integers(1, 4)))]
    lines = [line for _, line in pairs]
    payouts = []
    for (batch, currency), net in paid_out(lines).items():
        if not net:
            continue
        account, _, number = batch.rpartition(" ")
        row = {"Merchant Account": account, "Batch Number": number, "Type": "MerchantPayout", "TimeZone": "UTC"}
        row |= {"Creation Date": "2026-01-31 00:00:00", "Net Currency": currency, "Modification Reference": "TX 1, x"}
        payouts.append((row | on_sides("Net", "NC", -net, currency), payout_line(batch, currency, net, "TX 1, x")))
    return Written(
        AdyenSettlementDetail(), [row for row, _ in [*pairs, *payouts]], [line for _, line in [*pairs, *payouts]]
    )


SIMULATOR_KINDS = {
    "charge": LineKind.CHARGE,
    "capture": LineKind.CHARGE,
    "refund": LineKind.REFUND,
    "refund_returned": LineKind.REFUND_RETURNED,
    "chargeback": LineKind.CHARGEBACK,
    "chargeback_reversed": LineKind.CHARGEBACK_REVERSED,
    "fee": LineKind.FEE,
}


def simulator_row(draw: st.DrawFn, batch: str, currency: str, *, is_credit: bool) -> tuple[Row, SettlementLine]:
    type_name, at = draw(st.sampled_from(sorted(SIMULATOR_KINDS))), draw(SECONDS)
    _, gross, fee = amounts(draw, is_credit=is_credit)
    ids = {"id": draw(MAYBE_IDS), "charge": draw(MAYBE_IDS), "reference": draw(WORDS)}
    line = SettlementLine(
        line_no=0,
        kind=SIMULATOR_KINDS[type_name],
        batch=batch,
        reference=ids["reference"] or None,
        provider_reference=ids["id"] or None,
        charge_reference=ids["charge"] or None,
        occurred_at=at.replace(tzinfo=UTC),
        currency=currency,
        gross_minor=gross,
        fee_minor=fee,
        net_minor=gross - fee,
    )
    written = currency if draw(st.booleans()) else currency.lower()
    return {"type": type_name, "occurred_at": f"{at.isoformat()}Z"} | ids | stripe_amounts(written, gross, fee), line


def simulator_file(draw: st.DrawFn, is_credit: bool) -> Written:  # noqa: FBT001 - as drawn
    batch, currency = draw(st.sampled_from(["st_1", "st, 2"])), draw(CURRENCIES)
    pairs = [simulator_row(draw, batch, currency, is_credit=is_credit) for _ in range(draw(st.integers(1, 12)))]
    gross, fee = sum(line.gross_minor for _, line in pairs), sum(line.fee_minor for _, line in pairs)
    payout = {"type": "payout", "id": "po_1", "occurred_at": "2026-01-31T00:00:00Z"}
    payout |= stripe_amounts(currency, fee - gross, 0)
    rows = [*[row for row, _ in pairs], payout]
    end = {"type": "end", "line": f"{len(rows)}"} | stripe_amounts(currency, gross, fee)
    numbered_rows = [{"batch": batch, "line": f"{number}"} | row for number, row in enumerate([*rows, end], 1)]
    lines = [*[line for _, line in pairs], payout_line(batch, currency, gross - fee, "po_1")]
    return Written(SimulatorFormat(), numbered_rows, lines)


CHECKOUT_KINDS = {
    ("Charge", True): LineKind.CHARGE,
    ("Refund", False): LineKind.REFUND,
    ("Refund", True): LineKind.REFUND_RETURNED,
    ("Chargeback", False): LineKind.CHARGEBACK,
    ("Chargeback", True): LineKind.CHARGEBACK_REVERSED,
}


def checkout_amounts(gross: int, fee: int, currency: str) -> Row:
    texts = [format_amount(minor, currency) for minor in (gross, -fee, gross - fee)]
    return {
        f"{name} In Holding Currency": text for name, text in zip(("Gross", "Deduction", "Net"), texts, strict=True)
    }


def checkout_row(draw: st.DrawFn, is_credit: bool) -> tuple[Row, SettlementLine]:  # noqa: FBT001 - as drawn
    currency, gross, fee = amounts(draw, is_credit=is_credit)
    type_name, at = draw(st.sampled_from(["Charge", "Refund", "Chargeback", "Top Up"])), draw(SECONDS)
    kind = CHECKOUT_KINDS.get((type_name, gross > 0), LineKind.ADJUSTMENT)
    charge, action, reference = draw(MAYBE_IDS), draw(MAYBE_IDS), draw(WORDS)
    asked = conversion(draw, currency, gross)
    line = SettlementLine(
        line_no=0,
        kind=kind,
        batch=draw(st.sampled_from(["CFJU", "CFJV"])),
        reference=reference or None,
        provider_reference=(charge if kind is LineKind.CHARGE else action or charge) or None,
        charge_reference=charge or None,
        occurred_at=at.replace(tzinfo=UTC),
        currency=currency,
        gross_minor=gross,
        fee_minor=fee,
        net_minor=gross - fee,
        asked_minor=asked[0] if asked else None,
        asked_currency=asked[1] if asked else None,
        description=type_name if kind is LineKind.ADJUSTMENT else None,
    )
    row = {
        "Type": type_name,
        "Payment ID": charge,
        "Action ID": action,
        "Reference": reference,
        "Payout ID": line.batch,
    }
    row |= {"Processed On": "", "Processed On UTC": at.isoformat(), "Holding Currency": currency}
    row |= {"Processing Currency": asked[1] if asked else currency}
    row |= {"Gross In Processing Currency": format_amount(*asked) if asked else format_amount(gross, currency)}
    return row | checkout_amounts(gross, fee, currency), line


def checkout_file(draw: st.DrawFn, is_credit: bool) -> Written:  # noqa: FBT001 - as drawn
    pairs = [checkout_row(draw, is_credit) for _ in range(draw(st.integers(1, 4)))]
    payouts = []
    for (batch, currency), net in paid_out([line for _, line in pairs]).items():
        if not net:
            continue
        row = {"Type": "Merchant Payout", "Payout ID": batch, "Holding Currency": currency, "Action ID": "act_payout"}
        row |= {"Processed On UTC": "2026-01-31T00:00:00"} | checkout_amounts(-net, 0, currency)
        payouts.append((row, payout_line(batch, currency, net, "act_payout")))
    return Written(
        CheckoutSettlementBreakdown(), [row for row, _ in [*payouts, *pairs]], [line for _, line in [*payouts, *pairs]]
    )


PAYPAL_KINDS = {
    ("T0006", "CR"): LineKind.CHARGE,
    ("T1107", "DR"): LineKind.REFUND,
    ("T1201", "DR"): LineKind.CHARGEBACK,
    ("T1202", "CR"): LineKind.CHARGEBACK_REVERSED,
    ("T0100", "DR"): LineKind.FEE,
    ("T0400", "DR"): LineKind.PAYOUT,
}
PAYPAL_COLUMNS = [
    *("Transaction ID", "Invoice ID", "PayPal Reference ID", "PayPal Reference ID Type", "Transaction Event Code"),
    *("Transaction Initiation Date", "Transaction Debit or Credit", "Gross Transaction Amount"),
    *("Gross Transaction Currency", "Fee Debit or Credit", "Fee Amount", "Fee Currency"),
]


def hundredths(minor: int, currency: str) -> str:
    return str(abs(minor) * 100 // 10 ** EXPONENTS[currency])


def paypal_row(draw: st.DrawFn, batch: str) -> tuple[Row, SettlementLine]:
    currency, gross = draw(st.sampled_from(["USD", "JPY", "HUF"])), draw(GROSS)
    fee, at = draw(st.integers(-(10**6), 10**6)), draw(SECONDS)
    code, side = draw(st.sampled_from([*sorted({code for code, _ in PAYPAL_KINDS}), "T1110"])), sides(gross)
    kind = PAYPAL_KINDS.get((code, side), LineKind.FEE if code == "T0100" else LineKind.ADJUSTMENT)
    own, other, invoice = draw(MAYBE_IDS), draw(MAYBE_IDS), draw(WORDS)
    other_type = draw(st.sampled_from(["TXN", "ODR", ""]))
    is_about = kind in (LineKind.REFUND, LineKind.CHARGEBACK, LineKind.CHARGEBACK_REVERSED) and other_type == "TXN"
    line = SettlementLine(
        line_no=0,
        kind=kind,
        batch=batch,
        reference=invoice or None,
        provider_reference=own or None,
        charge_reference=(own if kind is LineKind.CHARGE else other if is_about else "") or None,
        occurred_at=(at + timedelta(hours=8)).replace(tzinfo=UTC),
        currency=currency,
        gross_minor=gross,
        fee_minor=fee,
        net_minor=gross - fee,
        description=code if kind in (LineKind.FEE, LineKind.ADJUSTMENT) else None,
    )
    values = [own, invoice, other, other_type, code, f"{at:%Y/%m/%d %H:%M:%S} -0800", side, hundredths(gross, currency)]
    values += [currency, sides(-fee), hundredths(fee, currency), currency]
    return dict(zip(PAYPAL_COLUMNS, values, strict=True)), line


def sides(minor: int) -> str:
    return "CR" if minor >= 0 else "DR"


def paypal_totals(kind: str, lines: Sequence[SettlementLine]) -> list[list[str]]:
    rows = []
    for currency in sorted({line.currency for line in lines}):
        of = [line for line in lines if line.currency == currency]
        parts = [
            sum(line.gross_minor for line in of if line.gross_minor > 0),
            sum(line.gross_minor for line in of if line.gross_minor < 0),
            sum(line.fee_minor for line in of if line.fee_minor < 0),
            sum(line.fee_minor for line in of if line.fee_minor > 0),
        ]
        rows.append([kind, currency, *[hundredths(minor, currency) for minor in parts], "CR", "0"])
    return rows


class Sections(NamedTuple):
    """A report of PayPal's, row by row, and the lines it was made of."""

    rows: list[list[str]]
    lines: list[SettlementLine]

    def text(self, line_end: str = "\n", *, is_quoted: bool = False) -> str:
        written = io.StringIO(newline="")
        writer = csv.writer(written, lineterminator=line_end, quoting=csv.QUOTE_ALL if is_quoted else csv.QUOTE_MINIMAL)
        writer.writerows(self.rows)
        return written.getvalue()


@st.composite
def reports(draw: st.DrawFn) -> Sections:
    rows, all_lines = [["RH", "2026/01/07 04:11:51 -0800", "A", "ME", "009"], ["FH", "01"]], []
    for number in range(draw(st.integers(1, 3))):
        columns = draw(st.permutations([*PAYPAL_COLUMNS, "Custom Field"]))
        rows += [["SH", f"2026/01/0{number + 1} 00:00:00 -0800", "2026/01/09 23:59:59 -0800", f"A{number}", ""]]
        rows += [["CH", *columns]]
        lines = []
        for _ in range(draw(st.integers(0, 3))):
            row, line = paypal_row(draw, f"A{number} 2026-01-0{number + 1}")
            row["Custom Field"] = draw(WORDS)
            rows.append(["SB", *[row[name] for name in columns]])
            lines.append(msgspec.structs.replace(line, line_no=len(rows)))
        rows += [*paypal_totals("SF", lines), ["SC", str(len(lines))]]
        all_lines += lines
    rows += [*paypal_totals("RF", all_lines), ["RC", str(len(all_lines))], ["FF", str(len(all_lines))]]
    return Sections(rows, all_lines)


WRITERS: list[Writer] = [simulator_file, stripe_file, adyen_file, checkout_file]


@st.composite
def files(draw: st.DrawFn, writer: Writer, *, is_credit: bool = False) -> Written:
    return writer(draw, is_credit)


FORMS: list[Format] = [
    *(SimulatorFormat(), StripeItemized(), AdyenSettlementDetail(), PayPalSettlement(), CheckoutSettlementBreakdown()),
]


@st.composite
def laid_out(draw: st.DrawFn, written: Written) -> str:
    """The file's text with its columns in any order, others among them, either line end, and quotes or not."""
    more = draw(st.sampled_from([[], ["Shopper Country"], ["trace_id", "Reserved4", "card, brand"]]))
    rows = [row | {name: draw(WORDS) for name in more} for row in written.rows]
    columns = draw(st.permutations([*written.columns, *more]))
    return text_of(columns, rows, line_end=draw(st.sampled_from(["\n", "\r\n"])), is_quoted=draw(st.booleans()))


@st.composite
def cut_up(draw: st.DrawFn, text: str) -> list[str]:
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    return [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]


def numbered(lines: Sequence[SettlementLine]) -> list[SettlementLine]:
    return [msgspec.structs.replace(line, line_no=number) for number, line in enumerate(lines, 2)]


def parts(items: Iterator[Item]) -> tuple[list[SettlementLine], list[ControlTotal]]:
    lines, totals = [], []
    for item in items:
        if isinstance(item, SettlementLine):
            lines.append(item)
        else:
            assert isinstance(item, ControlTotal)
            totals.append(item)
    return lines, totals


@pytest.mark.parametrize("writer", WRITERS)
@given(data=st.data())
def test_what_was_written_reads_back_in_any_layout_and_any_pieces(writer: Writer, data: st.DataObject) -> None:
    written = data.draw(files(writer))
    text = data.draw(laid_out(written))
    assert [form.name for form in FORMS if form.recognises(text)] == [written.form.name]
    lines, totals = parts(written.form.read(iter(data.draw(cut_up(text)))))
    assert lines == numbered(written.lines)
    assert all(total.holds for total in totals)


@given(report=reports(), data=st.data())
def test_a_report_of_paypal_s_reads_back_in_any_layout_and_any_pieces(report: Sections, data: st.DataObject) -> None:
    text = report.text(data.draw(st.sampled_from(["\n", "\r\n"])), is_quoted=data.draw(st.booleans()))
    assert [form.name for form in FORMS if form.recognises(text)] == ["paypal_stl"]
    lines, totals = parts(PayPalSettlement().read(iter(data.draw(cut_up(text)))))
    assert lines == report.lines
    assert all(total.holds for total in totals)


@pytest.mark.parametrize("writer", WRITERS)
@given(data=st.data(), encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
def test_H8_what_was_written_reads_back_from_any_encoding(writer: Writer, data: st.DataObject, encoding: str) -> None:
    written = data.draw(files(writer))
    content = text_of(written.columns, written.rows, line_end="\r\n").encode(encoding)
    place = data.draw(st.integers(4, len(content)))
    lines, _ = parts(written.form.read(decoded(iter([content[:place], content[place:]]))))
    assert lines == numbered(written.lines)


def assert_not_taken_for_whole(form: Format, text: str, lines: Sequence[SettlementLine]) -> None:
    """The text is of a file of these lines, cut: it is refused, has lost nothing, or breaks a control total."""
    try:
        read, totals = parts(form.read(iter([text])))
    except FileRefusedError:
        return
    assert read == lines[: len(read)]
    assert len(read) == len(lines) or not all(total.holds for total in totals)


@pytest.mark.parametrize("writer", WRITERS)
@given(data=st.data())
def test_H2_a_file_cut_anywhere_is_refused_or_does_not_add_up(writer: Writer, data: st.DataObject) -> None:
    written = data.draw(files(writer, is_credit=True))
    text = data.draw(laid_out(written))
    place = data.draw(st.integers(0, len(text) - 1))
    assert_not_taken_for_whole(written.form, text[:place], numbered(written.lines))


@given(report=reports(), data=st.data())
def test_H2_a_report_of_paypal_s_cut_anywhere_is_refused_or_does_not_add_up(
    report: Sections, data: st.DataObject
) -> None:
    text = report.text(is_quoted=data.draw(st.booleans()))
    place = data.draw(st.integers(0, len(text) - 2))
    try:
        _, totals = parts(PayPalSettlement().read(iter([text[:place]])))
    except FileRefusedError:
        return
    assert not all(total.holds for total in totals)


@pytest.mark.parametrize("form", FORMS)
@given(text=st.text(max_size=300))
def test_H8_whatever_arrives_is_refused_and_breaks_nothing(form: Format, text: str) -> None:
    assert not form.recognises(text)
    with pytest.raises(FileRefusedError):
        list(form.read(iter([text])))


@pytest.mark.parametrize("writer", WRITERS)
@given(data=st.data())
def test_H8_a_changed_character_is_read_or_refused_and_breaks_nothing(writer: Writer, data: st.DataObject) -> None:
    written = data.draw(files(writer))
    text = text_of(written.columns, written.rows)
    place, other = data.draw(st.integers(0, len(text) - 1)), data.draw(st.characters(codec="utf-8"))
    try:
        lines, _ = parts(written.form.read(iter([text[:place] + other + text[place + 1 :]])))
    except FileRefusedError:
        return
    assert all(line.net_minor == line.gross_minor - line.fee_minor for line in lines)


@given(st.lists(st.tuples(st.integers(-(10**9), 10**9), st.integers(0, 10**7)), min_size=1, max_size=20))
def test_fractions_of_a_cent_never_add_up_to_more_than_half_of_one(pairs: list[tuple[int, int]]) -> None:
    """Amounts of five decimals: the lines' nets differ from the exact sum by no more than rounding it once would."""
    rows = []
    for gross, fee in pairs:
        texts = [f"{'-' if value < 0 else ''}{abs(value) // 10**5}.{abs(value) % 10**5:05}" for value in (gross, -fee)]
        net = gross - fee
        texts.append(f"{'-' if net < 0 else ''}{abs(net) // 10**5}.{abs(net) % 10**5:05}")
        names = [f"{name} In Holding Currency" for name in ("Gross", "Deduction", "Net")]
        rows.append(
            dict(zip(names, texts, strict=True))
            | {"Type": "Charge", "Payment ID": "p", "Reference": "", "Processed On": "2026-01-01T00:00:00"}
            | {"Holding Currency": "USD", "Payout ID": "P", "Processing Currency": "USD"}
            | {"Gross In Processing Currency": "0", "Timezone": "UTC", "Card": ""}
        )
    lines, _ = parts(CheckoutSettlementBreakdown().read(iter([text_of(list(rows[0]), rows)])))
    exact = sum(gross - fee for gross, fee in pairs)
    assert abs(sum(line.net_minor for line in lines) * 1000 - exact) <= 500
    for line, (gross, _) in zip(lines, pairs, strict=True):
        assert gross % 1000 or line.gross_minor == gross // 1000
