"""Stripe's itemized reports, line by line: what becomes of each category, and what is refused."""

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from coatcheck.ids import OPERATION, print_id
from coatcheck.providers.stripe_words import CAPTURE_KEY, REFERENCE_KEY
from coatcheck.reconciliation.formats.stripe import _KINDS, _NEEDED, _OPTIONAL, StripeItemized
from coatcheck.reconciliation.lines import ControlTotal, FileRefusedError, Format, Item, LineKind, SettlementLine
from coatcheck.reconciliation.reading import decoded

FORMAT: Format = StripeItemized()
CHARGED = print_id(OPERATION, UUID(int=1 << 8))
CAPTURED = print_id(OPERATION, UUID(int=2 << 8))
REFUNDED = print_id(OPERATION, UUID(int=3 << 8))
PAID = print_id(OPERATION, UUID(int=4 << 8))
COLUMNS = [
    *("automatic_payout_id", "automatic_payout_effective_at", "balance_transaction_id", "created_utc", "created"),
    *("available_on", "currency", "gross", "fee", "net", "reporting_category", "source_id", "description"),
    *("customer_facing_amount", "customer_facing_currency", "charge_id", "payment_intent_id", "card_brand"),
    *(f"payment_metadata[{REFERENCE_KEY}]", f"payment_metadata[{CAPTURE_KEY}]", f"refund_metadata[{REFERENCE_KEY}]"),
    *(f"transfer_metadata[{REFERENCE_KEY}]", "trace_id"),
]
CHARGE = {
    "automatic_payout_id": "po_1",
    "balance_transaction_id": "txn_1",
    "created_utc": "2026-01-30 23:11:12",
    "created": "2026-01-31 01:11:12",
    "currency": "usd",
    "gross": "25.00",
    "fee": "0.95",
    "net": "24.05",
    "reporting_category": "charge",
    "source_id": "ch_1",
    "description": "order-1",
    "customer_facing_amount": "25.00",
    "customer_facing_currency": "usd",
    "charge_id": "ch_1",
    "payment_intent_id": "pi_1",
    f"payment_metadata[{REFERENCE_KEY}]": CHARGED,
}


def csv_of(*rows: dict[str, str], columns: Sequence[str] = COLUMNS) -> str:
    lines = [",".join(columns), *[",".join(row.get(name, "") for name in columns) for row in rows]]
    return "".join(f"{line}\n" for line in lines)


def read(text: str) -> list[Item]:
    chunks: Iterator[str] = iter([text])
    return list(FORMAT.read(chunks))


def line_of(columns: Sequence[str] = COLUMNS, **changes: str) -> SettlementLine:
    (line,) = read(csv_of(CHARGE | changes, columns=columns))
    assert isinstance(line, SettlementLine)
    return line


def refusal_of(*rows: dict[str, str], columns: Sequence[str] = COLUMNS) -> str:
    with pytest.raises(FileRefusedError) as refusal:
        read(csv_of(*rows, columns=columns))
    return str(refusal.value)


def totals_of(*rows: dict[str, str]) -> list[tuple[str, str | None, int, int]]:
    items = [item for item in read(csv_of(*rows)) if isinstance(item, ControlTotal)]
    return [(item.what, item.currency, item.stated, item.counted) for item in items]


def test_a_charge_says_what_was_charged_and_what_it_cost() -> None:
    assert line_of() == SettlementLine(
        line_no=2,
        kind=LineKind.CHARGE,
        batch="po_1",
        reference=CHARGED,
        provider_reference="pi_1",
        charge_reference="pi_1",
        occurred_at=datetime(2026, 1, 30, 23, 11, 12, tzinfo=UTC),
        currency="USD",
        gross_minor=2500,
        fee_minor=95,
        net_minor=2405,
    )


def test_the_keys_of_our_references_are_those_that_the_provider_writes() -> None:
    assert (REFERENCE_KEY, CAPTURE_KEY) == ("coatcheck_operation", "coatcheck_capture")


@pytest.mark.parametrize(
    ("category", "kind", "description"),
    [
        ("charge", LineKind.CHARGE, None),
        ("partial_capture_reversal", LineKind.CHARGE, None),
        ("refund", LineKind.REFUND, None),
        ("refund_failure", LineKind.REFUND_RETURNED, None),
        ("dispute", LineKind.CHARGEBACK, None),
        ("dispute_reversal", LineKind.CHARGEBACK_REVERSED, None),
        ("fee", LineKind.FEE, "order-1"),
        ("network_cost", LineKind.FEE, "order-1"),
        ("payout_reversal", LineKind.ADJUSTMENT, "payout_reversal"),
        ("transfer", LineKind.SELLER_PAYOUT, None),
        ("transfer_reversal", LineKind.SELLER_PAYOUT_RETURNED, None),
        ("a_category_of_next_year", LineKind.ADJUSTMENT, "a_category_of_next_year"),
    ],
)
def test_each_category_becomes_a_kind_and_an_unknown_one_an_adjustment(
    category: str, kind: LineKind, description: str | None
) -> None:
    line = line_of(reporting_category=category)
    assert (line.kind, line.description) == (kind, description)


