"""What a killed gateway left undone is taken up by the others; what a living one holds is not."""

import asyncio
from dataclasses import replace

import asyncpg
from tests.integration.outside import SETTINGS, ScriptedProvider, World, approved, checkout

from coatcheck.presence import _LOOKS, Presence
from coatcheck.store import Store
from coatcheck.wiring import make_presence

SHOWN = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' AND granted"


async def look(presence: Presence, store: Store, times: int = _LOOKS) -> int:
    """Look so many times; returns how many leases were ended by it."""
    async with store.pool.acquire() as connection:
        return sum([await presence.look(connection) for _ in range(times)])


async def until_shown(store: Store, processes: int) -> None:
    while await store.pool.fetchval(SHOWN) != processes:  # noqa: ASYNC110 - PostgreSQL tells nobody
        await asyncio.sleep(0.005)


async def test_F1_what_a_gone_process_held_is_taken_over_before_its_lease_ends(store: Store) -> None:
    gone, living = World(store), World(store)
    zombie = (await gone.accept(checkout())).operations[0]
    presence = make_presence(living.gateway)
    assert await look(presence, store, _LOOKS - 1) == 0
    assert await living.gateway.operations.claim(10) == []
    assert await look(presence, store, 1) == 1
    (taken,) = await living.gateway.operations.claim(10)
    assert taken.attempt == 2
    await living.gateway.executor.run(taken)
    assert await gone.gateway.payments.apply(zombie, approved(zombie.intent)) is False
    assert await living.violations() == {}
    assert await living.count("transfer") == 2


async def test_F1_who_is_there_keeps_the_leases(store: Store) -> None:
    slow, living = World(store), World(store)
    held = (await slow.accept(checkout())).operations[0]
    presence = make_presence(living.gateway)
    assert await look(presence, store, _LOOKS - 1) == 0  # not there yet, or without a connection for a moment
    async with make_presence(slow.gateway).shown():
        await until_shown(store, 1)
        assert await look(presence, store, 2 * _LOOKS) == 0
    await until_shown(store, 0)
    assert await look(presence, store, _LOOKS - 1) == 0  # counted from the beginning
    assert await slow.gateway.payments.apply(held, approved(held.intent)) is True


async def test_F1_a_process_does_not_take_itself_for_gone(store: Store) -> None:
    world = World(store)
    await world.accept(checkout())
    async with store.pool.acquire() as connection:
        await connection.execute("SELECT pg_advisory_lock(presence_key($1))", world.gateway.operations.holder)
        presence = make_presence(world.gateway)
        assert [await presence.look(connection) for _ in range(2 * _LOOKS)] == [0] * 2 * _LOOKS
        await connection.execute("SELECT pg_advisory_unlock_all()")


async def test_F2_who_comes_back_between_the_looks_and_the_end_keeps_the_leases(store: Store) -> None:
    slow, living = World(store), World(store)
    await slow.accept(checkout())
    at, holder = living.clock.now(), slow.gateway.operations.holder
    async with make_presence(slow.gateway).shown():
        await until_shown(store, 1)
        assert await store.pool.fetchval("SELECT end_leases_of($1, $2, $3)", at, [holder], ["simulator"]) == 0
    await until_shown(store, 0)
    assert await store.pool.fetchval("SELECT end_leases_of($1, $2, $3)", at, [holder], ["simulator"]) == 1


async def test_A5_where_the_psp_may_forget_a_charge_the_lease_decides(store: Store) -> None:
    gone = World(store, ScriptedProvider(look_up_before_resend=True))
    living = World(store, ScriptedProvider(look_up_before_resend=True))
    await gone.accept(checkout())
    assert await look(make_presence(living.gateway), store, 2 * _LOOKS) == 0


async def test_a_lost_connection_is_replaced_and_the_process_is_there_again(
    store: Store, owner: asyncpg.Connection
) -> None:
    async with make_presence(World(store).gateway).shown():
        await until_shown(store, 1)
        await owner.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted")
        await until_shown(store, 0)
        await until_shown(store, 1)


async def test_F7_a_provider_that_hangs_has_a_few_operations_under_way_and_keeps_no_others_waiting(
    store: Store, owner: asyncpg.Connection
) -> None:
    world = World(store, settings=replace(SETTINGS, recovery_in_flight=3))
    executor, hanging = world.gateway.executor, world.provider
    for number in range(8):
        await world.accept(checkout(f"c{number}"), f"k{number}")
    await world.gateway.operations.release()
    hanging.line_is_free.clear()
    assert [await executor.recover_once() for _ in range(3)] == [3, 0, 0]

    (young,) = (await world.accept(checkout("c9"), "k9")).operations
    executor._providers = {**executor._providers, "other": ScriptedProvider()}
    for table in ("operation", "payment_order"):
        await owner.execute(f"UPDATE {table} SET provider = 'other' WHERE order_id = $1", young.order_id)
    await owner.execute(
        "UPDATE lease SET provider = 'other', due_at = $2 WHERE operation_id = $1",
        young.intent.operation_id,
        world.clock.now(),
    )
    assert await executor.recover_once() == 1

    hanging.line_is_free.set()
    await world.quiet()
    assert await executor.recover_once() == 3
    await world.quiet()
    assert await executor.recover_once() == 2
    await world.quiet()
    assert await world.count("lease", "provider = 'simulator'") == 0
