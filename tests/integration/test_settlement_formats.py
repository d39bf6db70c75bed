"""What PSPs' own files do to the books: one that was cut leaves nothing, and what is no payment is explained."""

from pathlib import Path
from uuid import UUID

import pytest
from tests.integration.test_breaks import agree, posted, said
from tests.integration.test_reconciliation import Desk, kinds

from coatcheck.ids import OPERATION, print_id
from coatcheck.providers.stripe_words import REFERENCE_KEY
from coatcheck.reconciliation.lines import FileRefusedError
from coatcheck.store import Store

SEEDS = Path(__file__).parents[1] / "fuzz/seeds"
PAID = print_id(OPERATION, UUID(int=1 << 8))


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


async def test_H9_a_transfer_to_a_seller_goes_back_to_the_account_that_paid_it(desk: Desk) -> None:
    header = "balance_transaction_id,created_utc,currency,gross,fee,net,reporting_category,source_id"
    header += f",transfer_metadata[{REFERENCE_KEY}]"
    row = f"txn_1,2026-11-20 10:00:00,eur,-20.00,0.00,-20.00,transfer,tr_1,{PAID}"
    report = await desk.take(f"{header}\n{row}\n")
    (found,) = report.mismatches
    assert (found.kind, found.detail, found.suspense_minor) == ("unexplained", f"adjustment tr_1 {PAID}", -2000)
    await agree(desk, found.break_id, said("bank", "stripe", "our payout"))
    assert await posted(desk, "bank:stripe") == 2000  # which the payout had taken from it
    assert await posted(desk, "psp:stripe:receivable") == -2000
    assert await posted(desk, "suspense:stripe") == 0
    assert await desk.world.violations() == {}
