import codecs
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from pathlib import Path

import pytest

from coatcheck.reconciliation.formats import camt053
from coatcheck.reconciliation.formats.camt053 import Camt053
from coatcheck.reconciliation.lines import BankLine, ControlTotal, FileRefusedError
from coatcheck.reconciliation.reading import LONGEST_LINE, decoded

SEEDS = Path(__file__).parents[1] / "fuzz/seeds"
NAMESPACE = "urn:iso:std:iso:20022:tech:xsd:camt.053.001."
ACCOUNT = "<Acct><Id><IBAN>DE89370400440532013000</IBAN></Id></Acct>"


def balance(code: str, amount: str, *, way: str = "CRDT", currency: str = "EUR") -> str:
    return (
        f'<Bal><Tp><CdOrPrtry><Cd>{code}</Cd></CdOrPrtry></Tp><Amt Ccy="{currency}">{amount}</Amt>'
        f"<CdtDbtInd>{way}</CdtDbtInd></Bal>"
    )


def entry(
    amount: str = "5.00",
    *,
    way: str = "CRDT",
    currency: str = "EUR",
    status: str = "<Sts><Cd>BOOK</Cd></Sts>",
    booked: str = "<BookgDt><Dt>2026-11-20</Dt></BookgDt>",
    more: str = "",
) -> str:
    return f'<Ntry><Amt Ccy="{currency}">{amount}</Amt><CdtDbtInd>{way}</CdtDbtInd>{status}{booked}{more}</Ntry>'


BALANCES = balance("OPBD", "10.00") + balance("CLBD", "15.00")


def statement(entries: str = entry(), *, balances: str = BALANCES, more: str = "", head: str = ACCOUNT) -> str:
    return f"<Stmt><Id>S1</Id>{head}{balances}{more}{entries}</Stmt>"


def document(*statements: str, version: str = "08", message: str = "") -> str:
    body = "".join(statements or (statement(),))
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Document xmlns="{NAMESPACE}{version}"><BkToCstmrStmt>'
        f"<GrpHdr><MsgId>M</MsgId>{message}</GrpHdr>\n{body}</BkToCstmrStmt></Document>\n"
    )


def read(text: str) -> list[BankLine | ControlTotal]:
    return list(Camt053().read(iter([text])))


def lines_of(text: str) -> list[BankLine]:
    return [item for item in read(text) if isinstance(item, BankLine)]


def totals_of(text: str) -> dict[str, tuple[str | None, int, int]]:
    totals = [item for item in read(text) if isinstance(item, ControlTotal)]
    assert len({(total.what, total.currency) for total in totals}) == len(totals)
    return {total.what: (total.currency, total.stated, total.counted) for total in totals}


def refusal_of(text: str) -> FileRefusedError:
    with pytest.raises(FileRefusedError) as caught:
        read(text)
    assert caught.value.line_no is not None
    return caught.value


def test_an_entry_is_a_line_and_the_balances_are_a_total() -> None:
    more = (
        "<AcctSvcrRef>B-1</AcctSvcrRef><NtryDtls><TxDtls><Refs><EndToEndId>po_1</EndToEndId></Refs></TxDtls></NtryDtls>"
    )
    line, total = read(document(statement(entry(more=more))))
    assert line == BankLine(
        line_no=3,
        statement="S1",
        account="DE89370400440532013000",
        booked_on=date(2026, 11, 20),
        currency="EUR",
        amount_minor=500,
        bank_reference="B-1",
        references=("B-1", "po_1"),
        opening_minor=1000,
    )
    assert total == ControlTotal(what="closing balance", batch="S1", currency="EUR", stated=1500, counted=1500)


@pytest.mark.parametrize("version", ["02", "03", "04", "05", "06", "07", "08"])
@pytest.mark.parametrize("status", ["<Sts>BOOK</Sts>", "<Sts><Cd>BOOK</Cd></Sts>"])
def test_versions_02_to_08_are_read(version: str, status: str) -> None:
    text = document(statement(entry(status=status)), version=version)
    assert Camt053().recognises(text)
    assert [line.amount_minor for line in lines_of(text)] == [500]


