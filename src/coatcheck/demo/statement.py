"""The bank's statement of the month: camt.053, an account for each currency, an entry for each payout. Pure."""

from collections.abc import Sequence
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
    "<Ccy>{currency}</Ccy></Acct>{opening}{closing}{entry}</Stmt>\n"
)
_BALANCE = (
    '<Bal><Tp><CdOrPrtry><Cd>{code}</Cd></CdOrPrtry></Tp><Amt Ccy="{currency}">{amount}</Amt>'
    f"<CdtDbtInd>CRDT</CdtDbtInd><Dt><Dt>{_ON}</Dt></Dt></Bal>"
)
_ENTRY = (
    '<Ntry><Amt Ccy="{currency}">{amount}</Amt><CdtDbtInd>CRDT</CdtDbtInd><Sts><Cd>BOOK</Cd></Sts>'
    f"<BookgDt><Dt>{_ON}</Dt></BookgDt><ValDt><Dt>{_ON}</Dt></ValDt><AcctSvcrRef>{{name}}</AcctSvcrRef>"
    "<BkTxCd><Domn><Cd>PMNT</Cd><Fmly><Cd>RCDT</Cd><SubFmlyCd>ESCT</SubFmlyCd></Fmly></Domn></BkTxCd>"
    "<NtryDtls><TxDtls><Refs><EndToEndId>NOTPROVIDED</EndToEndId></Refs>"
    "<RmtInf><Ustrd>{text}</Ustrd></RmtInf></TxDtls></NtryDtls></Ntry>"
)


class Arrival(NamedTuple):
    """A payout of the PSP that has arrived: its id there, and the amount in minor units."""

    payout_id: str
    currency: str
    amount_minor: int


def bank_statement(arrivals: Sequence[Arrival], number: int) -> str:
    """Write what the bank says of an evening's payouts."""
    return _DOCUMENT.format(name=f"demo-{number}", statements="".join([_statement(each, number) for each in arrivals]))


def _statement(arrival: Arrival, number: int) -> str:
    currency, amount = arrival.currency, amount_text(arrival.amount_minor, arrival.currency)
    name = f"demo-{number}-{currency}"
    return _STATEMENT.format(
        name=name,
        account=f"DEMO{currency}",
        currency=currency,
        opening=_BALANCE.format(code="OPBD", currency=currency, amount=amount_text(0, currency)),
        closing=_BALANCE.format(code="CLBD", currency=currency, amount=amount),
        entry=_ENTRY.format(
            currency=currency, amount=amount, name=name, text=escape(f"Payout {arrival.payout_id} of the PSP")
        ),
    )
