"""Books that were restored from a backup: nobody is charged twice, and what was forgotten comes back (hazard G16)."""

import asyncio
import os
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import msgspec
import pytest
from tests.integration.conftest import new_database
from tests.integration.outside import CALLER, SETTINGS, START, ScriptedProvider, World, checkout
from tests.integration.running import checkout as body_of
from tests.integration.running import run_gateway, simulator_url
from tests.simulation.life import Life
from tests.simulation.psp import Psp, PspLine, Weather

from coatcheck.clock import ManualClock
from coatcheck.ids import PAYMENT, order_id_of, print_id
from coatcheck.providers.protocol import NotListedError
from coatcheck.reconciliation.recovery import RecoveryError, RecoveryReport
from coatcheck.refunds import RefundVerdict
from coatcheck.simulator.bank import Bank
from coatcheck.simulator.chaos import Dial
from coatcheck.simulator.records import ChargeBody
from coatcheck.states import Capture, OnFailure
from coatcheck.store import Store
from coatcheck.store.database import _open
from coatcheck.store.embedded import EmbeddedServer

__all__ = ["simulator_url"]

TWO_DAYS = timedelta(days=2)  # far beyond the PSP's window: what is sent again then is charged again


class Town:
    """A PSP, its shops' requests in the order they came, and the gateway on whatever database there is now."""

    def __init__(self, **dial: float) -> None:
        self.clock = ManualClock(START)
        weather = Weather(dial=Dial(**dial), refused=0, hang=0, lapse=0, returned=0)  # type: ignore[arg-type]
        self.psp = Psp(lambda: self.clock.now().timestamp(), 1, weather, remembers_errors=True)
        self.asked: list[tuple[Any, ...]] = []

    def world(self, store: Store) -> World:
        """A gateway that knows what the database knows."""
        line = PspLine(self.psp, Life(random.Random(len(self.asked)), None))
        return World(store, line, clock=self.clock, settings=SETTINGS)  # type: ignore[arg-type]

    async def ask(self, world: World, *request: Any) -> None:
        """Ask for something once, and remember it for the retry."""
        self.asked.append(request)
        await self._do(world, request)

    async def ask_all_again(self, world: World) -> None:
        """Let every client retry everything it ever asked for, each under its own key."""
        for request in self.asked:
            await self._do(world, request)
        for _ in range(8):
            await world.recover()

    async def _do(self, world: World, request: tuple[Any, ...]) -> None:
        match request:
            case ("pay", body, key):
                await world.pay(body, key)
            case ("capture", name, amount, key):
                await world.capture(await self._payment_of(world, name), key=key, **{name: amount})
            case ("cancel", name, key):
                await world.cancel(await self._payment_of(world, name), key)
            case ("refund", name, amount, key):
                await world.refund(name, amount, key)
            case _:
                raise AssertionError(request)

    async def _payment_of(self, world: World, name: str) -> Any:
        payment_id = await world.store.pool.fetchval(
            "SELECT payment_id FROM payment_order WHERE order_id = $1",
            order_id_of(CALLER.shop_id, CALLER.mode, name),
        )
        return await world.read(payment_id)

    def charged(self) -> dict[str, tuple[int, int, str]]:
        """How often, and how much, each reference was really charged or authorized."""
        found: dict[str, tuple[int, int, str]] = {}
        for status in ("succeeded", "authorized"):
            for reference, (count, amount, currency) in self.psp.bank.references(status).items():
                before = found.get(reference, (0, 0, currency))
                found[reference] = before[0] + count, before[1] + amount, currency
        return found


async def orders_of(world: World) -> dict[str, tuple[Any, ...]]:
    """How every order stands, as a shop sees it."""
    rows = await world.store.pool.fetch(
        "SELECT payment_order_id, status, captured_minor, refunded_minor, provider_reference FROM payment_order"
    )
    return {row["payment_order_id"]: tuple(row)[1:] for row in rows}