@pytest.mark.parametrize("version", ["01", "09", "10", "14"])
def test_another_version_is_recognised_and_refused_by_its_name(version: str) -> None:
    text = document(version=version)
    assert Camt053().recognises(text)
    refusal = refusal_of(text)
    assert f"camt.053.001.{version}" in refusal.problem
    assert "ask the bank for camt.053.001.02 to .08" in refusal.problem
    assert refusal.line_no == 2


@pytest.mark.parametrize(
    "head",
    [
        "",
        "date,amount\n",
        "01,1,2,261121,0000,1,,,2/",
        ":20:A\n:25:B\n",
        '<Document xmlns="urn:iso:std:iso:20022:tech:xsd:camt.052.001.08">',
        '<Document xmlns="urn:iso:std:iso:20022:tech:xsd:pain.001.001.09">',
        "a text about camt:053 <BkToCstmrStmt>",
    ],
)
def test_other_files_are_not_recognised(head: str) -> None:
    assert not Camt053().recognises(head)


@pytest.mark.parametrize(("way", "sign"), [("CRDT", 1), ("DBIT", -1)])
@pytest.mark.parametrize(
    "reversal", ["", "<RvslInd>true</RvslInd>", "<RvslInd>1</RvslInd>", "<RvslInd>false</RvslInd>"]
)
def test_the_sign_is_the_direction_of_the_entry_and_a_reversal_does_not_turn_it(
    way: str, sign: int, reversal: str
) -> None:
    # ISO 20022: a reversal with CRDT takes back a debit, so it is money that came in.
    balances = balance("OPBD", "10.00") + balance("CLBD", f"{10 + sign * 5}.00")
    text = document(statement(entry(way=way, more=reversal), balances=balances))
    assert [line.amount_minor for line in lines_of(text)] == [sign * 500]
    assert totals_of(text)["closing balance"] == ("EUR", 1000 + sign * 500, 1000 + sign * 500)


@pytest.mark.parametrize("code", ["PDNG", "INFO", "FUTR"])
@pytest.mark.parametrize("form", ["<Sts>{}</Sts>", "<Sts><Cd>{}</Cd></Sts>"])
def test_an_entry_that_is_not_booked_is_no_line_and_moves_no_balance(code: str, form: str) -> None:
    pending = entry("3.00", status=form.format(code), booked="")
    text = document(statement(entry() + pending))
    assert [line.amount_minor for line in lines_of(text)] == [500]
    assert totals_of(text)["closing balance"] == ("EUR", 1500, 1500)


def test_a_batch_is_one_line_with_all_references_each_once() -> None:
    (line,) = lines_of((SEEDS / "bank-v08.camt.xml").read_text("utf-8"))
    assert line.amount_minor == 2000
    assert line.references == (
        *("B-1", "BATCH-1", "P-1", "I-1", "payout-1", "8a562c67-ca16-48ba-b074-65581be6f001", "R-1", "INV-1"),
        *("RF18539007547034", "settlement 224", "payout-2"),
    )