def test_a_fee_without_a_description_says_its_category() -> None:
    line = line_of(reporting_category="fee", description="", source_id="", payment_intent_id="", charge_id="")
    assert (line.description, line.provider_reference, line.charge_reference) == ("fee", "txn_1", None)


def test_the_two_rows_of_a_partial_capture_add_up_to_what_was_captured() -> None:
    capture = {f"payment_metadata[{CAPTURE_KEY}]": CAPTURED}
    whole = CHARGE | capture | {"gross": "100.00", "fee": "3.20", "net": "96.80"}
    rest = whole | {
        "balance_transaction_id": "txn_2",
        "reporting_category": "partial_capture_reversal",
        "source_id": "re_1",
        "gross": "-40.00",
        "fee": "-1.16",
        "net": "-38.84",
    }
    lines = [item for item in read(csv_of(whole, rest)) if isinstance(item, SettlementLine)]
    assert {(line.kind, line.charge_reference, line.reference) for line in lines} == {
        (LineKind.CHARGE, "pi_1", CAPTURED)
    }
    assert sum(line.gross_minor for line in lines) == 6000
    assert sum(line.fee_minor for line in lines) == 204
    assert sum(line.net_minor for line in lines) == 5796


def test_a_refund_has_its_own_reference_and_never_that_of_its_charge() -> None:
    refund = {"reporting_category": "refund", "source_id": "re_1", "gross": "-25.00", "fee": "0", "net": "-25"}
    own = line_of(**refund, **{f"refund_metadata[{REFERENCE_KEY}]": REFUNDED})
    assert (own.reference, own.provider_reference, own.charge_reference) == (REFUNDED, "re_1", "pi_1")
    assert (own.gross_minor, own.fee_minor, own.net_minor) == (-2500, 0, -2500)
    assert line_of(**refund).reference is None


@pytest.mark.parametrize(("category", "source"), [("transfer", "tr_1"), ("transfer_reversal", "trr_1")])
def test_a_transfer_to_a_seller_says_which_payout_it_is(category: str, source: str) -> None:
    amounts = {"gross": "-20.00", "fee": "0.00", "net": "-20.00"}
    row = {"reporting_category": category, "source_id": source, "payment_intent_id": "", "charge_id": ""} | amounts
    line = line_of(**row, **{f"transfer_metadata[{REFERENCE_KEY}]": PAID})
    assert (line.reference, line.provider_reference, line.charge_reference) == (PAID, source, None)
    assert (line.gross_minor, line.fee_minor, line.net_minor) == (-2000, 0, -2000)
    assert line_of(**row).reference is None  # not that of the charge whose money it moves
    assert line_of(**{f"transfer_metadata[{REFERENCE_KEY}]": PAID}).reference == CHARGED


def test_a_chargeback_carries_the_reference_of_its_charge() -> None:
    line = line_of(reporting_category="dispute", source_id="du_1", gross="-25.00", fee="15.00", net="-40.00")
    assert (line.reference, line.provider_reference, line.charge_reference) == (CHARGED, "du_1", "pi_1")


@pytest.mark.parametrize(
    ("asked", "asked_currency", "read_as"),
    [
        ("25.00", "usd", (None, None)),
        ("25.00", "USD", (None, None)),
        ("", "", (None, None)),
        ("-2300", "jpy", (-2300, "JPY")),
        ("21.10", "eur", (2110, "EUR")),
    ],
)
def test_what_was_asked_is_said_where_stripe_converted_it(
    asked: str, asked_currency: str, read_as: tuple[int | None, str | None]
) -> None:
    line = line_of(customer_facing_amount=asked, customer_facing_currency=asked_currency)
    assert (line.asked_minor, line.asked_currency) == read_as


