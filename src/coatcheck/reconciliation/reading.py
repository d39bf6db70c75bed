"""Reading files strictly: their encoding, the rows of a CSV by column name, amounts and times."""

import codecs
import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import Final

from coatcheck.money import CurrencyError, readable_exponent_of
from coatcheck.reconciliation.lines import FileRefusedError

_BOMS: Final = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_LONGEST_BOM: Final = 3
_NOT_ASCII: Final = 0x80
LONGEST_LINE: Final = 1 << 20
_LONGEST_HEADER: Final = 1 << 16
_NOWHERE: Final = -1  # the place of a column that the file does not have: that of an empty field put behind each row
_LINE_ENDS: Final = ("\n", "\r")
_AMOUNT: Final = re.compile(r"(-?)([0-9]{1,15})(?:\.([0-9]{1,9}))?").fullmatch
_LARGEST_MINOR: Final = 2**53 - 1
_USUAL_DIGITS: Final = 11  # before the point: with four decimals still below the largest amount
_EXPONENTS: Final[dict[str, int]] = {}  # as they are asked for: a file asks three times for each line


def decoded(chunks: Iterable[bytes]) -> Iterator[str]:
    """Decode a file's bytes as they come: by its BOM, else as UTF-8, or as Windows-1252 from where UTF-8 ends.

    Raises FileRefusedError for bytes that the encoding does not have, and for NUL.
    """
    decoder: codecs.IncrementalDecoder | None = None
    may_be_cp1252, held = True, b""
    for piece in _with_a_whole_head(chunks):
        chunk = held + piece
        if decoder is None:
            encoding = next((name for bom, name in _BOMS.items() if chunk.startswith(bom)), "utf-8")
            may_be_cp1252 = encoding == "utf-8"
            decoder = _decoder_of(encoding)
        if may_be_cp1252:
            chunk, held = _without_half_a_letter(chunk)
            if not chunk.isascii():
                may_be_cp1252 = False
                decoder = decoder if _is_utf8(chunk) else _decoder_of("cp1252")
        else:
            held = b""
        yield _text(decoder, chunk, is_last=False)
    if decoder is not None:
        yield _text(_decoder_of("cp1252") if held else decoder, held, is_last=True)


def _without_half_a_letter(chunk: bytes) -> tuple[bytes, bytes]:
    """Hold back what may be the beginning of the first letter that is not ASCII: alone it says no encoding."""
    end = len(chunk)
    while end and chunk[end - 1] >= _NOT_ASCII and len(chunk) - end < _LONGEST_BOM:
        end -= 1
    return (chunk[:end], chunk[end:]) if chunk[:end].isascii() and end < len(chunk) else (chunk, b"")