def test_every_text_that_may_name_a_payout_is_a_reference() -> None:
    names = "MsgId AcctSvcrRef PmtInfId InstrId EndToEndId UETR TxId MndtId ChqNb ClrSysRef AcctOwnrTxId AcctSvcrTxId"
    refs = "".join(f"<{name}>r-{name}</{name}>" for name in names.split())
    more = (
        f"<NtryDtls><TxDtls><Refs>{refs}<Prtry><Tp>T</Tp><Ref>r-Prtry</Ref></Prtry></Refs>"
        "<RltdRmtInf><RmtId>r-RmtId</RmtId></RltdRmtInf>"
        "<RmtInf><Ustrd> r-1 </Ustrd><Ustrd>r-2 &amp;&lt;&#x41;</Ustrd><Ustrd></Ustrd></RmtInf>"
        "<AddtlTxInf>r-AddtlTxInf</AddtlTxInf></TxDtls></NtryDtls><AddtlNtryInf>r-AddtlNtryInf</AddtlNtryInf>"
    )
    (line,) = lines_of(document(statement(entry(more=more))))
    expected = [f"r-{name}" for name in names.split()]
    expected += ["r-Prtry", "r-RmtId", "r-1", "r-2 &<A", "r-AddtlTxInf", "r-AddtlNtryInf"]
    assert line.references == tuple(expected)


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        ("<NbOfTxs>2</NbOfTxs>", {"number of details": (None, 2, 2)}),
        ("<NbOfTxs>3</NbOfTxs>", {"number of details": (None, 3, 2)}),
        ('<TtlAmt Ccy="EUR">5.00</TtlAmt>', {"amount": ("EUR", 500, 500)}),
        ('<TtlAmt Ccy="EUR">6.00</TtlAmt><CdtDbtInd>CRDT</CdtDbtInd>', {"amount": ("EUR", 600, 500)}),
        ('<TtlAmt Ccy="EUR">5.00</TtlAmt><CdtDbtInd>DBIT</CdtDbtInd>', {"amount": ("EUR", -500, 500)}),
        ('<TtlAmt Ccy="USD">5.00</TtlAmt>', {}),
        ("<MsgId>1</MsgId>", {}),
    ],
)
def test_H2_what_a_batch_states_of_its_details_is_a_total(
    batch: str, expected: dict[str, tuple[str | None, int, int]]
) -> None:
    details = (
        f"<NtryDtls><Btch>{batch}</Btch>"
        '<TxDtls><Amt Ccy="EUR">7.00</Amt><CdtDbtInd>CRDT</CdtDbtInd></TxDtls>'
        '<TxDtls><AmtDtls><TxAmt><Amt Ccy="EUR">2.00</Amt></TxAmt></AmtDtls><CdtDbtInd>DBIT</CdtDbtInd></TxDtls>'
        "</NtryDtls>"
    )
    totals = totals_of(document(statement(entry(more=details))))
    totals.pop("closing balance")
    assert totals == {f"{what} of the batch in line 3": total for what, total in expected.items()}


@pytest.mark.parametrize(
    ("stated", "details"),
    [
        ('<TtlAmt Ccy="EUR">9.00</TtlAmt>', ""),
        ('<TtlAmt Ccy="EUR">9.00</TtlAmt>', "<TxDtls><Refs/></TxDtls>"),
        ("<NbOfTxs>9</NbOfTxs>", ""),
    ],
)
def test_a_batch_without_its_details_has_nothing_to_compare(stated: str, details: str) -> None:
    batch = f"<NtryDtls><Btch>{stated}</Btch>{details}</NtryDtls>"
    assert totals_of(document(statement(entry(more=batch)))).keys() == {"closing balance"}


def test_H2_each_batch_has_its_own_details() -> None:
    def batch(number: int) -> str:
        return f"<NtryDtls><Btch><NbOfTxs>{number}</NbOfTxs></Btch>{'<TxDtls/>' * number}</NtryDtls>"

    items = read(document(statement(entry(more=batch(1)) + entry(more=batch(3) + batch(2)))))
    totals = [item for item in items if isinstance(item, ControlTotal)]
    assert [(total.stated, total.counted) for total in totals[:-1]] == [(1, 1), (3, 3), (2, 2)]
    assert [total.what[-6:] for total in totals[:-1]] == ["line 3", "line 4", "line 4"]


def test_H2_what_a_statement_states_of_its_entries_is_a_total() -> None:
    summary = (
        "<TxsSummry><TtlNtries><NbOfNtries>9</NbOfNtries><Sum>90.00</Sum>"
        "<TtlNetNtry><Amt>1.00</Amt><CdtDbtInd>DBIT</CdtDbtInd></TtlNetNtry></TtlNtries>"
        "<TtlCdtNtries><NbOfNtries>1</NbOfNtries><Sum>5</Sum></TtlCdtNtries>"
        "<TtlDbtNtries><NbOfNtries>2</NbOfNtries><Sum>+3.50</Sum></TtlDbtNtries></TxsSummry>"
    )
    pending = entry(".5", way="DBIT", status="<Sts>PDNG</Sts>")
    totals = totals_of(document(statement(entry() + entry("3.", way="DBIT") + pending, more=summary)))
    assert totals == {
        "closing balance": ("EUR", 1500, 1200),
        "number of entries": (None, 9, 3),
        "sum of entries": ("EUR", 9000, 850),
        "number of credit entries": (None, 1, 1),
        "sum of credit entries": ("EUR", 500, 500),
        "number of debit entries": (None, 2, 2),
        "sum of debit entries": ("EUR", 350, 350),
        "net of entries": ("EUR", -100, 150),
    }