@pytest.mark.parametrize(
    ("currency", "text", "minor"),
    [
        ("isk", "150.00", 150),
        ("isk", "150", 150),
        ("ugx", "5000.00", 5000),
        ("jpy", "5000", 5000),
        ("kwd", "5.120", 5120),
        ("mga", "500", 50000),
        ("usd", "-0.5", -50),
        ("USD", "7", 700),
        ("bgn", "1.00", 100),
    ],
)
def test_E3_amounts_are_read_as_the_major_units_they_are(currency: str, text: str, minor: int) -> None:
    line = line_of(currency=currency, gross=text, fee="0", net=text, customer_facing_amount="")
    assert (line.gross_minor, line.currency) == (minor, currency.upper())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"net": "24.04"}, "line 2: net 24.04 is not gross 25.00 minus fee 0.95"),
        ({"currency": "isk", "gross": "1.50"}, "line 2: '1.50' has more decimals than ISK (0)"),
        ({"gross": '"1,234.00"'}, "line 2: '1,234.00' is no amount"),
        ({"gross": '"25,00"'}, "line 2: '25,00' is no amount"),
        ({"fee": ""}, "line 2: '' is no amount"),
        ({"gross": "2.5e1"}, "line 2: '2.5e1' is no amount"),
        ({"currency": ""}, "line 2: this is not an ISO 4217 currency code"),
        ({"currency": "zzz"}, "line 2: this is not an ISO 4217 currency code"),
        ({"reporting_category": ""}, "line 2: it has no reporting_category"),
        ({"created_utc": "2026-01-30"}, "line 2: '2026-01-30' is no time"),
        ({"created_utc": "30/01/2026 23:11:12"}, "line 2: '30/01/2026 23:11:12' is no time"),
        ({"created_utc": ""}, "line 2: '' is no time"),
        ({"created_utc": "0001-01-01 00:00:00"}, "line 2: '0001-01-01 00:00:00' is no time"),
        ({"automatic_payout_id": ""}, "line 2: it has no automatic_payout_id, so this is no payout reconciliation"),
    ],
)
def test_H8_what_cannot_be_understood_is_refused_with_its_line(changes: dict[str, str], reason: str) -> None:
    assert refusal_of(CHARGE | changes).startswith(reason)


@pytest.mark.parametrize("missing", ["created_utc", "currency", "fee", "reporting_category", "source_id"])
def test_a_file_without_a_needed_column_is_refused_by_name(missing: str) -> None:
    columns = [name for name in COLUMNS if name != missing]
    assert refusal_of(CHARGE, columns=columns) == f"line 1: the header lacks the column '{missing}'"


def test_the_columns_that_only_help_may_be_missing() -> None:
    needed = [*COLUMNS[:4], *COLUMNS[6:12]]
    line = line_of(needed)
    assert (line.reference, line.charge_reference, line.provider_reference) == (None, None, "ch_1")
    assert line.net_minor == 2405


def test_a_report_of_activity_is_read_in_batches_by_the_day_of_the_report() -> None:
    columns = [name for name in COLUMNS if name != "automatic_payout_id"]
    assert line_of(columns).batch == "activity 2026-01-31"
    assert line_of([name for name in columns if name != "created"]).batch == "activity 2026-01-30"
    payout = CHARGE | {"reporting_category": "payout", "gross": "-1", "fee": "0", "net": "-1"}
    assert len(read(csv_of(CHARGE, payout, columns=columns))) == 2
    assert "'yesterday' is no time" in refusal_of(CHARGE | {"created": "yesterday"}, columns=columns)


def payout_of(batch: str, net: str, currency: str = "usd") -> dict[str, str]:
    return CHARGE | {
        "automatic_payout_id": batch,
        "reporting_category": "payout",
        "source_id": batch,
        "currency": currency,
        "gross": net,
        "fee": "0.00",
        "net": net,
        f"payment_metadata[{REFERENCE_KEY}]": "",
        "payment_intent_id": "",
        "charge_id": "",
        "customer_facing_amount": "",
    }


def test_a_payout_that_is_the_sum_of_its_lines_holds() -> None:
    items = read(csv_of(CHARGE, payout_of("po_1", "-24.05"), CHARGE | {"automatic_payout_id": "po_2"}))
    payout = items[1]
    assert isinstance(payout, SettlementLine)
    assert (payout.kind, payout.net_minor, payout.provider_reference) == (LineKind.PAYOUT, -2405, "po_1")
    assert items[3] == ControlTotal(what="net of payout po_1", batch="po_1", currency="USD", stated=2405, counted=2405)


def test_H2_a_payout_that_differs_from_its_lines_is_a_total_that_does_not_hold() -> None:
    assert totals_of(CHARGE, payout_of("po_1", "-25.00")) == [("net of payout po_1", "USD", 2500, 2405)]
    assert totals_of(payout_of("po_1", "24.05"), CHARGE) == [("net of payout po_1", "USD", -2405, 2405)]


