"""What the simulation found in the gateway, each on its own and without luck."""

import dataclasses
from datetime import timedelta

import pytest
from tests.integration.outside import (
    CALLER,
    SETTINGS,
    ScriptedProvider,
    World,
    approved,
    checkout,
    not_found,
    pending,
    server_error,
    unknown,
)
from tests.simulation.life import GatewayDied

from coatcheck.ids import payment_id_of
from coatcheck.operations import Operation
from coatcheck.providers.outcome import Outcome
from coatcheck.providers.protocol import Charge
from coatcheck.store import Store


def dies(_: Charge) -> Outcome:
    raise GatewayDied


async def run_to_death(world: World, operation: Operation) -> None:
    with pytest.raises(GatewayDied):
        await world.gateway.executor.run(operation)


async def test_A5_A14_a_not_found_from_before_a_death_does_not_allow_another_sending(store: Store) -> None:
    world = World(store, ScriptedProvider(look_up_before_resend=True))
    world.provider.charges = [server_error, dies]
    world.provider.look_ups = [not_found] * 9
    await world.pay(checkout())
    await world.recover()  # not found, once
    world.clock.advance(timedelta(minutes=2))
    (third,) = await world.gateway.operations.claim(1)
    await run_to_death(world, third)  # not found twice: sent again, charged, and nobody lives to write it down
    await world.recover(timedelta(seconds=31))  # the lease is over, and the PSP's search still lags behind
    assert world.provider.asked.count("charge") == 2
    await world.recover()  # a second look-up that is late enough may be believed
    assert world.provider.asked.count("charge") == 3


async def test_a_pending_charge_is_asked_about_until_it_is_decided_whatever_one_answer_says(store: Store) -> None:
    settings = dataclasses.replace(SETTINGS, retry_budget_attempts=3)
    world = World(store, settings=settings)
    world.provider.charges = [pending]
    world.provider.look_ups = [pending, pending, pending, unknown, approved]
    await world.pay(checkout())
    for _ in range(5):
        await world.recover()
    assert (await world.read(payment_id_of(CALLER.shop_id, CALLER.mode, "c1"))).status == "SUCCESS"
