"""A handful of cells with processes of their own: real SIGKILL at a failpoint, and another process goes on."""

import asyncio
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import aiohttp
import asyncpg
import pytest
from tests.integration.running import run_simulator
from tests.simulation.judge import printed
from tests.simulation.processes import GatewayProcess, checkout_body, run_command

from coatcheck.failpoints import Failpoint

PROGRAM: Final = Path(__file__).with_name("mortal_gateway.py")
CELLS: Final = (
    Failpoint.ACCEPT_AFTER_COMMIT,
    Failpoint.SEND_BEFORE_CALL,
    Failpoint.SEND_AFTER_CALL,
    Failpoint.APPLY_AFTER_COMMIT,
    Failpoint.ANSWER_BEFORE_REPLY,
)


class MortalGateway(GatewayProcess):
    """A gateway that kills itself at a failpoint."""

    def __init__(self, failpoint: Failpoint, settings: dict[str, str], directory: Path) -> None:
        super().__init__(failpoint.value, settings, directory)
        self._arguments = [sys.executable, str(PROGRAM), failpoint.value, self.url.rpartition(":")[2]]


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="coatcheck-failpoints-", ignore_cleanup_errors=True) as made:
        yield Path(made)


def settings_of(simulator_url: str, database_url: str, directory: Path) -> dict[str, str]:
    chosen = {
        "SIMULATOR_URL": simulator_url,
        "DATA_DIR": str(directory),
        "DIGEST_SECRET": "a-secret-of-the-failpoints-and-of-nobody-else",
        "LEASE_S": "3",
        "CALL_DEADLINE_S": "1",
        "CONNECT_DEADLINE_S": "1",
        "RECOVERY_INTERVAL_MS": "100",
        "LOG_LEVEL": "info",
        "LOG_FORMAT": "json",
    }
    return {f"COATCHECK_{name}": value for name, value in chosen.items()} | {"DATABASE_URL": database_url}


async def post(session: aiohttp.ClientSession, url: str, name: str) -> tuple[int, Any]:
    """Ask for one payment; no answer is status 0."""
    order = {"payment_order_id": name, "seller_account": "seller-1", "amount": "12.34", "currency": "EUR"}
    headers = {"Idempotency-Key": name, "Prefer": "wait=20"}
    try:
        body = checkout_body(name, [order], "tok_approve")
        async with session.post(f"{url}/v1/payments", json=body, headers=headers) as response:
            return response.status, await response.json(content_type=None)
    except (aiohttp.ClientError, OSError):
        return 0, None


@pytest.mark.slow
async def test_A2_F12_a_process_killed_at_a_failpoint_loses_nothing_and_charges_nobody_twice(
    database_url: str, owner: asyncpg.Connection, directory: Path
) -> None:
    with run_simulator() as simulator_url, ExitStack() as ending:
        settings = settings_of(simulator_url, database_url, directory)
        key = (await run_command(["keys", "create", "--shop", "hats"], settings)).strip()
        mortals = {cell.value: MortalGateway(cell, settings, directory) for cell in CELLS}
        healthy = GatewayProcess("healthy", settings, directory)
        for each in (*mortals.values(), healthy):
            ending.callback(each.end)
        await asyncio.gather(*[mortal.serve() for mortal in mortals.values()])
        timeout = aiohttp.ClientTimeout(total=30)
        async with aiohttp.ClientSession(timeout=timeout, headers={"Authorization": f"Bearer {key}"}) as session:
            first = await asyncio.gather(*[post(session, mortal.url, name) for name, mortal in mortals.items()])
            assert [status for status, _ in first] == [0] * len(CELLS)
            for mortal in mortals.values():
                assert await mortal.ended() == -signal.SIGKILL
            await healthy.serve()
            again = await asyncio.gather(*[post(session, healthy.url, name) for name in mortals])
            assert [(status, body["status"]) for status, body in again] == [(201, "SUCCESS")] * len(CELLS)
            async with session.get(f"{simulator_url}/admin/references?status=succeeded") as response:
                charged = await response.json()
        rows = await owner.fetch("SELECT operation_id, status FROM operation")
        assert {row["status"] for row in rows} == {"APPROVED"}
        assert charged == {printed(row["operation_id"]): [1, 1234, "EUR"] for row in rows}
        assert "invariants hold" in await run_command(["audit"], settings)