def test_H2_the_older_summary_is_read_too() -> None:
    totals = totals_of((SEEDS / "bank-v02.camt.xml").read_text("utf-8"))
    assert totals["net of entries"] == ("EUR", 122230, 122230)
    assert len(totals) == 8


def test_each_currency_has_its_own_balance_and_sums_over_several_are_not_compared() -> None:
    balances = BALANCES + balance("OPBD", "1", way="DBIT", currency="JPY") + balance("CLBD", "0", currency="JPY")
    summary = "<TxsSummry><TtlNtries><NbOfNtries>2</NbOfNtries><Sum>6</Sum></TtlNtries></TxsSummry>"
    text = document(statement(entry() + entry("1", currency="JPY"), balances=balances, more=summary))
    totals = [item for item in read(text) if isinstance(item, ControlTotal)]
    assert [(total.what, total.currency, total.stated, total.holds) for total in totals] == [
        ("closing balance", "EUR", 1500, True),
        ("closing balance", "JPY", 0, True),
        ("number of entries", None, 2, True),
    ]


def test_H2_a_closing_balance_that_the_entries_do_not_come_to_is_a_break_and_the_lines_are_there() -> None:
    text = document(statement(entry() + entry()))
    assert len(lines_of(text)) == 2
    assert totals_of(text)["closing balance"] == ("EUR", 1500, 2000)


def test_the_previous_closing_balance_opens_a_statement_and_what_is_available_is_no_balance_of_it() -> None:
    available = balance("CLAV", "9.00") * 2 + balance("FWAV", "1", currency="JPY")
    text = document(statement(balances=balance("PRCD", "10.00") + available + balance("CLBD", "15.00")))
    assert totals_of(text)["closing balance"] == ("EUR", 1500, 1500)


@pytest.mark.parametrize("at", ["message", "statement"])
def test_interim_balances_open_and_close_pages(at: str) -> None:
    def page(number: int, is_last: str, balances: str) -> str:
        pagination = f"<PgNb>{number}</PgNb><LastPgInd>{is_last}</LastPgInd>"
        if at == "message":
            return document(statement(balances=balances), message=f"<MsgPgntn>{pagination}</MsgPgntn>")
        return document(statement(balances=balances, head=f"<StmtPgntn>{pagination}</StmtPgntn>{ACCOUNT}"))

    first, second, third = "10.00", "15.00", "20.00"
    assert totals_of(page(1, "false", balance("OPBD", first) + balance("ITBD", second)))["closing balance"][1:] == (
        *(1500, 1500),
    )
    middle = balance("ITBD", second) + balance("ITBD", third)
    assert totals_of(page(2, "false", middle))["closing balance"][1:] == (2000, 2000)
    assert totals_of(page(2, "true", balance("ITBD", second) + balance("CLBD", third)))["closing balance"][1:] == (
        *(2000, 2000),
    )
    assert "no opening balance" in refusal_of(page(1, "false", middle)).problem
    assert "no closing balance" in refusal_of(page(2, "false", balance("ITBD", second))).problem
    assert "no closing balance" in refusal_of(page(2, "true", middle)).problem


@pytest.mark.parametrize(
    ("balances", "says"),
    [
        ("", "no opening balance (OPBD or PRCD) in EUR"),
        (balance("CLAV", "15.00"), "no opening balance (OPBD or PRCD) in EUR"),
        (balance("OPBD", "10.00"), "no closing balance (CLBD) in EUR"),
        (balance("OPBD", "10.00") + balance("ITBD", "15.00"), "no closing balance"),
        (balance("CLBD", "15.00"), "no opening balance"),
        (BALANCES.replace("EUR", "USD"), "no opening balance (OPBD or PRCD) in EUR"),
        (BALANCES + balance("OPBD", "10.00"), "two balances OPBD in EUR"),
        (BALANCES + balance("CLBD", "15.00"), "two balances CLBD in EUR"),
    ],
)
def test_H2_without_both_balances_a_statement_is_refused(balances: str, says: str) -> None:
    assert says in refusal_of(document(statement(balances=balances))).problem


