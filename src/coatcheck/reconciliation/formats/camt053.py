"""ISO 20022 camt.053, a bank's statement in XML, versions 02 to 08: read as it comes, in flat memory.

Of XML only elements, attributes, text and comments are taken. There is no document type, hence no entity but XML's own
five, and nothing in the file can grow or point elsewhere.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import date
from typing import Final, NoReturn, TypeVar
from xml.parsers import expat

from coatcheck.reconciliation.lines import BankLine, ControlTotal, FileRefusedError
from coatcheck.reconciliation.reading import LONGEST_LINE, code_of, minor_units

_RECOGNISED: Final = re.compile(r"iso:20022:tech:xsd:camt\.053\.|<(?:\w+:)?BkToCstmrStmt[\s>/]").search
_NAMESPACE: Final = re.compile(r"urn:iso:std:iso:20022:tech:xsd:camt\.053\.001\.0[2-8]").fullmatch
_DAY: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]+)?)?(?:Z|[+-][0-9]{2}:[0-9]{2})?"
).fullmatch
_NUMBER: Final = re.compile(r"[0-9]{1,15}").fullmatch
# What reading.decoded may have read the bytes as; another encoding's letters would have become others.
_ENCODINGS: Final = {"UTF-8", "UTF-16", "ISO-8859-1", "WINDOWS-1252", "US-ASCII"}
_CUT_CODES: Final = {
    expat.errors.codes[message]
    for message in (
        *(expat.errors.XML_ERROR_NO_ELEMENTS, expat.errors.XML_ERROR_UNCLOSED_TOKEN),
        *(expat.errors.XML_ERROR_PARTIAL_CHAR, expat.errors.XML_ERROR_UNCLOSED_CDATA_SECTION),
    )
}
_PIECE: Final = 1 << 16  # characters given to the XML parser at once, so that what they hold is soon passed on
_DEEPEST: Final = 64  # the deepest element of the format stands at half of it
_MOST_REFERENCES: Final = 200_000  # of one entry

_ROOT: Final = "/Document"
_MESSAGE: Final = f"{_ROOT}/BkToCstmrStmt"
_STATEMENT: Final = f"{_MESSAGE}/Stmt"
_BALANCE: Final = f"{_STATEMENT}/Bal"
_ENTRY: Final = f"{_STATEMENT}/Ntry"
_BATCH: Final = f"{_ENTRY}/NtryDtls"
_DETAIL: Final = f"{_BATCH}/TxDtls"

# An element that is not of the format could be a damaged entry, so these are closed: version 02 to 08 together.
_CHILDREN: Final = {
    parent: frozenset(names.split())
    for parent, names in {
        "": "Document",
        _ROOT: "BkToCstmrStmt",
        _MESSAGE: "GrpHdr Stmt SplmtryData",
        _STATEMENT: (
            "Id StmtPgntn ElctrncSeqNb RptgSeq LglSeqNb CreDtTm FrToDt CpyDplctInd RptgSrc Acct RltdAcct Intrst Bal "
            "TxsSummry Ntry AddtlStmtInf"
        ),
        _BALANCE: "Tp CdtLine Amt CdtDbtInd Dt Avlbty",
        _ENTRY: (
            "NtryRef Amt CdtDbtInd RvslInd Sts BookgDt ValDt AcctSvcrRef Avlbty BkTxCd ComssnWvrInd AddtlInfInd "
            "AmtDtls Chrgs TechInptChanl Intrst CardTx NtryDtls AddtlNtryInf"
        ),
        _BATCH: "Btch TxDtls",
    }.items()
}
_PARTS: Final = frozenset({_MESSAGE, _STATEMENT, _BALANCE, _ENTRY, _BATCH, _DETAIL})
# What is read of each part, at most once in it.
_FIELDS: Final = {
    f"{part}/{name}": name
    for part, names in {
        _MESSAGE: "GrpHdr/MsgPgntn/PgNb GrpHdr/MsgPgntn/LastPgInd",
        _STATEMENT: (
            "Id StmtPgntn/PgNb StmtPgntn/LastPgInd Acct/Id/IBAN Acct/Id/Othr/Id Acct/Ccy "
            "TxsSummry/TtlNtries/NbOfNtries TxsSummry/TtlNtries/Sum TxsSummry/TtlNtries/TtlNetNtryAmt "
            "TxsSummry/TtlNtries/CdtDbtInd TxsSummry/TtlNtries/TtlNetNtry/Amt TxsSummry/TtlNtries/TtlNetNtry/CdtDbtInd "
            "TxsSummry/TtlCdtNtries/NbOfNtries TxsSummry/TtlCdtNtries/Sum "
            "TxsSummry/TtlDbtNtries/NbOfNtries TxsSummry/TtlDbtNtries/Sum"
        ),
        _BALANCE: "Tp/CdOrPrtry/Cd Amt CdtDbtInd",
        _ENTRY: "Amt CdtDbtInd RvslInd Sts Sts/Cd BookgDt/Dt BookgDt/DtTm AcctSvcrRef",
        _BATCH: "Btch/NbOfTxs Btch/TtlAmt Btch/CdtDbtInd",
        _DETAIL: "Amt AmtDtls/TxAmt/Amt CdtDbtInd",
    }.items()
    for name in names.split()
}
_REFERENCES: Final = frozenset(
    f"{part}/{name}"
    for part, names in {
        _ENTRY: "NtryRef AcctSvcrRef AddtlNtryInf",
        f"{_BATCH}/Btch": "MsgId PmtInfId",
        f"{_DETAIL}/Refs": (
            "MsgId AcctSvcrRef PmtInfId InstrId EndToEndId UETR TxId MndtId ChqNb ClrSysRef AcctOwnrTxId AcctSvcrTxId "
            "MktInfrstrctrTxId PrcgId Prtry/Ref"
        ),
        f"{_DETAIL}/RltdRmtInf": "RmtId",
        f"{_DETAIL}/RmtInf": "Ustrd Strd/RfrdDocInf/Nb Strd/CdtrRefInf/Ref Strd/AddtlRmtInf",
        _DETAIL: "AddtlTxInf",
    }.items()
    for name in names.split()
)
_BOOKED_BALANCES: Final = ("OPBD", "PRCD", "ITBD", "CLBD")
_DIRECTIONS: Final = {"CRDT": 1, "DBIT": -1}
_IS_BOOKED: Final = {"BOOK": True, "PDNG": False, "INFO": False, "FUTR": False}
_IS_TRUE: Final = {"true": True, "1": True, "false": False, "0": False}

_Meaning = TypeVar("_Meaning")


class Camt053:
    """A bank's statements in XML. The sign is that of CdtDbtInd: RvslInd says why an entry is there, not which way.

    An entry is one line, however many details it has; an entry that is not booked is none. `line_no` is the entry's
    own: where several stand in one line of the file, they are counted on from it.
    """

    name = "camt053"
    provider = None

    def recognises(self, head: str) -> bool:
        """Say whether a file begins like a camt.053 of any version; `read` refuses those that it does not know."""
        return head.lstrip().startswith("<") and _RECOGNISED(head) is not None

    def read(self, chunks: Iterator[str]) -> Iterator[BankLine | ControlTotal]:
        """Read the booked entries, and of each statement its closing balance and the totals that it states."""
        document = _Document()
        for chunk in chunks:
            for start in range(0, len(chunk), _PIECE):
                yield from document.take(chunk[start : start + _PIECE])
        document.end()


class _Part(dict[str, str]):
    """What was read of a part of the statement, by the element's path in it. `line_no`: where the part begins."""

    def __init__(self, line_no: int) -> None:
        super().__init__()
        self.line_no = line_no

    def refuse(self, problem: str) -> NoReturn:
        raise FileRefusedError(problem, self.line_no)

    def known(self, name: str, meanings: Mapping[str, _Meaning], default: str = "") -> _Meaning:
        """Give the meaning of a code word."""
        word = self.get(name, default)
        if word not in meanings:
            self.refuse(f"{name} is {word[:40]!r}, where one of {', '.join(meanings)} is expected: fetch it again")
        return meanings[word]

    def count(self, name: str) -> int:
        """Read a number of things."""
        if not _NUMBER(self[name]):
            self.refuse(f"{name} is {self[name][:40]!r}, which is no number: fetch it again")
        return int(self[name])

    def money(self, name: str) -> tuple[int, str]:
        """Read an amount with its currency."""
        currency = code_of(self.get(f"{name}@Ccy", ""))
        if not currency:
            self.refuse(f"{name} has no amount with a currency (Ccy): fetch it again")
        return self.amount(name, currency), currency

    def amount(self, name: str, currency: str) -> int:
        """Read a decimal number of XML Schema that may not be negative, into minor units."""
        text = self[name].removeprefix("+")
        if text.startswith("-"):
            self.refuse(f"{name} is {text[:40]!r}: an amount has no sign here, CdtDbtInd says which way")
        whole, point, decimals = text.partition(".")
        if point and (whole or decimals):
            text = f"{whole or '0'}.{decimals or '0'}"
        return minor_units(text, currency, self.line_no)

    def signed(self) -> tuple[int, str]:
        """Read the part's own amount: above zero when it came in, or is to our credit."""
        amount, currency = self.money("Amt")
        return self.known("CdtDbtInd", _DIRECTIONS) * amount, currency

    def booking_day(self) -> date:
        """Read the bank's own day, whatever its time zone."""
        text = self.get("BookgDt/Dt") or self.get("BookgDt/DtTm") or ""
        found = _DAY(text)
        try:
            return date.fromisoformat(found[1] if found else "")
        except ValueError:
            self.refuse(f"the booking date (BookgDt) of an entry is {text[:40]!r}: fetch it again")