def _with_a_whole_head(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Hold the first bytes back until a BOM would be whole."""
    head: bytes | None = b""
    for chunk in chunks:
        if head is not None:
            head += chunk
            if len(head) < _LONGEST_BOM:
                continue
            chunk, head = head, None  # noqa: PLW2901 - it goes on as one piece
        yield chunk
    if head:
        yield head


def _decoder_of(encoding: str) -> codecs.IncrementalDecoder:
    return codecs.getincrementaldecoder(encoding)("strict")


def _is_utf8(chunk: bytes) -> bool:
    try:
        _decoder_of("utf-8").decode(chunk, False)
    except UnicodeDecodeError:
        return False
    return True


def _text(decoder: codecs.IncrementalDecoder, chunk: bytes, *, is_last: bool) -> str:
    try:
        text = decoder.decode(chunk, is_last)
    except UnicodeDecodeError as error:
        raise FileRefusedError(f"it is not text in one encoding ({error.reason}): fetch it again") from error
    if "\0" in text:
        raise FileRefusedError("it contains a NUL character: it is no text file, or was damaged on its way")
    return text


def lines_of(chunks: Iterable[str]) -> Iterator[str]:
    """Split text into lines as it comes, each with its line end. Raises FileRefusedError for an endless line."""
    left = ""
    for chunk in chunks:
        whole = left + chunk
        # Read as files are: these three line ends, and the other characters that some call line ends belong to a line.
        found = io.StringIO(whole.removesuffix("\r"), newline="").readlines()
        left = found.pop() if found and not found[-1].endswith(_LINE_ENDS) else ""
        left += "\r" if whole.endswith("\r") else ""  # it may be half of a line end
        yield from found
        if len(left) > LONGEST_LINE:
            raise FileRefusedError(f"a line is longer than {LONGEST_LINE} characters")
    if left:
        yield left


class Table:
    """The rows of a CSV file by column name, in whatever order the columns stand; more columns do no harm.

    `optional` columns may be missing. `line_no` is the line of the file on which the row just given ends.
    """

    def __init__(
        self, lines: Iterable[str], wanted: Sequence[str], *, optional: Sequence[str] = (), delimiter: str = ","
    ) -> None:
        self._reader = csv.reader(lines, delimiter=delimiter, strict=True)
        self.header = self._next_row() or []
        names = [name.strip() for name in self.header]
        read = (*wanted, *optional)
        doubled = {name for name in read if names.count(name) > 1}
        missing = [name for name in wanted if name not in names]
        if missing or doubled:
            said = f"lacks the column {missing[0]!r}" if missing else f"has the column {min(doubled)!r} twice"
            raise FileRefusedError(f"the header {said}", self.line_no)
        self._width = len(self.header)
        self._places = [names.index(name) if name in names else _NOWHERE for name in read]

    @property
    def line_no(self) -> int:
        """The number of the last line that was read, from 1."""
        return self._reader.line_num

    def has(self, name: str) -> bool:
        """Say whether the file has a column."""
        return name in [each.strip() for each in self.header]

    def rows(self) -> Iterator[list[str]]:
        """Give the wanted and the optional columns of each row, in the order they were asked for.

        What the file has no column for is empty. Empty lines are no rows.
        """
        width, places = self._width, self._places
        is_as_asked, has_gaps = places == list(range(width)), _NOWHERE in places
        try:
            for row in self._reader:
                if not row:
                    continue
                if len(row) != width:
                    said = f"it has {len(row)} fields where the header has {width}: the file was cut or damaged"
                    raise FileRefusedError(said, self.line_no)
                if has_gaps:
                    row.append("")
                yield row if is_as_asked else [row[place] for place in places]
        except csv.Error as error:
            raise FileRefusedError(f"it is not CSV ({error})", self._reader.line_num) from error

    def _next_row(self) -> list[str] | None:
        try:
            return next(self._reader, None)
        except csv.Error as error:
            raise FileRefusedError(f"it is not CSV ({error})", self._reader.line_num) from error


def columns_of(head: str) -> list[str]:
    """Name the columns of a CSV file that begins like this."""
    return [name.strip() for name in next(csv.reader(head[:_LONGEST_HEADER].splitlines()[:1]), [])]


def whole_table(
    chunks: Iterable[str], wanted: Sequence[str], optional: Sequence[str] = (), *, checked: Sequence[str] = ()
) -> Table:
    """Open a CSV file; a cut within the last field that is read is found out.

    `checked` columns need no such care: what is written there says by itself whether it is whole.
    """
    lines = lines_of(chunks)
    header = next(lines, "")
    is_last_read = any(name in (*wanted, *optional) and name not in checked for name in columns_of(header)[-1:])
    return Table(chain([header], _whole(lines, is_last_read=is_last_read)), wanted, optional=optional)


def _whole(lines: Iterator[str], *, is_last_read: bool) -> Iterator[str]:
    """Refuse a last line that may have been cut within a field that is read: it would still look like a whole row."""
    line = "\n"
    for line in lines:
        yield line
    if is_last_read and line[-1] not in "\r\n":
        raise FileRefusedError("the last line has no line end, so its last field may have been cut: fetch it again")


def minor_units(text: str, currency: str, line_no: int) -> int:
    """Read a signed decimal amount into minor units, exactly. Zeros beyond the currency's decimals are taken."""
    exponent = _EXPONENTS.get(currency)
    if exponent is None:
        exponent = exponent_of(currency, line_no)
    point = len(text) - 1 - exponent
    if exponent and 0 < point <= _USUAL_DIGITS and text[point] == ".":  # nearly all are written just so
        digits = text[:point] + text[point + 1 :]
        if digits.isascii() and digits.isdecimal():
            return int(digits)
    found = _AMOUNT(text)
    if found is None:
        raise FileRefusedError(f"{text!r} is no amount: digits with a decimal point are expected", line_no)
    sign, whole, decimals = found.groups()
    decimals = decimals or ""
    if decimals[exponent:].strip("0"):
        raise FileRefusedError(f"{text!r} has more decimals than {currency} ({exponent})", line_no)
    minor = int(whole + decimals[:exponent].ljust(exponent, "0"))
    if minor > _LARGEST_MINOR:
        raise FileRefusedError(f"{text!r} is larger than any amount can be", line_no)
    return -minor if sign else minor


def code_of(text: str) -> str:
    """Give a currency's code in capital letters: some write `usd`. Letters beyond ASCII stay what they are."""
    return text.upper() if text.isascii() else text  # a dotless i would become I, a long s would become S


def exponent_of(currency: str, line_no: int) -> int:
    """Say how many decimals a currency has, withdrawn ones too. Raises FileRefusedError for an unknown code."""
    try:
        return _EXPONENTS.setdefault(currency, readable_exponent_of(currency))
    except CurrencyError as error:
        raise FileRefusedError(str(error), line_no) from error


def moment(text: str, line_no: int, reads: Sequence[Callable[[str], datetime]]) -> datetime:
    """Read a time by the first way that fits; without a zone it is UTC."""
    for read in reads:
        try:
            found = read(text)
            if found.tzinfo is UTC:
                return found
            return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
        except (ValueError, OverflowError):
            continue
    raise FileRefusedError(f"{text!r} is no time that this format knows", line_no)