def another_program_charges(bank: Bank, reference: str) -> str:
    """Charge in the same account without a gateway; returns the charge's id."""
    merchant = bank.merchant("coatcheck", is_live=False)
    body = ChargeBody(500, "EUR", "tok_approve", reference)
    made = bank.charge(
        merchant, body, status="succeeded", decline_code=None, key=None, digest="", is_error=False, busy_s=0
    )
    return made.id


def open_dispute(bank: Bank, charge_id: str) -> str:
    """Let a cardholder dispute a charge; returns the dispute's id."""
    return bank.disputes.open(msgspec.json.encode({"charge": charge_id})).id


@asynccontextmanager
async def backup_of(server: EmbeddedServer, database_url: str) -> AsyncIterator[str]:
    """A copy of a database as it stands at this moment; nobody may be connected to it."""
    name, maintenance = f"backup_{uuid4().hex}", await asyncpg.connect(server.url("postgres"))
    try:
        there = await asyncpg.connect(database_url)
        source = await there.fetchval("SELECT current_database()")
        await there.close()
        await maintenance.execute(f"CREATE DATABASE {name} TEMPLATE {source}")
        yield server.url(name)
        await maintenance.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await maintenance.close()


async def before_the_backup(town: Town, world: World) -> None:
    await town.ask(world, "pay", checkout("old-1", "a1", "a2"), "k-old-1")
    await town.ask(world, "pay", checkout("old-2", "a3", capture=Capture.MANUAL), "k-old-2")
    await town.ask(world, "pay", checkout("old-3", "a4", capture=Capture.MANUAL), "k-old-3")
    await town.ask(world, "pay", checkout("old-4", "a5", token="tok_pending"), "k-old-4")
    await town.ask(world, "pay", checkout("old-5", "a6", token="tok_drop"), "k-old-5")


async def after_the_backup(town: Town, world: World) -> None:
    for place in range(12):
        await town.ask(world, "pay", checkout(f"new-{place}", f"b{place}", f"c{place}"), f"k-new-{place}")
    await town.ask(world, "pay", checkout("declined", "d1", token="tok_decline_insufficient_funds"), "k-d")
    await town.ask(world, "pay", checkout("held", "e1", capture=Capture.MANUAL), "k-e")
    await town.ask(world, "pay", checkout("part", "e2", capture=Capture.MANUAL), "k-e2")
    await town.ask(world, "pay", checkout("gone", "e3", capture=Capture.MANUAL), "k-e3")
    await town.ask(world, "pay", checkout("joint", "f1", "f2", on_failure=OnFailure.ALL_OR_NOTHING), "k-f")
    await town.ask(world, "pay", checkout("silent", "g1", token="tok_drop"), "k-g")
    await town.ask(world, "capture", "a3", 600, "cap-a3")
    await town.ask(world, "cancel", "a4", "void-a4")
    await town.ask(world, "capture", "e2", 400, "cap-e2")
    await town.ask(world, "cancel", "e3", "void-e3")
    await town.ask(world, "refund", "a1", 250, "ref-a1")
    await town.ask(world, "refund", "b1", None, "ref-b1")
    await town.ask(world, "refund", "e2", 100, "ref-e2")
    await town.ask(world, "refund", "f1", 300, "ref-f1")
    for _ in range(8):
        await world.recover()


