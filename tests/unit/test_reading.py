"""Files as they come: whatever their encoding, line ends and pieces, they read the same, or are refused."""

from collections.abc import Iterator
from datetime import datetime

import pytest

from coatcheck.reconciliation.lines import FileRefusedError
from coatcheck.reconciliation.reading import Table, decoded, lines_of, minor_units, moment

TEXT = "name,amount\r\nZoë,1\nx\x0by,2\rlast,3"
LINES = ["name,amount\r\n", "Zoë,1\n", "x\x0by,2\r", "last,3"]


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_H8_the_encoding_is_found_and_pieces_make_no_difference(encoding: str, size: int) -> None:
    read = list(lines_of(decoded(pieces(TEXT.encode(encoding), size))))
    assert [line.removeprefix("\ufeff") for line in read] == LINES


def test_H8_windows_text_is_known_however_late_it_shows() -> None:
    data = b"a,b\n" * 100_000 + "Zoë,1\n".encode("cp1252")
    assert list(lines_of(decoded(pieces(data, 65_536))))[-1] == "Zoë,1\n"


@pytest.mark.parametrize("data", [b"a,\x00b\n", "Zoë and more".encode() + b"\n\xff\xfe\xfa", b"\xef\xbb\xbfab\xff"])
def test_H8_what_is_no_text_is_refused(data: bytes) -> None:
    with pytest.raises(FileRefusedError):
        list(decoded(pieces(data, 4)))


def test_a_line_without_an_end_is_refused() -> None:
    with pytest.raises(FileRefusedError, match="longer than"):
        list(lines_of("x" * 65_536 for _ in range(20)))


def test_columns_are_found_by_name_and_a_short_row_is_refused() -> None:
    table = Table(["b,more,a\n", "2,x,1\n", "\n", "4,3\n"], ("a", "b"))
    rows = table.rows()
    assert next(rows) == ["1", "2"]
    with pytest.raises(FileRefusedError, match="line 4: it has 2 fields where the header has 3"):
        next(rows)
    with pytest.raises(FileRefusedError, match="lacks the column 'c'"):
        Table(["a,b\n"], ("a", "c"))
    with pytest.raises(FileRefusedError, match="has the column 'a' twice"):
        Table(["a,a\n"], ("a",))


@pytest.mark.parametrize(
    ("text", "currency", "minor"),
    [
        *[
            ("12.34", "EUR", 1234),
            ("-12.34", "EUR", -1234),
            ("0.05", "EUR", 5),
            ("12.3", "EUR", 1230),
            ("7", "EUR", 700),
        ],
        *[("12.3400", "EUR", 1234), ("700", "JPY", 700), ("700.00", "JPY", 700), ("1.234", "KWD", 1234)],
        *[("90071992547409.91", "EUR", 2**53 - 1), ("12.34", "HRK", 1234)],
    ],
)
def test_E2_amounts_are_read_exactly(text: str, currency: str, minor: int) -> None:
    assert minor_units(text, currency, 1) == minor


@pytest.mark.parametrize(
    "text", ["", ".5", "5.", "1,5", "1e3", "+1.00", "--1.00", "12.345", "٣.00", "1_0.00", " 1.00", "90071992547409.92"]
)
def test_E7_what_is_no_exact_amount_is_refused(text: str) -> None:
    with pytest.raises(FileRefusedError):
        minor_units(text, "EUR", 1)


def test_E6_an_unknown_currency_is_refused_with_its_line() -> None:
    with pytest.raises(FileRefusedError, match="line 7"):
        minor_units("1.00", "EUX", 7)


@pytest.mark.parametrize("text", ["tomorrow", "0001-01-01T00:00:00+14:00", ""])
def test_a_time_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(FileRefusedError, match="no time"):
        moment(text, 1, (datetime.fromisoformat,))


def test_a_time_without_a_zone_is_utc() -> None:
    read = [moment(text, 1, (datetime.fromisoformat,)) for text in ("2026-03-01T12:00:00", "2026-03-01T13:00:00+01:00")]
    assert {each.isoformat() for each in read} == {"2026-03-01T12:00:00+00:00"}