class _Batch:
    """The details of a batch, against what the batch states of them."""

    def __init__(self, entry: _Part, line_no: int) -> None:
        self._entry = entry
        self._line_no = line_no
        self._count = 0
        self._sum = 0
        self._currencies = set[str | None]()

    def add(self, detail: _Part) -> None:
        """Count one of the details."""
        self._count += 1
        name = "Amt" if "Amt" in detail else "AmtDtls/TxAmt/Amt"
        if name not in detail:
            self._currencies.add(None)
            return
        amount, currency = detail.money(name)
        self._currencies.add(currency)
        self._sum += self._sign(detail, "CdtDbtInd") * amount

    def totals(self, batch: _Part, statement: str) -> Iterator[ControlTotal]:
        """Compare where the details are given: a bank may leave them out, or their amounts, or convert them."""
        where = f"of the batch in line {self._line_no}"
        if "Btch/NbOfTxs" in batch and self._count:
            stated = batch.count("Btch/NbOfTxs")
            yield _total(f"number of details {where}", statement, None, stated, self._count)
        if "Btch/TtlAmt" in batch:
            amount, currency = batch.money("Btch/TtlAmt")
            if self._currencies == {currency}:
                stated = self._sign(batch, "Btch/CdtDbtInd") * amount
                yield _total(f"amount {where}", statement, currency, stated, self._sum)

    def _sign(self, part: _Part, name: str) -> int:
        """Say whether a part goes the way of its entry: it does, if it does not say."""
        way = self._entry.get("CdtDbtInd", "")
        return 1 if part.known(name, _DIRECTIONS, way) == _DIRECTIONS.get(way) else -1