@pytest.mark.parametrize("pause", [timedelta(minutes=10), TWO_DAYS], ids=["inside the window", "long after it"])
async def test_G16_what_was_forgotten_is_adopted_and_nobody_is_charged_twice(
    server: EmbeddedServer, template_made: list[str], pause: timedelta
) -> None:
    town = Town()
    async with new_database(server, template_made) as url:
        async with _open(url, pool_size=4) as store:
            await before_the_backup(town, town.world(store))
        snapshot_at = town.clock.now()
        async with backup_of(server, url) as backup:
            async with _open(url, pool_size=4) as store:
                lost = town.world(store)
                await after_the_backup(town, lost)
                wanted, books = await orders_of(lost), await lost.balances()
                assert await lost.violations() == {}
            town.clock.advance(pause)
            town.psp.bank.settle(charge_of(town, "a5"), "succeeded")
            charged = town.charged()
            assert max(count for count, _, _ in charged.values()) == 1
            async with _open(backup, pool_size=4) as store:
                world = town.world(store)
                report = await recovered(world, snapshot_at)
                assert (report.strange, report.asked) == ([], 2)
                assert report.adopted >= 12 * 2
                assert await world.violations() == {}
                standing = await orders_of(world)
                assert {name: standing.get(name) for name in wanted if name != "a5"} == {
                    name: row for name, row in wanted.items() if name != "a5"
                }
                assert standing["a5"][0] == "SUCCESS"
                assert without(await world.balances(), 1000) == books
                acts = town.psp.bank.action_count
                await town.ask_all_again(world)
                assert town.charged() == charged
                assert town.psp.bank.action_count == acts
                assert await orders_of(world) == standing
                assert await world.violations() == {}
                again = await recovered(world, snapshot_at)
                assert (again.adopted, again.strange) == (0, [])


async def provider_id_of(database_url: str, kind: str) -> str:
    """The PSP's own id of the only operation of a kind."""
    owner = await asyncpg.connect(database_url)
    found = await owner.fetchval("SELECT provider_reference FROM operation WHERE kind = $1", kind)
    await owner.close()
    return str(found)


def charge_of(town: Town, name: str, kind: str = "charge") -> str:
    from coatcheck.ids import OPERATION, operation_id_of, print_id  # noqa: PLC0415

    operation_id = operation_id_of(order_id_of(CALLER.shop_id, CALLER.mode, name), kind)
    (charge,) = town.psp.bank.search(
        town.psp.bank.merchant("coatcheck", is_live=False), print_id(OPERATION, operation_id)
    )
    return charge.id


