"""Cells with processes of their own: a real SIGKILL or SIGTERM at a failpoint, and another process goes on."""

import asyncio
import json
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Final

import aiohttp
import asyncpg
import pytest
from tests.integration.running import run_simulator
from tests.simulation.judge import printed
from tests.simulation.processes import GatewayProcess, checkout_body, run_command

from coatcheck.failpoints import Failpoint

PROGRAM: Final = Path(__file__).with_name("mortal_gateway.py")
# What a shop asks for, and where its gateway meets the signal on the way: from before the intent to the answer.
OF_A_PAYMENT: Final = {
    "SIGKILL to the call": (
        Failpoint.ACCEPT_BEFORE_COMMIT,
        Failpoint.ACCEPT_AFTER_COMMIT,
        Failpoint.ANSWER_BEFORE_RUN,
        Failpoint.RUN_STARTED,
        Failpoint.SEND_BEFORE_CALL,
    ),
    "SIGKILL from the call": (
        Failpoint.SEND_AFTER_CALL,
        Failpoint.SETTLE_STARTED,
        Failpoint.APPLY_BEFORE_COMMIT,
        Failpoint.APPLY_AFTER_COMMIT,
        Failpoint.ANSWER_BEFORE_REPLY,
    ),
    "SIGTERM": (
        Failpoint.ACCEPT_BEFORE_COMMIT,
        Failpoint.ACCEPT_AFTER_COMMIT,
        Failpoint.SEND_BEFORE_CALL,
        Failpoint.SEND_AFTER_CALL,
        Failpoint.APPLY_AFTER_COMMIT,
    ),
}
OF_WHAT_FOLLOWS: Final = {
    "SIGKILL": (
        Failpoint.CAPTURE_BEFORE_COMMIT,
        Failpoint.CAPTURE_AFTER_COMMIT,
        Failpoint.CANCEL_BEFORE_COMMIT,
        Failpoint.CANCEL_AFTER_COMMIT,
        Failpoint.REFUND_BEFORE_COMMIT,
        Failpoint.REFUND_AFTER_COMMIT,
    ),
    "SIGTERM": (Failpoint.CAPTURE_BEFORE_COMMIT, Failpoint.CANCEL_AFTER_COMMIT, Failpoint.REFUND_AFTER_COMMIT),
}
ENDINGS: Final = {"capture": (200, "SUCCESS"), "cancel": (200, "CANCELLED"), "refund": (201, "SUCCEEDED")}
GRACE_S: Final = 5


class MortalGateway(GatewayProcess):
    """A gateway that sends itself a signal at a failpoint."""

    def __init__(self, number: signal.Signals, failpoint: Failpoint, settings: dict[str, str], directory: Path) -> None:
        super().__init__(failpoint.value, settings, directory)
        port = self.url.rpartition(":")[2]
        self._arguments = [sys.executable, str(PROGRAM), number.name, failpoint.value, port]


