"""Every break that is planted in settlement files is found, and no other: a twentieth of `make planted-breaks`."""

from collections import Counter
from pathlib import Path

import pytest
from tests.integration.planted import KINDS, Field, play

from coatcheck.reconciliation.breaks import BreakKind


def test_every_kind_of_break_is_planted() -> None:
    assert KINDS.keys() == {kind.value for kind in BreakKind} - {"control_total"}


def test_the_same_seed_plants_the_same_breaks() -> None:
    one, other, third = (Field(2_000, seed) for seed in (7, 7, 8))
    assert one.planted == other.planted
    assert one.planted != third.planted
    assert [batch.text() for batch in one.batches] == [batch.text() for batch in other.batches]
    kinds = Counter(kind for kind, _ in one.planted.elements())
    assert set(kinds) == {*KINDS, "control_total"}
    assert min(kinds.values()) >= 10


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [7])
async def test_H5_every_planted_break_is_found_and_none_is_false(database_url: str, tmp_path: Path, seed: int) -> None:
    verdict = await play(database_url, Field(10_000, seed), tmp_path)
    assert str(verdict) == (
        f"PLANTED lines={verdict.lines} planted={verdict.planted} found={verdict.planted} false=0 double_postings=0 "
        "ok=true"
    )
    assert verdict.lines >= 9_500
    assert verdict.planted >= (len(KINDS) + 1) * 90