def without(balances: dict[str, int], charge_minor: int) -> dict[str, int]:
    """The balances before one charge was decided that had been pending."""
    less = {"psp_receivable": charge_minor, "seller_pending": charge_minor * 9 // 10}
    less["platform_commission"] = charge_minor // 10
    return {kind: amount - less.get(kind, 0) for kind, amount in balances.items()}


async def recovered(world: World, since: datetime) -> RecoveryReport:
    return await world.gateway.recovery.run(since, "person ada")


async def test_G16_an_operation_that_was_sent_after_the_backup_is_asked_about_first(
    server: EmbeddedServer, template_made: list[str]
) -> None:
    """At the backup it had never left; then it was charged. Sent again after the window it would be charged twice."""
    town = Town()
    async with new_database(server, template_made) as url:
        async with _open(url, pool_size=4) as store:
            world = town.world(store)
            await world.accept(checkout("c1", "o1"))
            await world.store.pool.execute("SELECT release_operations($1, $2)", START, world.gateway.operations.holder)
            owner = await asyncpg.connect(url)
            await owner.execute("UPDATE operation SET first_sent_at = NULL")
            await owner.close()
        async with backup_of(server, url) as backup:
            async with _open(url, pool_size=4) as store:
                await town.world(store).recover()
            assert town.psp.bank.charge_count == 1
            town.clock.advance(TWO_DAYS)
            async with _open(backup, pool_size=4) as store:
                world = town.world(store)
                report = await recovered(world, START)
                assert (report.asked, report.adopted) == (1, 0)
                for _ in range(5):
                    await world.recover()
                assert (await orders_of(world))["o1"][0] == "SUCCESS"
                assert await world.count("event", "kind = 'operation.doubted'") == 1
                assert town.psp.bank.charge_count == 1
                assert await world.violations() == {}


async def test_G16_what_was_done_with_a_charge_that_was_undecided_at_the_backup_is_adopted_with_it(
    server: EmbeddedServer, template_made: list[str]
) -> None:
    """A capture and a refund name the PSP's charge, and the books have not heard that name when the lists are read."""
    town = Town()
    async with new_database(server, template_made) as url:
        async with _open(url, pool_size=4) as store:
            world = town.world(store)
            await world.accept(checkout("c1", "o1", capture=Capture.MANUAL), "k1")
            await world.accept(checkout("c2", "o2"), "k2")
            await world.accept(checkout("c3", "o3", "o4", on_failure=OnFailure.ALL_OR_NOTHING), "k3")
            await world.store.pool.execute("SELECT release_operations($1, $2)", START, world.gateway.operations.holder)
        async with backup_of(server, url) as backup:
            async with _open(url, pool_size=4) as store:
                lost = town.world(store)
                for _ in range(3):
                    await lost.recover()
                await town.ask(lost, "capture", "o1", 600, "cap-o1")
                await town.ask(lost, "refund", "o2", 250, "ref-o2")
                await town.ask(lost, "refund", "o3", 250, "ref-o3")
                wanted = await orders_of(lost)
            async with _open(backup, pool_size=4) as store:
                world = town.world(store)
                report = await recovered(world, START)
                # The joint checkout's captures are made anew by what is adopted; they are asked about, too.
                assert (report.strange, report.asked, report.adopted) == ([], 4 + 2, 3)
                assert await orders_of(world) == wanted
                assert await world.violations() == {}


async def test_G16_a_capture_of_which_a_part_was_refused_is_found_by_its_key(
    server: EmbeddedServer, template_made: list[str], simulator_url: str
) -> None:
    """A PSP lists what it captured, not what it refused: of two orders the restored books know of one."""
    town = Town()
    async with new_database(server, template_made) as url:
        async with _open(url, pool_size=4) as store:
            view = await town.world(store).pay(checkout("c1", "o1", "o2", capture=Capture.MANUAL), "k1")
        async with backup_of(server, url) as backup:
            async with _open(url, pool_size=4) as store:
                town.psp.bank.expire(charge_of(town, "o2", "authorize"))
                lost = town.world(store)
                assert await lost.capture(view, key="cap") == ["requested", "requested"]
                assert await lost.capture(view, key="cap") == ["exists", "exists"]
                assert await lost.capture(view, key="cap", o1=None) == ["key_reused"]
            async with _open(backup, pool_size=4) as store:
                world = town.world(store)
                assert (await recovered(world, START)).adopted == 1
                acts = town.psp.bank.action_count
                assert await world.capture(view, key="cap") == ["exists", "done"]
                assert await world.capture(view, key="cap", o2=None) == ["key_reused"]
                assert town.psp.bank.action_count == acts
                standing = await orders_of(world)
                assert (standing["o1"][:2], standing["o2"][:2]) == (("SUCCESS", 1000), ("CANCELLED", 0))
                assert await world.violations() == {}
                async with run_gateway(store, simulator_url) as api:
                    key = await api.make_key()
                    path = f"/v1/payments/{print_id(PAYMENT, view.payment_id)}/capture"
                    named = {"payment_orders": [{"payment_order_id": "o1"}, {"payment_order_id": "o2"}]}
                    for body in (named, {}):  # all, by name or not
                        again = await api.ask("POST", path, key, json=body, headers={"Idempotency-Key": "cap"})
                        statuses = [order["status"] for order in again.body["payment_orders"]]
                        assert (again.status, statuses) == (200, ["SUCCESS", "CANCELLED"])


async def test_G16_D6_a_refund_that_came_back_since_is_adopted_as_one_that_went(
    server: EmbeddedServer, template_made: list[str]
) -> None:
    """The PSP's file will tell of both, the refund and its return; books with neither would call them breaks."""
    town = Town()
    async with new_database(server, template_made) as url:
        async with _open(url, pool_size=4) as store:
            world = town.world(store)
            await world.pay(checkout("c1", "o1"), "k1")
        async with backup_of(server, url) as backup:
            async with _open(url, pool_size=4) as store:
                await town.ask(town.world(store), "refund", "o1", None, "ref-o1")
            refund_id = await provider_id_of(url, "refund")
            town.psp.bank.fail_refund(refund_id)
            async with _open(backup, pool_size=4) as store:
                world = town.world(store)
                assert (await recovered(world, START)).strange == []
                kinds = ["refund", "commission_refund", "refund_return", "commission_refund_return"]
                for kind in kinds[::2]:
                    assert await world.count("transfer", f"kind = '{kind}'") == 1
                assert await world.count("refund", "status = 'FAILED'") == 1
                assert (await orders_of(world))["o1"][:3] == ("SUCCESS", 1000, 0)
                assert await world.violations() == {}


async def test_G16_D3_disputes_opened_since_stand_before_anybody_is_let_in(
    server: EmbeddedServer, template_made: list[str]
) -> None:
    """One is of a charge of before the backup, one of a charge that is adopted; a third is another program's."""
    town = Town()
    async with new_database(server, template_made) as url:
        async with _open(url, pool_size=4) as store:
            await town.world(store).pay(checkout("c1", "o1"), "k1")
        async with backup_of(server, url) as backup:
            async with _open(url, pool_size=4) as store:
                await town.world(store).pay(checkout("c2", "o2"), "k2")
            bank = town.psp.bank
            first, second = (each.id for each in bank.page(0, 2))
            open_dispute(bank, first)
            bank.disputes.change(open_dispute(bank, second), "lose", b"{}")
            open_dispute(bank, another_program_charges(bank, "invoice-7"))
            async with _open(backup, pool_size=4) as store:
                world = town.world(store)
                report = await recovered(world, START)
                assert [each.reference for each in report.strange] == ["invoice-7"]
                assert (report.adopted, report.disputes) == (1, 2)
                there = await store.pool.fetch("SELECT provider_reference, status FROM dispute ORDER BY opened_at")
                assert sorted(row["status"] for row in there) == ["LOST", "NEEDS_RESPONSE"]
                assert (await world.refund("o1", 100)).verdict is RefundVerdict.DISPUTED
                assert (await world.balances())["platform_dispute_fees"] == 3000
                assert (await recovered(world, START)).disputes == 0
                assert await world.violations() == {}


async def test_G16_a_list_of_disputes_that_breaks_off_leaves_the_door_closed(store: Store) -> None:
    world = Town().world(store)
    await world.pay(checkout("c1", "o1"))

    async def nothing(*_: Any) -> Any:
        raise NotListedError("no list today")

    world.provider.list_disputes_since = nothing  # type: ignore[attr-defined]
    with pytest.raises(NotListedError):
        await recovered(world, START)
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError):
        await world.pay(checkout("c2", "o2"), "k2")


