"""What the matrix once found in the gateway, each case on its own and without a fault."""

from datetime import timedelta

from tests.integration.outside import World, approved, checkout, pending
from tests.integration.test_lifecycle import lapsed

from coatcheck.store import Store


async def test_A9_old_news_of_a_charge_that_is_booked_changes_nothing(store: Store) -> None:
    """Two handlers hear of a late success; the second asks when the first has booked it."""
    world = World(store)
    world.provider.charges = [pending]
    view = await world.pay(checkout("c1", "o1"))
    world.provider.look_ups = [lapsed]
    await world.recover()
    assert (await world.read(view.payment_id)).status == "CANCELLED"
    (operation_id,) = [row[0] for row in await store.pool.fetch("SELECT operation_id FROM operation")]
    world.provider.look_ups = [approved, approved, approved]
    for _ in range(2):
        (held,) = await world.gateway.operations.reopen([operation_id], "charge.succeeded")
        await world.gateway.executor.run(held)
    await world.recover(timedelta(hours=1))
    assert (await world.read(view.payment_id)).status == "SUCCESS"
    assert await world.count("operation", "status = 'APPROVED'") == 1
    assert await world.count("transfer") == 2
    assert await world.violations() == {}
