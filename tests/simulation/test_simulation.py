"""The seeded simulation: whole lives of thousands of payments, through crashes, faults and days, then the judge."""

import asyncpg
import pytest
from tests.simulation.judge import Verdict
from tests.simulation.play import play
from tests.simulation.world import World

from coatcheck.store import Store


@pytest.mark.slow
@pytest.mark.timeout(420)
async def test_A1_A2_A3_A4_B1_B6_C2_C3_D1_D2_D4_D5_D6_F1_G6_thirteen_thousand_payments_end_in_the_truth(
    store: Store, owner: asyncpg.Connection, seed: int
) -> None:
    world, verdict = await play(store, owner, seed=seed, checkouts=13_000, waves=24)
    assert not verdict.faults, verdict.findings
    assert_it_was_hard(world, verdict)


@pytest.mark.slow
@pytest.mark.timeout(420)
async def test_A5_A14_a_psp_that_forgets_its_errors_charges_once(
    store: Store, owner: asyncpg.Connection, seed: int
) -> None:
    world, verdict = await play(store, owner, seed=seed, checkouts=7_000, waves=12, remembers_errors=False)
    assert not verdict.faults, verdict.findings
    assert_it_was_hard(world, verdict)


def assert_it_was_hard(world: World, verdict: Verdict) -> None:
    """A calm day would prove nothing: every kind of trouble came, and most orders were decided all the same."""
    for trouble in ("gateways died", "fenced", "left", "sent again", "blackouts", "backends killed"):
        assert world.counts[trouble], trouble
    for verdict_of_a_click in ("same_key", "same_checkout", "key_reused", "checkout_conflict"):
        assert world.counts[verdict_of_a_click], verdict_of_a_click
    faults = world.psp.bank.faults
    for fault in ("dropped_after_charge", "error_before", "error_after", "rate_limited", "slow", "look_up_error"):
        assert faults[fault], fault
    assert world.psp.hung
    assert world.psp.refused
    assert any(entry.lies for entry in world.psp.diary.values())
    assert verdict.orders["SUCCESS"] > 4 * verdict.orders["UNRESOLVED"] > 0