async def test_G16_a_list_that_breaks_off_leaves_the_door_closed(store: Store) -> None:
    town = Town()
    world = town.world(store)
    await world.pay(checkout("c1", "o1"))
    await world.accept(checkout("c0", "o0"), "k0")
    await store.pool.execute("SELECT release_operations($1, $2)", START, world.gateway.operations.holder)  # it is due

    async def nothing(*_: Any) -> Any:
        raise NotListedError("no list today")

    listed = world.provider.list_since  # type: ignore[attr-defined]
    world.provider.list_since = nothing  # type: ignore[attr-defined]
    with pytest.raises(NotListedError):
        await recovered(world, START)
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError):
        await world.pay(checkout("c2", "o2"), "k2")
    assert town.psp.bank.charge_count == 1
    assert await world.gateway.operations.claim(10) == []
    world.provider.list_since = listed  # type: ignore[attr-defined]
    await recovered(world, START)
    assert (await world.pay(checkout("c2", "o2"), "k2")).status == "SUCCESS"
    assert await world.count("event", "kind IN ('recovery.begun', 'recovery.finished')") == 3


async def test_G16_a_psp_that_gives_no_list_is_for_people(store: Store) -> None:
    world = World(store, ScriptedProvider())
    with pytest.raises(RecoveryError, match="simulator gives no list"):
        await recovered(world, START)
    assert await world.count("recovery") == 0


