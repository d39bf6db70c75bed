"""A bank's statement against what PSPs have paid out: the clearing account returns to zero, or a break says why not."""

import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.integration.outside import CALLER, checkout
from tests.integration.test_reconciliation import Desk, kinds

from coatcheck.reconciliation.bank_statements import BankStatements, StatementReport
from coatcheck.reconciliation.files import Source
from coatcheck.reconciliation.lines import FileRefusedError
from coatcheck.store import Store

CAMT = """<?xml version="1.0" encoding="UTF-8"?>
<Document xmlns="urn:iso:std:iso:20022:tech:xsd:camt.053.001.02"><BkToCstmrStmt><GrpHdr><MsgId>M1</MsgId>
<CreDtTm>2026-03-02T06:00:00</CreDtTm></GrpHdr><Stmt><Id>{name}</Id><CreDtTm>2026-03-02T06:00:00</CreDtTm>
<Acct><Id><IBAN>DE02120300000000202051</IBAN></Id></Acct>
<Bal><Tp><CdOrPrtry><Cd>OPBD</Cd></CdOrPrtry></Tp><Amt Ccy="EUR">100.00</Amt><CdtDbtInd>CRDT</CdtDbtInd>
<Dt><Dt>2026-03-01</Dt></Dt></Bal>
<Bal><Tp><CdOrPrtry><Cd>CLBD</Cd></CdOrPrtry></Tp><Amt Ccy="EUR">{closing}</Amt><CdtDbtInd>CRDT</CdtDbtInd>
<Dt><Dt>2026-03-01</Dt></Dt></Bal>
{entries}
</Stmt></BkToCstmrStmt></Document>
"""
ENTRY = """<Ntry><Amt Ccy="EUR">{amount}</Amt><CdtDbtInd>{side}</CdtDbtInd><Sts>BOOK</Sts>
<BookgDt><Dt>2026-03-01</Dt></BookgDt><ValDt><Dt>2026-03-01</Dt></ValDt><AcctSvcrRef>B{number}</AcctSvcrRef><BkTxCd><Domn><Cd>PMNT</Cd><Fmly><Cd>RCDT</Cd>
<SubFmlyCd>ESCT</SubFmlyCd></Fmly></Domn></BkTxCd><NtryDtls><TxDtls><Refs><EndToEndId>NOTPROVIDED</EndToEndId></Refs>
<RmtInf><Ustrd>{text}</Ustrd></RmtInf></TxDtls></NtryDtls></Ntry>"""


def cents(text: str) -> int:
    return int(text.replace(".", ""))


def statement(
    *entries: tuple[str, str], closing: str | None = None, name: str | None = None, numbers: Sequence[int] = ()
) -> str:
    """A statement: amounts, of debits below zero, and what they say. It begins with 100.00 and has a name of its own.

    `name`: this one instead. `numbers`: the bank's own of the entries, if not from 1.
    """
    name = name or f"S{zlib.crc32(repr(entries).encode())}"
    total = 10_000 + sum(cents(amount) for amount, _ in entries)
    counted = zip(numbers or range(1, len(entries) + 1), entries, strict=True)
    written = [
        ENTRY.format(amount=amount.lstrip("-"), side="DBIT" if amount < "0" else "CRDT", text=text, number=n)
        for n, (amount, text) in counted
    ]
    return CAMT.format(name=name, closing=closing or f"{total // 100}.{total % 100:02}", entries="".join(written))


class Bank(Desk):
    """A desk that also gets the bank's statements."""

    async def state(self, text: str, name: str = "statement.xml") -> StatementReport:
        path = self._directory / name
        path.write_text(text, "utf-8")
        source = Source(path=path, name=name, shop_id=CALLER.shop_id, mode=CALLER.mode, brought_by="ada")
        return await BankStatements(self.world.store, self.world.clock).take(source)

    async def settled(self, orders: Sequence[str] = ("o1", "o2")) -> None:
        await self.world.pay(checkout("c1", *orders))
        (text,) = self.close()
        assert (await self.take(text)).is_clean

    async def standing(self) -> dict[str, int]:
        found = await self.world.balances()
        return {kind: found[kind] for kind in ("psp_payouts_in_transit", "bank", "suspense") if kind in found}


@pytest.fixture
def desk(store: Store, tmp_path: Path) -> Bank:
    return Bank(store, tmp_path)


@pytest.mark.parametrize("text", ["Payout po_000001 of the PSP", "settlement st_000001"])
async def test_H9_a_payout_that_has_arrived_leaves_nothing_in_transit(desk: Bank, text: str) -> None:
    await desk.settled()
    assert await desk.standing() == {"psp_payouts_in_transit": 1950}
    report = await desk.state(statement(("19.50", text)))
    assert (report.lines, report.matched, report.is_clean) == (1, 1, True)
    assert await desk.standing() == {"bank": 1950}
    assert await desk.world.violations() == {}


async def test_H1_the_same_statement_again_is_no_news(desk: Bank) -> None:
    await desk.settled()
    text = statement(("19.50", "po_000001"))
    await desk.state(text)
    again = await desk.state(text, "again.xml")
    assert (again.is_repeat, again.matched) == (True, 1)
    assert await desk.standing() == {"bank": 1950}


async def test_H9_what_is_no_payout_is_a_break_and_never_matched_on_its_amount(desk: Bank) -> None:
    await desk.settled()
    report = await desk.state(statement(("19.50", "rent"), ("3.00", "po_0000011")))
    assert kinds(report) == ["unexplained", "unexplained"]
    assert await desk.standing() == {"psp_payouts_in_transit": 1950, "bank": 2250, "suspense": -2250}
    assert await desk.world.violations() == {}


async def test_H5_a_payout_that_arrives_with_another_amount_is_a_break(desk: Bank) -> None:
    await desk.settled()
    report = await desk.state(statement(("19.40", "po_000001")))
    (found,) = report.mismatches
    assert (found.kind, found.expected_minor, found.stated_minor) == ("amount", 1950, 1940)
    assert await desk.standing() == {"psp_payouts_in_transit": 1950, "bank": 1940, "suspense": -1940}


async def test_H1_a_payout_arrives_once(desk: Bank) -> None:
    await desk.settled()
    report = await desk.state(statement(("19.50", "po_000001"), ("19.50", "po_000001")))
    assert kinds(report) == ["duplicate_line"]
    later = await desk.state(statement(("19.50", "po_000001 st_000001")), "later.xml")
    assert kinds(later) == ["duplicate_line"]


async def test_a_closing_balance_that_does_not_come_out_is_a_break(desk: Bank) -> None:
    report = await desk.state(statement(("19.50", "rent"), closing="119.51"))
    assert sorted(kinds(report)) == ["control_total", "unexplained"]


async def test_a_settlement_file_is_no_statement_and_the_other_way_round(desk: Bank) -> None:
    await desk.world.pay(checkout("c1", "o1"))
    (text,) = desk.close()
    with pytest.raises(FileRefusedError, match="not a bank's statement"):
        await desk.state(text)
    with pytest.raises(FileRefusedError, match="not a PSP's settlement file"):
        await desk.take(statement(("19.50", "rent")))