@dataclass(frozen=True, slots=True)
class Town:
    """A simulator, a database, a healthy gateway and mortal ones, and a shop that asks them."""

    simulator_url: str
    healthy: GatewayProcess
    mortals: Sequence[MortalGateway]
    session: aiohttp.ClientSession
    settings: dict[str, str]
    owner: asyncpg.Connection

    async def post(self, gateway: GatewayProcess, path: str, body: Any, key: str) -> tuple[int, Any]:
        """Ask for something; no answer is status 0."""
        headers = {"Idempotency-Key": key, "Prefer": "wait=20"}
        try:
            async with self.session.post(gateway.url + path, json=body, headers=headers) as response:
                text = await response.read()
                return response.status, json.loads(text) if response.content_type.endswith("json") else None
        except (aiohttp.ClientError, OSError):
            return 0, None

    async def pay(self, gateway: GatewayProcess, name: str, token: str = "tok_approve", **more: Any) -> tuple[int, Any]:
        """Ask for one payment of EUR 12.34."""
        order = {"payment_order_id": name, "seller_account": "seller-1", "amount": "12.34", "currency": "EUR"}
        return await self.post(gateway, "/v1/payments", {**checkout_body(name, [order], token), **more}, name)

    async def end(self, number: signal.Signals, answers: Sequence[tuple[int, Any]], finished: Sequence[int]) -> None:
        """Wait for the end of the mortals, and look at what their shops have heard until then.

        SIGKILL: nothing. SIGTERM: what was in flight is finished and answered, in the time that there is for it.
        """
        heard = [status for status, _ in answers]
        if number is signal.SIGKILL:
            assert heard == [0] * len(answers)
            assert [await mortal.ended() for mortal in self.mortals] == [-signal.SIGKILL] * len(self.mortals)
            return
        assert heard == finished
        started = monotonic()
        assert [await mortal.ended(GRACE_S + 10) for mortal in self.mortals] == [0] * len(self.mortals)
        assert monotonic() - started < GRACE_S + 5

    async def at_the_psp(self, address: str) -> Any:
        """Ask the simulator for its own books."""
        async with self.session.get(f"{self.simulator_url}/admin/{address}") as response:
            return await response.json()

    async def assert_books_hold(self) -> None:
        """Nothing is left over, and all that is booked is there once."""
        assert await self.owner.fetchval("SELECT count(*) FROM lease") == 0
        told = await self.at_the_psp("books")
        assert (told["charged_twice"], told["done_twice"]) == ([], [])
        assert "invariants hold" in await run_command(["audit"], self.settings)


def settings_of(simulator_url: str, database_url: str, directory: Path) -> dict[str, str]:
    chosen = {
        "SIMULATOR_URL": simulator_url,
        "DATA_DIR": str(directory),
        "DIGEST_SECRET": "a-secret-of-the-failpoints-and-of-nobody-else",
        "LEASE_S": "3",
        "CALL_DEADLINE_S": "1",
        "CONNECT_DEADLINE_S": "1",
        "RECOVERY_INTERVAL_MS": "100",
        "SHUTDOWN_GRACE_S": str(GRACE_S),
        "LOG_LEVEL": "info",
        "LOG_FORMAT": "json",
    }
    return {f"COATCHECK_{name}": value for name, value in chosen.items()} | {"DATABASE_URL": database_url}


@dataclass(frozen=True, slots=True)
class Ground:
    """Where a town is built."""

    database_url: str
    owner: asyncpg.Connection
    directory: Path


@pytest.fixture
def ground(database_url: str, owner: asyncpg.Connection) -> Iterator[Ground]:
    with tempfile.TemporaryDirectory(prefix="coatcheck-failpoints-", ignore_cleanup_errors=True) as made:
        yield Ground(database_url, owner, Path(made))


