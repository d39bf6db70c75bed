"""The bank's statements of the month: camt.053, an account for each currency, an entry for each payout. Pure."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

from coatcheck.demo.evening import amount_text

_ON = "2026-11-30"
_DOCUMENT = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<Document xmlns="urn:iso:std:iso:20022:tech:xsd:camt.053.001.08"><BkToCstmrStmt><GrpHdr>'
    f"<MsgId>{{name}}</MsgId><CreDtTm>{_ON}T22:00:00</CreDtTm></GrpHdr>\n{{statements}}</BkToCstmrStmt></Document>\n"
)
_STATEMENT = (
    f"<Stmt><Id>{{name}}</Id><CreDtTm>{_ON}T22:00:00</CreDtTm><Acct><Id><Othr><Id>{{account}}</Id></Othr></Id>"
    "<Ccy>{currency}</Ccy></Acct>{opening}{closing}{entries}</Stmt>\n"
)
_BALANCE = (
    '<Bal><Tp><CdOrPrtry><Cd>{code}</Cd></CdOrPrtry></Tp><Amt Ccy="{currency}">{amount}</Amt>'
    f"<CdtDbtInd>{{side}}</CdtDbtInd><Dt><Dt>{_ON}</Dt></Dt></Bal>"
)
_ENTRY = (
    '<Ntry><Amt Ccy="{currency}">{amount}</Amt><CdtDbtInd>{side}</CdtDbtInd><Sts><Cd>BOOK</Cd></Sts>'
    f"<BookgDt><Dt>{_ON}</Dt></BookgDt><ValDt><Dt>{_ON}</Dt></ValDt><AcctSvcrRef>{{name}}</AcctSvcrRef>"
    "<BkTxCd><Domn><Cd>PMNT</Cd><Fmly><Cd>RCDT</Cd><SubFmlyCd>ESCT</SubFmlyCd></Fmly></Domn></BkTxCd>"
    "<NtryDtls><TxDtls><Refs><EndToEndId>NOTPROVIDED</EndToEndId></Refs>"
    "<RmtInf><Ustrd>{text}</Ustrd></RmtInf></TxDtls></NtryDtls></Ntry>"
)


class Entry(NamedTuple):
    """A payout as the bank has it, in minor units: above zero the PSP's, which has arrived; below, one to a seller."""

    payout_id: str
    currency: str
    amount_minor: int


def bank_statement(name: str, opening: Mapping[str, int], entries: Sequence[Entry]) -> str:
    """Write what the bank says of an evening's payouts. `opening`: the balances before, in minor units by currency."""
    by_currency: dict[str, list[Entry]] = {}
    for entry in entries:
        by_currency.setdefault(entry.currency, []).append(entry)
    statements = [
        _statement(name, currency, opening.get(currency, 0), those) for currency, those in by_currency.items()
    ]
    return _DOCUMENT.format(name=name, statements="".join(statements))


def _statement(name: str, currency: str, opening: int, entries: Sequence[Entry]) -> str:
    closing = opening + sum(entry.amount_minor for entry in entries)
    return _STATEMENT.format(
        name=f"{name}-{currency}",
        account=f"DEMO{currency}",
        currency=currency,
        opening=_BALANCE.format(code="OPBD", **_sided(opening, currency)),
        closing=_BALANCE.format(code="CLBD", **_sided(closing, currency)),
        entries="".join(
            _ENTRY.format(
                name=f"{name}-{currency}-{number}",
                text=escape(f"Payout {entry.payout_id} of the PSP"),
                **_sided(entry.amount_minor, currency),
            )
            for number, entry in enumerate(entries, 1)
        ),
    )


def _sided(minor: int, currency: str) -> dict[str, str]:
    side = "DBIT" if minor < 0 else "CRDT"
    return {"side": side, "currency": currency, "amount": amount_text(abs(minor), currency)}