class _Statement:
    """One statement: its balances, what its entries add up to, and what it states of that."""

    def __init__(self, part: _Part, message: _Part) -> None:
        self._part = part  # grows as the statement is read
        self._message = message
        self._balances: dict[tuple[str, str], list[int]] = {}
        self._moved = Counter[str]()  # booked, by currency
        self._counts = Counter[int]()  # of all entries, by direction
        self._sums = Counter[int]()
        self._currencies = set[str]()

    @property
    def name(self) -> str:
        """The bank's name for the statement, with the number of its page from the second one on."""
        name = self._part.get("Id") or self._part.refuse("the statement has no Id before its entries: fetch it again")
        page = self._part.get("StmtPgntn/PgNb") or self._message.get("GrpHdr/MsgPgntn/PgNb") or "1"
        return name if page.lstrip("0") == "1" else f"{name}/{page}"

    @property
    def _account(self) -> str:
        account = self._part.get("Acct/Id/IBAN") or self._part.get("Acct/Id/Othr/Id")
        return account or self._part.refuse("the statement has no account (Acct/Id) before its entries: fetch it again")

    def add_balance(self, balance: _Part) -> None:
        """Keep a balance of what is booked. Only interim ones may be several of a kind: a page's first and its last."""
        amount, currency = balance.signed()
        code = balance.get("Tp/CdOrPrtry/Cd", "")
        if code not in _BOOKED_BALANCES:
            return
        known = self._balances.setdefault((code, currency), [])
        known.append(amount)
        if len(known) > 1 and code != "ITBD":
            balance.refuse(f"there are two balances {code} in {currency}: ask the bank for one statement per day")

    def add_entry(self, entry: _Part, line_no: int, references: tuple[str, ...]) -> BankLine | None:
        """Count an entry, and make its line if it is booked."""
        amount, currency = entry.signed()
        direction = entry.known("CdtDbtInd", _DIRECTIONS)
        self._counts[direction] += 1
        self._sums[direction] += abs(amount)
        self._currencies.add(currency)
        entry.known("RvslInd", _IS_TRUE, "false")
        if not entry.known("Sts/Cd" if "Sts/Cd" in entry else "Sts", _IS_BOOKED):
            return None
        self._moved[currency] += amount
        return BankLine(
            line_no=line_no,
            statement=self.name,
            account=self._account,
            booked_on=entry.booking_day(),
            currency=currency,
            amount_minor=amount,
            bank_reference=entry.get("AcctSvcrRef") or None,
            references=references,
            opening_minor=self._opening_in(currency),
        )

    def _opening_in(self, currency: str) -> int | None:
        stated = [self._balances.get((code, currency)) for code in ("OPBD", "PRCD", "ITBD")]
        return next((balances[0] for balances in stated if balances), None)

    def totals(self, message: _Part) -> Iterator[ControlTotal]:
        """Compare the closing balance of each currency, and what the statement's summary says."""
        name, _ = self.name, self._account
        currencies = {currency for _, currency in self._balances} | self._moved.keys()
        if not currencies:
            self._part.refuse("the statement has no balances: fetch it again, or ask the bank for OPBD and CLBD")
        for currency in sorted(currencies):
            opening, closing = self._ends_in(currency, message)
            yield _total("closing balance", name, currency, closing, opening + self._moved[currency])
        summed = self._currencies or currencies
        yield from self._summary(name, min(summed) if len(summed) == 1 else None)

    def _ends_in(self, currency: str, message: _Part) -> tuple[int, int]:
        """Find the opening and the closing balance. An interim one stands for it where two pages meet."""
        page = self._part if "StmtPgntn/PgNb" in self._part else message
        at = "StmtPgntn" if page is self._part else "GrpHdr/MsgPgntn"
        is_later = f"{at}/PgNb" in page and page.count(f"{at}/PgNb") > 1
        is_last = page.known(f"{at}/LastPgInd", _IS_TRUE, "true")
        interim = self._balances.get(("ITBD", currency), []).copy()
        opening = self._balances.get(("OPBD", currency)) or self._balances.get(("PRCD", currency))
        if not opening and is_later:
            opening, interim = interim[:1], interim[1:]
        closing = self._balances.get(("CLBD", currency)) or (None if is_last else interim[-1:])
        if not opening or not closing:
            missing = "closing balance (CLBD)" if opening else "opening balance (OPBD or PRCD)"
            self._part.refuse(f"the statement has no {missing} in {currency}: fetch it again, or ask the bank for both")
        return opening[0], closing[0]

    def _summary(self, name: str, currency: str | None) -> Iterator[ControlTotal]:
        """Compare the summary (TxsSummry), which is over all entries, booked or not.

        Sums over several currencies mean nothing and are not compared.
        """
        for group, words, directions in (
            ("TxsSummry/TtlNtries", "entries", (1, -1)),
            ("TxsSummry/TtlCdtNtries", "credit entries", (1,)),
            ("TxsSummry/TtlDbtNtries", "debit entries", (-1,)),
        ):
            if f"{group}/NbOfNtries" in self._part:
                counted = sum(self._counts[each] for each in directions)
                yield _total(f"number of {words}", name, None, self._part.count(f"{group}/NbOfNtries"), counted)
            if f"{group}/Sum" in self._part and currency is not None:
                summed = sum(self._sums[each] for each in directions)
                yield _total(f"sum of {words}", name, currency, self._part.amount(f"{group}/Sum", currency), summed)
        if currency is not None:
            yield from self._net(name, currency)

    def _net(self, name: str, currency: str) -> Iterator[ControlTotal]:
        group = "TxsSummry/TtlNtries"
        for amount, direction in (
            (f"{group}/TtlNetNtryAmt", f"{group}/CdtDbtInd"),  # of the older versions
            (f"{group}/TtlNetNtry/Amt", f"{group}/TtlNetNtry/CdtDbtInd"),
        ):
            if amount in self._part:
                stated = self._part.known(direction, _DIRECTIONS) * self._part.amount(amount, currency)
                yield _total("net of entries", name, currency, stated, self._sums[1] - self._sums[-1])


