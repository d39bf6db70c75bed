"""The seeded simulation: thousands of payments through crashes, faults and days of retries, then the judge."""

import asyncio

import asyncpg
import pytest
from tests.simulation.judge import Evidence, Verdict, history, judge
from tests.simulation.plan import plan_checkouts
from tests.simulation.psp import WINDOW
from tests.simulation.world import Trouble, World

from coatcheck.store import Store


async def play(
    store: Store,
    owner: asyncpg.Connection,
    *,
    seed: int,
    checkouts: int,
    waves: int,
    remembers_errors: bool = True,
    trouble: Trouble | None = None,
) -> tuple[World, Verdict]:
    plan = plan_checkouts(seed, checkouts=checkouts, waves=waves)
    world = World(store, owner, plan, seed=seed, waves=waves, remembers_errors=remembers_errors, trouble=trouble)
    async with asyncio.timeout(100):
        await world.run()
    bank = world.psp.bank
    evidence = Evidence(
        plan=plan,
        charges=bank.page(0, bank.charge_count),
        diary=world.psp.diary,
        protests=world.protests,
        window=WINDOW,
    )
    verdict = await judge(owner, evidence)
    print(dict(world.counts), dict(bank.faults), f"hung={world.psp.hung} refused={world.psp.refused}")  # noqa: T201
    print(dict(verdict.orders), *verdict.findings, sep="\n")  # noqa: T201
    print(*await history(owner, evidence, verdict), sep="\n")  # noqa: T201
    return world, verdict


@pytest.mark.slow
@pytest.mark.timeout(110)
async def test_A1_A2_A3_A4_B1_B6_F1_G6_five_thousand_payments_are_charged_once(
    store: Store, owner: asyncpg.Connection, seed: int
) -> None:
    world, verdict = await play(store, owner, seed=seed, checkouts=5_000, waves=24)
    assert not verdict.faults, verdict.findings
    assert_it_was_hard(world, verdict)


@pytest.mark.slow
@pytest.mark.timeout(110)
async def test_A5_A14_a_psp_that_forgets_its_errors_charges_once(
    store: Store, owner: asyncpg.Connection, seed: int
) -> None:
    world, verdict = await play(store, owner, seed=seed, checkouts=2_000, waves=12, remembers_errors=False)
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
    assert verdict.orders["SUCCESS"] > 5 * verdict.orders["UNRESOLVED"] > 0