async def test_G16_what_another_program_has_charged_is_told_and_left_alone(store: Store) -> None:
    town = Town()
    world = town.world(store)
    await world.pay(checkout("c1", "o1"))
    for reference in ("invoice-7", "invoice-8"):
        another_program_charges(town.psp.bank, reference)
    report = await recovered(world, START)
    assert [(each.reference, each.why.value) for each in report.strange] == [
        ("invoice-7", "foreign"),
        ("invoice-8", "foreign"),
    ]
    assert (report.listed, report.adopted) == (3, 0)
    assert await world.count("payment") == 1


async def test_G16_while_the_books_are_made_whole_the_api_says_so_and_charges_nobody(
    store: Store, simulator_url: str
) -> None:
    async with run_gateway(store, simulator_url) as server:
        key = await server.make_key()
        paid = await server.pay(key, body_of("c1"), Idempotency_Key="k1")
        held = await server.pay(key, body_of("c2", capture="manual"), Idempotency_Key="k2")
        assert (paid.status, held.status) == (201, 201)
        (row,) = await store.pool.fetch(
            "SELECT * FROM begin_recovery($1, $2, $3, 'person ada')", server.clock.now(), uuid4(), server.clock.now()
        )
        payment = f"/v1/payments/{held.body['payment_id']}"
        for place, (path, body) in enumerate(
            (
                ("/v1/payments", body_of("c3")),
                (f"{payment}/capture", {}),
                (f"{payment}/cancel", {}),
                ("/v1/refunds", {"payment_order_id": "c1-0"}),
            )
        ):
            answer = await server.ask("POST", path, key, json=body, headers={"Idempotency-Key": f"closed-{place}"})
            assert (answer.status, answer.body["code"], answer.headers["retry-after"]) == (503, "recovering", "60")
            assert "nothing is charged meanwhile" in answer.body["detail"]
        assert (await server.ask("GET", payment, key)).status == 200
        assert await server.charges("c3-0") == 0
        await store.pool.fetchval(
            "SELECT finish_recovery($1, $2, 'person ada', '{}')", server.clock.now(), row["recovery_id"]
        )
        assert (await server.pay(key, body_of("c3"), Idempotency_Key="k3")).status == 201


async def test_G16_the_command_makes_the_books_whole_and_says_what_it_did(
    store: Store, database_url: str, simulator_url: str
) -> None:
    async with run_gateway(store, simulator_url) as server:
        key = await server.make_key()
        assert (await server.pay(key, body_of("c1", orders=2), Idempotency_Key="k1")).status == 201
    owner = await asyncpg.connect(database_url)
    for table in ("payment", "payment_order", "operation", "event", "transfer", "account", "buyer", "idempotency_key"):
        await owner.execute(f"DELETE FROM {table}")
    await owner.close()
    program = [sys.executable, "-c", "from coatcheck.cli import main; main()", "recover"]
    for since, status, told in (
        ("yesterday", 2, "no time"),
        ("2026-01-01T00:00:00", 2, "no zone"),
        ("2026-01-01T00:00:00Z", 0, "2 of them were missing here"),
        ("2026-01-01T00:00:00Z", 0, "0 of them were missing here"),
    ):
        running = await asyncio.create_subprocess_exec(
            *[*program, "--since", since, "--by", "ada"],
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={
                **os.environ,
                "DATABASE_URL": database_url,
                "COATCHECK_CONFIG": os.devnull,
                "COATCHECK_SIMULATOR_URL": simulator_url,
            },
        )
        printed, _ = await running.communicate()
        assert (running.returncode, told in printed.decode()) == (status, True), printed.decode()