def test_a_statement_without_entries_needs_its_balances_too() -> None:
    assert totals_of(document(statement("")))["closing balance"] == ("EUR", 1500, 1000)
    assert "no balances" in refusal_of(document(statement("", balances=""))).problem


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (entry(currency="QQQ"), "not an ISO 4217"),
        (entry("5.001"), "more decimals than EUR (2)"),
        (entry("5.5", currency="JPY"), "more decimals than JPY (0)"),
        (entry("-5.00"), "an amount has no sign"),
        (entry("+-5.00"), "an amount has no sign"),
        (entry("5,00"), "is no amount"),
        (entry(""), "is no amount"),
        (entry("."), "is no amount"),
        (entry("1e2"), "is no amount"),
        (entry("\u0665.00"), "is no amount"),
        (entry("99999999999999999999"), "is no amount"),
        (entry("999999999999999.99"), "larger than any amount"),
        (entry().replace(' Ccy="EUR"', ""), "no amount with a currency"),
        (entry(way="CREDIT"), "CdtDbtInd is 'CREDIT'"),
        (entry().replace("<CdtDbtInd>CRDT</CdtDbtInd>", ""), "CdtDbtInd is ''"),
        (entry(status=""), "Sts is ''"),
        (entry(status="<Sts><Prtry>BOOK</Prtry></Sts>"), "Sts is ''"),
        (entry(status="<Sts>DONE</Sts>"), "Sts is 'DONE'"),
        (entry(more="<RvslInd>yes</RvslInd>"), "RvslInd is 'yes'"),
        (entry(booked=""), "booking date (BookgDt) of an entry is ''"),
        (entry(booked="<BookgDt><Dt>2026-02-30</Dt></BookgDt>"), "2026-02-30"),
        (entry(booked="<BookgDt><Dt>20261120</Dt></BookgDt>"), "20261120"),
        (entry(booked="<BookgDt><DtTm>2026-11-20T25:00:00</DtTm></BookgDt>"), "2026-11-20T25:00:00"),
        (entry(more="<RvslInd>true</RvslInd><RvslInd>false</RvslInd>"), "RvslInd stands twice"),
        (entry(more='<Amt Ccy="EUR">9</Amt>'), "Amt stands twice"),
        (entry() + "<Ntri/>", "Stmt has no element 'Ntri'"),
        (entry(more="<Amount>1</Amount>"), "Ntry has no element 'Amount'"),
        (entry(more="<NtryDtls><Tx/></NtryDtls>"), "NtryDtls has no element 'Tx'"),
        (entry() + "5.00", "text between elements ('5.00')"),
        ("5.00" + entry(), "text between elements ('5.00')"),
        (entry(more='<AcctSvcrRef xmlns="urn:bank">1</AcctSvcrRef>'), "another namespace"),
        (entry(more="<NtryDtls><Btch><NbOfTxs>x</NbOfTxs></Btch><TxDtls/></NtryDtls>"), "which is no number"),
        (f"<TxsSummry><TtlNtries><NbOfNtries>-1</NbOfNtries></TtlNtries></TxsSummry>{entry()}", "which is no number"),
        (f"<TxsSummry><TtlNtries><Sum>1.001</Sum></TtlNtries></TxsSummry>{entry()}", "more decimals than EUR"),
    ],
)
def test_H2_what_is_not_as_the_format_says_is_refused_with_its_line(changed: str, says: str) -> None:
    refusal = refusal_of(document(statement(changed)))
    assert says in refusal.problem
    assert refusal.line_no == 3


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ("<Stmt>" + ACCOUNT + BALANCES + entry() + "</Stmt>", "no Id"),
        (statement(head=""), "no account"),
        (statement("", head=""), "no account"),
        (statement(head=ACCOUNT + ACCOUNT), "Acct/Id/IBAN stands twice"),
        (" ", "no statement"),
        ("<Rpt/>", "BkToCstmrStmt has no element 'Rpt'"),
    ],
)
def test_a_statement_says_who_it_is(changed: str, says: str) -> None:
    assert says in refusal_of(document(changed)).problem


def test_an_account_without_an_iban_is_named_by_the_bank_s_number() -> None:
    (line,) = lines_of(document(statement(head="<Acct><Id><Othr><Id> 12-3 </Id></Othr></Id></Acct>")))
    assert line.account == "12-3"