def test_H2_a_payout_whose_row_is_lost_does_not_hold_where_others_have_theirs() -> None:
    other = CHARGE | {"automatic_payout_id": "po_2"}
    assert totals_of(CHARGE, payout_of("po_1", "-24.05"), other) == [
        ("net of payout po_1", "USD", 2405, 2405),
        ("net of payout po_2, of which there is no row", "USD", 0, 2405),
    ]


def test_a_report_without_rows_of_payouts_states_no_totals() -> None:
    assert totals_of(CHARGE, CHARGE) == []


def test_small_and_capital_currencies_are_one_and_two_currencies_are_two_totals() -> None:
    euros = payout_of("po_1", "-1", "EUR")
    assert totals_of(CHARGE | {"currency": "USD"}, CHARGE, payout_of("po_1", "-48.10"), euros) == [
        ("net of payout po_1", "USD", 4810, 4810),
        ("net of payout po_1", "EUR", 100, 0),
    ]


def test_a_payout_may_be_named_by_its_source_alone() -> None:
    items = read(csv_of(CHARGE, payout_of("po_1", "-24.05") | {"automatic_payout_id": ""}))
    assert isinstance(items[2], ControlTotal)
    assert items[2].holds


def test_H2_a_file_without_rows_is_refused() -> None:
    assert "there are no rows below the header" in refusal_of()
    with pytest.raises(FileRefusedError, match="lacks the column"):
        read("")


def test_H2_a_row_that_was_cut_is_refused() -> None:
    text = csv_of(CHARGE)
    with pytest.raises(FileRefusedError, match="line 2: it has 10 fields where the header has 23: the file was cut"):
        read(text[: text.index("24.05")])


def test_H2_a_last_line_without_its_end_is_refused_only_where_a_field_that_is_read_may_be_short() -> None:
    assert len(read(csv_of(CHARGE).removesuffix("\n"))) == 1
    columns = [*COLUMNS[1:], "automatic_payout_id"]
    with pytest.raises(FileRefusedError, match="the last line has no line end"):
        read(csv_of(CHARGE, columns=columns).removesuffix("\n"))
    assert len(read(csv_of(CHARGE, columns=columns))) == 1


def test_a_description_may_hold_quotes_commas_and_line_ends() -> None:
    row = CHARGE | {"description": '"two ""hats"",\nand a coat"', "reporting_category": "fee"}
    (line, other) = read(csv_of(row, CHARGE))
    assert isinstance(line, SettlementLine)
    assert isinstance(other, SettlementLine)
    assert line.description == 'two "hats",\nand a coat'
    assert (line.line_no, other.line_no) == (3, 4)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_H8_each_encoding_with_and_without_its_mark_reads_the_same(encoding: str) -> None:
    text = csv_of(CHARGE | {"description": "größe 9 ¾", "reporting_category": "fee"})
    (line,) = FORMAT.read(decoded([text.encode(encoding)]))
    assert isinstance(line, SettlementLine)
    assert line.description == "größe 9 ¾"


def test_H8_windows_1252_is_read_too() -> None:
    text = csv_of(CHARGE | {"description": "größe 9", "reporting_category": "fee"})
    (line,) = FORMAT.read(decoded([text.encode("cp1252")]))
    assert isinstance(line, SettlementLine)
    assert line.description == "größe 9"


def test_the_header_is_recognised_in_any_order_and_nothing_else_is() -> None:
    assert FORMAT.recognises(csv_of(CHARGE))
    assert FORMAT.recognises(csv_of(CHARGE, columns=COLUMNS[::-1]).replace("\n", "\r\n"))
    assert not FORMAT.recognises("")
    assert not FORMAT.recognises(",".join(COLUMNS[:4]))
    assert not FORMAT.recognises(f"intro\n{csv_of(CHARGE)}")
    assert not FORMAT.recognises("<xml>" + "x" * 500_000)


def test_the_page_tells_what_is_read_and_what_becomes_of_it() -> None:
    page = (Path(__file__).parents[2] / "docs/settlement-formats.md").read_text("utf-8")
    section = page.partition("\n## Stripe\n")[2].partition("\n## ")[0]
    assert [name for name in (*_NEEDED, *_OPTIONAL) if f"`{name}`" not in section] == []
    told = re.findall(r"^\| (`[^|]+) \| `(\w+)`", section, flags=re.MULTILINE)
    kinds = {name: kind for names, kind in told for name in re.findall(r"`(\w+)`", names)}
    assert kinds == {name: kind.value for name, kind in _KINDS.items()}
