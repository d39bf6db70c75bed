"""What PSPs' own files do to the books: one that was cut leaves nothing."""

from pathlib import Path

import pytest
from tests.integration.test_reconciliation import Desk, kinds

from coatcheck.reconciliation.lines import FileRefusedError
from coatcheck.store import Store

SEEDS = Path(__file__).parents[1] / "fuzz/seeds"


@pytest.fixture
def desk(store: Store, tmp_path: Path) -> Desk:
    return Desk(store, tmp_path)


async def test_H2_a_report_of_adyen_s_that_was_cut_between_two_rows_leaves_nothing(desk: Desk) -> None:
    whole = (SEEDS / "adyen.csv").read_text("utf-8").splitlines(keepends=True)
    for end in range(1, len(whole)):
        with pytest.raises(FileRefusedError):
            await desk.take("".join(whole[:end]))
    for table in ("settlement_file", "settlement_line", "settlement_batch", "reconciliation_break", "transfer"):
        assert await desk.world.count(table) == 0
    assert kinds(await desk.take("".join(whole))) == ["missing_here", "missing_here"]
