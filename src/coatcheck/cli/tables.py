"""What is printed as a table."""

import shutil
import sys
from collections.abc import Sequence

_WIDTH_OF_A_FILE = 200  # a table that is not for a terminal must not be folded at 80 columns


def print_table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under their names, as wide as the terminal; whole lines where it goes to a file."""
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in names:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # as text: a shop's name is not markup
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _WIDTH_OF_A_FILE
    Console(width=width).print(table)
