"""Lines of CSV that no spreadsheet takes for a formula (hazard H8)."""

import csv
import io
import re
from collections.abc import Sequence

_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def csv_line(cells: Sequence[str]) -> str:
    """Write cells as one line, quoted where needed.

    A cell that a spreadsheet would work out, because it begins with = + - @ or a control sign, gets an apostrophe
    before it. A plain number, such as a balance below zero, is left alone: it means the same in every program.
    """
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow([_harmless(cell) for cell in cells])  # so both signs are quoted
    return line.getvalue().removesuffix("\r\n") + "\n"


def _harmless(cell: str) -> str:
    is_formula = cell.startswith(_FORMULA) and _NUMBER.fullmatch(cell) is None
    return f"'{cell}" if is_formula else cell