def test_several_statements_are_read_one_after_the_other() -> None:
    second = statement(entry("7.00"), balances=balance("OPBD", "0") + balance("CLBD", "7")).replace("S1", "S2")
    items = read(document(statement(), second))
    assert [(type(item), item.statement if isinstance(item, BankLine) else item.batch) for item in items] == [
        *[(BankLine, "S1"), (ControlTotal, "S1"), (BankLine, "S2"), (ControlTotal, "S2")],
    ]


def test_entries_that_stand_in_one_line_have_numbers_of_their_own() -> None:
    compact = entry() + entry(status="<Sts>PDNG</Sts>") + entry() + "\n" + entry() + "\n\n\n" + entry()
    assert [line.line_no for line in lines_of(document(statement(compact), statement(entry())))] == [3, 5, 6, 7, 8]
    assert refusal_of(document(statement(compact + entry("x")))).line_no == 7


@pytest.mark.parametrize(
    "booked",
    [
        "<Dt>2026-11-20</Dt>",
        "<Dt>2026-11-20Z</Dt>",
        "<Dt> 2026-11-20+01:00\n</Dt>",
        "<DtTm>2026-11-20T23:59:59.999-11:00</DtTm>",
        "<DtTm>2026-11-20T00:00:00</DtTm>",
    ],
)
def test_the_booking_day_is_the_bank_s_own(booked: str) -> None:
    (line,) = lines_of(document(statement(entry(booked=f"<BookgDt>{booked}</BookgDt>"))))
    assert line.booked_on == date(2026, 11, 20)


def laughs() -> str:
    entities = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    return (
        f'<?xml version="1.0"?><!DOCTYPE Document [<!ENTITY l0 "lol">{entities}]>'
        + document(statement(entry(more="<AcctSvcrRef>&l9;</AcctSvcrRef>"))).partition("?>")[2]
    )


@pytest.mark.parametrize(
    "attack",
    [
        laughs(),
        laughs().replace("&l9;", ""),
        document().replace("<Document", '<!DOCTYPE Document SYSTEM "file:///etc/passwd"><Document'),
        document().replace("<Document", '<!DOCTYPE Document PUBLIC "-//X" "http://127.0.0.1/x.dtd"><Document'),
        document().replace("<Document", '<!DOCTYPE Document [<!ENTITY % x SYSTEM "http://127.0.0.1/">%x;]><Document'),
        document().replace("<Document", '<!DOCTYPE Document [<!ENTITY x SYSTEM "/etc/passwd">]><Document'),
        document().replace("<Document", "<!DOCTYPE Document><Document"),
    ],
)
def test_a_document_type_is_refused_before_anything_in_it_is_read(attack: str) -> None:
    refusal = refusal_of(attack)
    assert "DOCTYPE" in refusal.problem
    assert "find out who made this file" in refusal.problem


def test_an_entity_that_nothing_declares_is_no_xml() -> None:
    more = "<AcctSvcrRef>&eacute;</AcctSvcrRef>"
    assert "not XML" in refusal_of(document(statement(entry(more=more)))).problem


def test_depth_is_limited() -> None:
    inner = "<A>" * 100_000
    assert "64 deep" in refusal_of(document(statement(entry(more=f"<AmtDtls>{inner}")))).problem
    assert "64 deep" in refusal_of(document(statement() + f"<SplmtryData>{inner}")).problem


@pytest.mark.parametrize("opening", ["<AddtlNtryInf>", "<!-- ", "<?pi ", '<Chrgs x="', "<Chrgs", "<![CDATA["])
def test_a_text_a_tag_or_a_comment_without_end_is_refused_and_not_waited_for(opening: str) -> None:
    start = document(statement(entry(more=f"{opening}@"))).partition("@")[0]

    def endless() -> Iterator[str]:
        yield start
        for _ in range(400):
            yield "x" * (1 << 16)
        raise AssertionError("it was read to its end")

    with pytest.raises(FileRefusedError, match="longer than"):
        list(Camt053().read(endless()))


def test_the_references_of_an_entry_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camt053, "_MOST_REFERENCES", 3)
    details = "".join(f"<TxDtls><Refs><TxId>{n}</TxId></Refs></TxDtls>" for n in range(4))
    refusal = refusal_of(document(statement(entry(more=f"<NtryDtls>{details}</NtryDtls>"))))
    assert "more than 3 references" in refusal.problem


