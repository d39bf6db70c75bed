"""No work waits for a connection while it holds one, but for one settlement file: the fewest there are do it all."""

import asyncio
from datetime import timedelta
from pathlib import Path

from tests.integration.books import play
from tests.integration.outside import CALLER, ScriptedProvider, World, checkout
from tests.integration.payees import pay_out, seller_with
from tests.integration.running import checkout as checkout_body
from tests.integration.running import run_gateway, simulator_url

from coatcheck.reconciliation.files import Source
from coatcheck.reporting.account_statements import AccountStatements
from coatcheck.states import Capture
from coatcheck.store.database import _open
from coatcheck.wiring import make_watcher

__all__ = ["simulator_url"]

_PATIENCE_S = 60


async def test_G11_one_connection_is_enough_for_everything_however_much_comes_at_once(database_url: str) -> None:
    async with _open(database_url, pool_size=1) as store, asyncio.timeout(_PATIENCE_S):
        world = World(store, ScriptedProvider(payout_token=r"dest_\w+"))
        gateway = world.gateway
        await asyncio.gather(*[world.pay(checkout(f"x{n}", f"xo{n}", f"xp{n}"), f"xk{n}") for n in range(10)])
        held = await world.pay(checkout("y", "y1", "y2", capture=Capture.MANUAL), "yk")
        await asyncio.gather(
            *[world.refund(f"xo{n}", 100, key=f"xr{n}") for n in range(10)],
            *[world.capture(held, key=f"yc{n}") for n in range(4)],
            *[world.cancel(held, key=f"yv{n}") for n in range(4)],
        )
        await seller_with(world, 1000)
        await asyncio.gather(*[pay_out(world, 100, key=f"p{n}") for n in range(4)])
        world.clock.advance(timedelta(days=30))
        await gateway.executor.recover_once()
        await world.quiet()
        await gateway.inbox.handle_once()
        await gateway.upkeep.tend_once()
        await gateway.arrivals.finish_once()
        await gateway.maturing.mature_once()
        await AccountStatements(store, world.clock).fill(settle=timedelta())
        await make_watcher(gateway).watch_once()
        assert await world.violations() == {}


async def test_G11_a_settlement_file_needs_one_more_and_no_two_of_them_are_taken_at_once(
    database_url: str, tmp_path: Path
) -> None:
    async with _open(database_url, pool_size=2) as store, asyncio.timeout(_PATIENCE_S):
        desk = await play(store, tmp_path)  # charges, captures, refunds, a hold, a settlement file
        for number in range(6):
            await desk.world.pay(checkout(f"z{number}"), f"zk{number}")
        names = [f"{number}.csv" for number in range(6)]
        (text,) = [each for each in desk.close() if "EUR" in each][:1]
        for name in names:
            (tmp_path / name).write_text(text, "utf-8")
        sources = [
            Source(path=tmp_path / name, name=name, shop_id=CALLER.shop_id, mode=CALLER.mode, brought_by="ada")
            for name in names
        ]
        paying = asyncio.gather(*[desk.world.pay(checkout(f"w{number}"), f"wk{number}") for number in range(6)])
        reports = await asyncio.gather(*[desk.world.gateway.arrivals.take(source) for source in sources])
        await paying
        assert len({report.file_id for report in reports}) == 1
        assert await desk.world.violations() == {}


async def test_G11_a_gateway_with_the_fewest_connections_serves_many_at_once(
    database_url: str, simulator_url: str
) -> None:
    """One says that the process is there, one is free for a file, and one does all the work."""
    async with (
        asyncio.timeout(_PATIENCE_S),
        _open(database_url, pool_size=3) as store,
        run_gateway(store, simulator_url) as server,
    ):
        key = await server.make_key()
        bodies = [checkout_body(f"c{n}", orders=2) for n in range(20)]
        answers = await asyncio.gather(
            *[server.pay(key, body, Idempotency_Key=body["checkout_id"], Prefer="wait=30") for body in bodies]
        )
        assert {(answer.status, answer.body["status"]) for answer in answers} == {(201, "SUCCESS")}