class _Document:
    """One file being read: where in it we are, and the parts around that place."""

    def __init__(self) -> None:
        self._parser = expat.ParserCreate("utf-8", " ")
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._begin
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._characters
        self._parser.XmlDeclHandler = self._declared
        self._parser.StartDoctypeDeclHandler = self._doctype
        self._given_bytes = 0
        self._namespace = ""
        self._paths = [""]
        self._passed_over = 0  # how deep inside of SplmtryData, which is of other namespaces
        self._is_leaf = False
        self._attributes: dict[str, str] = {}
        self._text: list[str] = []
        self._text_length = 0
        self._parts: list[_Part] = []
        self._statement: _Statement | None = None
        self._batch: _Batch | None = None
        self._entry_line_no = 0
        self._references: dict[str, None] = {}
        self._ready: list[BankLine | ControlTotal] = []

    def take(self, piece: str) -> list[BankLine | ControlTotal]:
        """Read on, and give what is complete now."""
        self._parse(piece, is_last=False)
        # A tag or a comment that does not end would be looked through again with every piece.
        if self._given_bytes - self._parser.CurrentByteIndex > LONGEST_LINE:
            self._refuse(f"a tag or a comment is longer than {LONGEST_LINE} bytes: find out who made this file")
        ready, self._ready = self._ready, []
        return ready

    def end(self) -> None:
        """Say that nothing more comes."""
        self._parse("", is_last=True)
        if self._statement is None:
            self._refuse("there is no statement (Stmt) in it: fetch it again")

    def _parse(self, piece: str, *, is_last: bool) -> None:
        try:
            raw = piece.encode()
            self._given_bytes += len(raw)
            self._parser.Parse(raw, is_last)
        except expat.ExpatError as error:
            problem = f"it is not XML ({expat.errors.messages[error.code]}): it was damaged, fetch it again"
            if is_last and error.code in _CUT_CODES:
                problem = "it ends in the middle: it was cut, fetch it again"
            raise FileRefusedError(problem, error.lineno) from error
        except UnicodeEncodeError:
            self._refuse("it contains half of a surrogate pair: it was damaged, fetch it again")

    def _refuse(self, problem: str) -> NoReturn:
        raise FileRefusedError(problem, self._parser.CurrentLineNumber)

    def _doctype(self, *_: object) -> None:
        self._refuse("it has a document type (DOCTYPE), which no statement has: find out who made this file")

    def _declared(self, _version: str, encoding: str | None, _standalone: int) -> None:
        if encoding is not None and encoding.upper() not in _ENCODINGS:
            self._refuse(f"its encoding is {encoding[:40]!r}: ask the bank for UTF-8")

    def _characters(self, text: str) -> None:
        self._text_length += len(text)
        if self._text_length > LONGEST_LINE:
            self._refuse(f"a text is longer than {LONGEST_LINE} characters: fetch it again")
        self._text.append(text)

    def _taken_text(self) -> str:
        text = "".join(self._text).strip()
        self._text.clear()
        self._text_length = 0
        return text

    def _begin(self, name: str, attributes: dict[str, str]) -> None:
        text = self._taken_text()
        if len(self._paths) + self._passed_over > _DEEPEST:
            self._refuse(f"elements stand more than {_DEEPEST} deep: this is no camt.053")
        if text and not self._passed_over:
            self._refuse(f"there is text between elements ({text[:40]!r}): it was damaged, fetch it again")
        if self._passed_over or name.endswith(" SplmtryData"):
            self._passed_over += 1
            return
        path = self._path_to(name)
        self._paths.append(path)
        self._is_leaf, self._attributes = True, attributes
        if path in _PARTS:
            self._begin_part(path)

    def _path_to(self, name: str) -> str:
        parent = self._paths[-1]
        if not parent:
            self._namespace = self._namespace_of(name)
        if not name.startswith(self._namespace):
            self._refuse(f"the element {name[:80]!r} is of another namespace than the document: fetch it again")
        local = name[len(self._namespace) :]
        if parent in _CHILDREN and local not in _CHILDREN[parent]:
            place = parent.rpartition("/")[2] or "a statement's file"
            self._refuse(f"{place} has no element {local[:40]!r} in camt.053: it was damaged, fetch it again")
        return f"{parent}/{local}"

    def _namespace_of(self, name: str) -> str:
        namespace = name.rpartition(" ")[0]
        if not _NAMESPACE(namespace):
            self._refuse(f"{namespace[:80]!r} is no version that is read: ask the bank for camt.053.001.02 to .08")
        return f"{namespace} "

    def _begin_part(self, path: str) -> None:
        part = _Part(self._parser.CurrentLineNumber)
        if path == _STATEMENT:
            self._statement = _Statement(part, self._parts[0])
        elif path == _ENTRY:
            self._references = {}
            # Many files are one long line, and a line's number must still name one entry.
            self._entry_line_no = max(part.line_no, self._entry_line_no + 1)
        elif path == _BATCH:
            self._batch = _Batch(self._parts[-1], self._entry_line_no)
        self._parts.append(part)

    def _end(self, _name: str) -> None:
        text = self._taken_text()
        if self._passed_over:
            self._passed_over -= 1
            self._is_leaf = False
            return
        path = self._paths.pop()
        if self._is_leaf:
            self._end_leaf(path, text)
        elif text:
            self._refuse(f"there is text between elements ({text[:40]!r}): it was damaged, fetch it again")
        self._is_leaf = False
        if path in _PARTS:
            self._end_part(path, self._parts.pop())

    def _end_leaf(self, path: str, text: str) -> None:
        name = _FIELDS.get(path)
        if name is not None:
            part = self._parts[-1]
            if name in part:
                self._refuse(f"{name} stands twice in one place: it was damaged, fetch it again")
            part[name] = text
            if "Ccy" in self._attributes:
                part[f"{name}@Ccy"] = self._attributes["Ccy"]
        if path in _REFERENCES and text:
            self._references[text] = None
            if len(self._references) > _MOST_REFERENCES:
                self._refuse(f"an entry has more than {_MOST_REFERENCES} references: ask the bank for smaller batches")

    def _end_part(self, path: str, part: _Part) -> None:
        statement, batch = self._statement, self._batch
        if statement is None:  # the message, without any
            return
        if path == _STATEMENT:
            self._ready += statement.totals(self._parts[0])
        elif path == _BALANCE:
            statement.add_balance(part)
        elif path == _ENTRY:
            line = statement.add_entry(part, self._entry_line_no, tuple(self._references))
            self._ready += [line] if line is not None else []
        elif path == _BATCH and batch is not None:
            self._ready += batch.totals(part, statement.name)
        elif path == _DETAIL and batch is not None:
            batch.add(part)


def _total(what: str, statement: str, currency: str | None, stated: int, counted: int) -> ControlTotal:
    return ControlTotal(what=what, batch=statement, currency=currency, stated=stated, counted=counted)