def test_supplementary_data_of_any_namespace_is_passed_over() -> None:
    passed = '<SplmtryData><Envlp><Ntry xmlns="urn:bank">text <b/> between</Ntry></Envlp></SplmtryData>'
    more = f"<NtryDtls><TxDtls>{passed}<AddtlTxInf>x</AddtlTxInf></TxDtls></NtryDtls>"
    (line,) = lines_of(document(statement(entry(more=more)) + passed))
    assert line.references == ("x",)
    assert "no statement" in refusal_of(f'<SplmtryData xmlns="{NAMESPACE}08"/>').problem


@pytest.mark.parametrize("encoding", ["UTF-8", "utf-8", "ISO-8859-1", "windows-1252", "US-ASCII", "UTF-16"])
def test_what_the_declaration_says_of_the_bytes_is_no_matter_where_they_were_decoded(encoding: str) -> None:
    text = document(statement(entry(more="<AcctSvcrRef>é</AcctSvcrRef>"))).replace("UTF-8", encoding)
    assert lines_of(text)[0].bank_reference == "é"


def test_an_encoding_that_is_not_read_is_refused() -> None:
    assert "'ISO-8859-15': ask the bank for UTF-8" in refusal_of(document().replace("UTF-8", "ISO-8859-15")).problem


def raw_of(encode: Callable[[str], bytes], text: str) -> Iterator[bytes]:
    raw = encode(text)
    return (raw[at : at + 7] for at in range(0, len(raw), 7))


@pytest.mark.parametrize(
    "encode",
    [
        str.encode,
        lambda text: codecs.BOM_UTF8 + text.encode(),
        lambda text: text.encode("utf-16"),
        lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: text.replace("\n", "\r").encode(),
    ],
    ids=["utf-8", "utf-8 with BOM", "utf-16 little", "utf-16 big", "crlf", "cr"],
)
@pytest.mark.parametrize("seed", ["bank-v02.camt.xml", "bank-v08.camt.xml"])
def test_H8_encodings_line_ends_and_where_the_pieces_end_make_no_difference(
    seed: str, encode: Callable[[str], bytes]
) -> None:
    text = (SEEDS / seed).read_text("utf-8").replace("PSP-7", "Größe €7")
    assert list(Camt053().read(decoded(raw_of(encode, text)))) == read(text)


def test_H8_windows_1252_is_read_where_it_is_no_utf_8() -> None:
    text = document(statement(entry(more="<AcctSvcrRef>Größe</AcctSvcrRef>"))).replace("UTF-8", "ISO-8859-1")
    (line, _) = Camt053().read(decoded([text.encode("cp1252")]))
    assert isinstance(line, BankLine)
    assert line.bank_reference == "Größe"


def test_H2_a_file_that_was_cut_is_refused_and_says_so() -> None:
    text = document()
    for end in (40, text.index("<Ntry>"), text.index("</Ntry>"), text.index("</Document>"), len(text) - 2):
        refusal = refusal_of(text[:end])
        assert "it was cut, fetch it again" in refusal.problem
    assert "it was cut" in refusal_of("").problem


def test_something_after_the_document_is_refused() -> None:
    assert "not XML" in refusal_of(document() + "<Document/>").problem
    assert "not XML" in refusal_of(document() + "x").problem


def test_half_of_a_surrogate_pair_is_refused() -> None:
    assert "surrogate" in refusal_of(document().replace("S1", "\ud800")).problem


def peak_of(chunks: Iterable[str]) -> int:
    tracemalloc.start()
    try:
        assert sum(1 for item in Camt053().read(iter(chunks)) if isinstance(item, BankLine)) > 0
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_file() -> None:
    def chunks(number: int) -> Iterator[str]:
        before, _, after = document(statement("@")).partition("@")
        yield before
        for n in range(number):
            yield entry(more=f"<AcctSvcrRef>{n}</AcctSvcrRef><AddtlNtryInf>{'x' * 400}</AddtlNtryInf>")
        yield after

    assert peak_of(chunks(2_000)) < peak_of(chunks(200)) + LONGEST_LINE // 8
