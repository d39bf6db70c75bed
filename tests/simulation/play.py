"""One simulation from its seed to its verdict."""

import asyncio

import asyncpg
from tests.simulation.judge import Evidence, Verdict, history, judge
from tests.simulation.plan import plan_checkouts
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
    limit_s: float | None = 400,
) -> tuple[World, Verdict]:
    """Play and judge; what was found, and the history of one order of it, is printed."""
    # No page at a PSP that forgets its errors: it would make a second one for the next order of the payment.
    plan = plan_checkouts(seed, checkouts=checkouts, waves=waves, has_pages=remembers_errors)
    world = World(store, owner, plan, seed=seed, waves=waves, remembers_errors=remembers_errors, trouble=trouble)
    async with asyncio.timeout(limit_s):
        await world.run()
    bank = world.psp.bank
    evidence = Evidence(
        plan=plan,
        charges=bank.page(0, bank.charge_count),
        actions=bank.page_actions(0, bank.action_count),
        pages=world.pages,
        lapsed=world.psp.lapsed,
        diary=world.psp.diary,
        protests=world.protests,
    )
    verdict = await judge(owner, evidence)
    print(dict(world.counts), dict(bank.faults), f"hung={world.psp.hung} refused={world.psp.refused}")  # noqa: T201
    print(dict(verdict.orders), dict(verdict.operations), *verdict.findings, sep="\n")  # noqa: T201
    print(*await history(owner, evidence, verdict), sep="\n")  # noqa: T201
    return world, verdict