@asynccontextmanager
async def a_town(
    number: signal.Signals, cells: Sequence[Failpoint], ground: Ground, simulator: Sequence[str] = (), **more: str
) -> AsyncIterator[Town]:
    directory = ground.directory
    with run_simulator(*simulator) as simulator_url, ExitStack() as ending:
        settings = settings_of(simulator_url, ground.database_url, directory)
        settings |= {f"COATCHECK_{name}": value for name, value in more.items()}
        key = (await run_command(["keys", "create", "--shop", "hats"], settings)).strip()
        mortals = [MortalGateway(number, cell, settings, directory) for cell in cells]
        healthy = GatewayProcess("healthy", settings, directory)
        for each in (*mortals, healthy):
            ending.callback(each.end)
        await asyncio.gather(*[mortal.serve() for mortal in mortals])
        timeout = aiohttp.ClientTimeout(total=30)
        async with aiohttp.ClientSession(timeout=timeout, headers={"Authorization": f"Bearer {key}"}) as session:
            yield Town(simulator_url, healthy, mortals, session, settings, ground.owner)


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_A_PAYMENT)
async def test_A2_B5_F12_a_process_ended_at_a_failpoint_loses_nothing_and_charges_nobody_twice(
    ground: Ground, name: str
) -> None:
    cells, number = OF_A_PAYMENT[name], signal.Signals[name.partition(" ")[0]]
    async with a_town(number, cells, ground) as town:
        first = await asyncio.gather(*[town.pay(mortal, mortal.name) for mortal in town.mortals])
        await town.end(number, first, [201] * len(cells))
        await town.healthy.serve()
        again = await asyncio.gather(*[town.pay(town.healthy, mortal.name) for mortal in town.mortals])
        assert [(status, body["status"]) for status, body in again] == [(201, "SUCCESS")] * len(cells)
        assert number is signal.SIGKILL or again == first
        charged = await town.at_the_psp("references?status=succeeded")
        rows = await ground.owner.fetch("SELECT operation_id, status FROM operation")
        assert {row["status"] for row in rows} == {"APPROVED"}
        assert charged == {printed(row["operation_id"]): [1, 1234, "EUR"] for row in rows}
        await town.assert_books_hold()


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_WHAT_FOLLOWS)
async def test_D2_D4_F12_a_process_ended_at_a_capture_a_void_or_a_refund_does_it_once(
    ground: Ground, name: str
) -> None:
    cells, number = OF_WHAT_FOLLOWS[name], signal.Signals[name]
    async with a_town(number, cells, ground) as town:
        await town.healthy.serve()
        asked = {}
        for mortal in town.mortals:
            act = mortal.name.partition(".")[0]
            capture = "automatic" if act == "refund" else "manual"
            status, made = await town.pay(town.healthy, mortal.name, capture=capture)
            assert status == 201
            path = "/v1/refunds" if act == "refund" else f"/v1/payments/{made['payment_id']}/{act}"
            asked[mortal] = (
                path,
                {"payment_order_id": mortal.name} if act == "refund" else {},
                f"key-of-{mortal.name}",
            )
        wanted = [ENDINGS[mortal.name.partition(".")[0]] for mortal in asked]
        first = await asyncio.gather(*[town.post(mortal, *what) for mortal, what in asked.items()])
        await town.end(number, first, [status for status, _ in wanted])
        again = await asyncio.gather(*[town.post(town.healthy, *what) for what in asked.values()])
        assert [(status, body["status"]) for status, body in again] == wanted
        told, acts = await town.at_the_psp("books"), [mortal.name.partition(".")[0] for mortal in asked]
        kept = 1234 * (len(acts) - acts.count("cancel"))
        assert (told["captured"], told["refunded"]) == ({"EUR": kept}, {"EUR": 1234 * acts.count("refund")})
        await town.assert_books_hold()


@pytest.mark.slow
async def test_F12_a_process_that_may_not_wait_for_the_psp_leaves_the_rest_to_another_and_ends_in_time(
    ground: Ground,
) -> None:
    """SIGTERM with a grace of a second, while the PSP takes eight: it charges when nobody listens any more."""
    patient = {"SHUTDOWN_GRACE_S": "1", "CALL_DEADLINE_S": "12", "LEASE_S": "25"}
    cells = (Failpoint.SEND_BEFORE_CALL,)
    slow = ("--slow-s", "8")
    async with a_town(signal.SIGTERM, cells, ground, slow, **patient) as town:
        (mortal,) = town.mortals
        asking = asyncio.create_task(town.pay(mortal, "c1", "tok_slow"))
        assert await mortal.ended() == 0
        assert (await asking)[0] != 201
        (left,) = await ground.owner.fetch(
            "SELECT status, cause, first_sent_at FROM operation JOIN lease USING (operation_id)"
        )
        assert (left["status"], left["cause"]) == ("OPEN", "the connection was closed without an answer")
        assert left["first_sent_at"] is not None  # the PSP may have heard it
        await town.healthy.serve()
        status, body = await town.pay(town.healthy, "c1", "tok_slow")
        assert (status, body["status"]) == (201, "SUCCESS")
        operation_id = await ground.owner.fetchval("SELECT operation_id FROM operation")
        assert await town.at_the_psp("references?status=succeeded") == {printed(operation_id): [1, 1234, "EUR"]}
        await town.assert_books_hold()
