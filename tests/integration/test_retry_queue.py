"""What goes on by itself, as whoever runs the gateway and its shops see it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import aiohttp
import asyncpg
import pytest
from tests.integration.outside import (
    CALLER,
    SETTINGS,
    START,
    ScriptedProvider,
    World,
    approved,
    checkout,
    declined,
    pending,
    unknown,
)
from tests.integration.payees import pay_out, seller_with
from tests.integration.running import Answer, RunningGateway, listening

from coatcheck import cli
from coatcheck.api.dead_letters import dead_letters_of
from coatcheck.api.retry_queue import retry_queue_of
from coatcheck.dead_letters import person_named
from coatcheck.executor import Step
from coatcheck.ids import (
    OPERATION,
    PAYMENT,
    PAYOUT,
    REFUND,
    operation_id_of,
    order_id_of,
    print_id,
)
from coatcheck.operations import UndecidedQuery
from coatcheck.retry_queue import Retry
from coatcheck.shops import create_key
from coatcheck.states import Mode, OperationKind, OperationStatus
from coatcheck.store import Store

ALL = UndecidedQuery()
IMPATIENT = replace(SETTINGS, retry_budget_attempts=1)


def charge_of(name: str) -> str:
    return print_id(OPERATION, operation_id_of(order_id_of(CALLER.shop_id, CALLER.mode, name), OperationKind.CHARGE))


async def queued(world: World, **fields: Any) -> list[Retry]:
    return await retry_queue_of(world.gateway).find(ALL, **fields)


async def names(world: World, **fields: Any) -> list[str | None]:
    return [each.payment_order_id for each in await retry_queue_of(world.gateway).find(UndecidedQuery(**fields))]


async def silent(store: Store, *orders: str, **more: Any) -> World:
    """Payments of one order each, a second apart, whose charges were sent and got no answer."""
    world = World(store, **more)
    world.provider.charges = [unknown] * len(orders)
    for order in orders:
        await world.pay(checkout(f"c-{order}", order), f"k-{order}")
        world.clock.advance(timedelta(seconds=1))
    return world


async def test_F5_what_is_retried_says_how_often_of_how_often_when_next_and_what_then(store: Store) -> None:
    world = await silent(store, "o1")
    (one,) = await queued(world)
    assert (one.operation.intent.reference, one.payment_order_id, one.created_at) == (charge_of("o1"), "o1", START)
    assert (one.operation.status, one.operation.cause) == (OperationStatus.OPEN, "read timeout")
    assert (one.operation.tries, one.retry_budget) == (1, 12)
    outlook = one.outlook
    assert outlook.at == await store.pool.fetchval("SELECT due_at FROM lease")
    assert (outlook.step, outlook.is_running, outlook.age) == (Step.SEND, False, timedelta(seconds=1))
    assert outlook.safe_until == START + timedelta(hours=23, minutes=55)
    assert "After 11 tries that decide nothing it waits for a person." in outlook.text
    evidence = await retry_queue_of(world.gateway).evidence(one)
    assert [each.kind for each in evidence] == ["operation.rescheduled"]


async def test_the_queue_and_the_dead_letters_are_all_that_is_undecided_and_share_nothing(store: Store) -> None:
    world = World(store, settings=IMPATIENT)
    world.provider.charges = [unknown, pending, declined, approved]
    for number in range(4):
        await world.pay(checkout(f"c{number}", f"o{number}"), f"k{number}")
    letters = dead_letters_of(world.gateway)
    (dead,) = await letters.find(UndecidedQuery())
    assert (dead.payment_order_id, dead.operation.tries, dead.retry_budget) == ("o0", 1, 1)
    assert await names(world) == ["o1"]
    assert await world.count("lease") == 2
    await letters.retry([dead], person_named("Ada"))  # asked again: still a dead letter until it is decided
    assert await names(world) == ["o1"]
    assert len(await letters.find(UndecidedQuery())) == 1


async def test_what_the_provider_decides_later_costs_no_try_and_is_never_sent_again(store: Store) -> None:
    world = World(store)
    world.provider.charges = [pending]
    world.provider.look_ups = [pending] * 20
    await world.pay(checkout("c1", "o1"))
    for _ in range(20):
        await world.recover()
    (one,) = await queued(world)
    assert (one.operation.status, one.operation.tries, one.outlook.step) == (OperationStatus.PENDING, 0, Step.LOOK_UP)
    assert "never sent again" in one.outlook.text
    assert "waits for a person" not in one.outlook.text


async def test_a_first_attempt_is_no_retry_until_its_lease_has_run_out(store: Store) -> None:
    world = World(store)
    world.provider.line_is_free.clear()
    accepted = await world.accept(checkout("c1", "o1"))
    running = world.gateway.executor.start(accepted.operations)
    await asyncio.sleep(0)
    assert await queued(world) == []
    world.clock.advance(timedelta(seconds=SETTINGS.lease_s))
    (one,) = await queued(world)
    assert (one.operation.attempt, one.operation.tries, one.outlook.is_running) == (1, 0, False)
    assert "by the next gateway that looks" in one.outlook.text
    (held,) = await world.gateway.operations.claim(1)  # ... and another one takes it over
    (one,) = await queued(world)
    assert (held.attempt, one.outlook.is_running) == (2, True)
    world.provider.line_is_free.set()
    await running


async def test_a_refund_and_a_payout_say_what_they_belong_to(store: Store) -> None:
    world = World(store, ScriptedProvider(payout_token="dest_[a-z]+"))
    await seller_with(world, 1000)
    await world.pay(checkout("c1", "o1"))
    world.provider.acts = {OperationKind.REFUND: [unknown], OperationKind.PAYOUT: [unknown]}
    refund = await world.refund("o1")
    world.clock.advance(timedelta(seconds=1))
    made = await pay_out(world, 400)
    first, second = await queued(world)
    assert (first.operation.refund_id, first.payment_order_id) == (refund.refund_id, "o1")
    assert (second.operation.order_id, second.payment_order_id) == (made.payout_id, None)


async def test_the_queue_is_oldest_first_page_by_page_and_narrowed(store: Store) -> None:
    world = await silent(store, "o1", "o2", "o3")
    found = await queued(world, limit=2)
    assert [each.payment_order_id for each in found] == ["o1", "o2"]
    last = found[-1]
    rest = await queued(world, after=(last.created_at, last.operation.intent.operation_id))
    assert [each.payment_order_id for each in rest] == ["o3"]
    assert await names(world, provider="stripe") == []
    assert await names(world, provider="simulator", cause="READ TIME") == ["o1", "o2", "o3"]
    assert await names(world, cause="%") == []
    assert await names(world, made_until=START + timedelta(seconds=1)) == ["o1", "o2"]
    assert await names(world, shop_id=CALLER.shop_id, mode=Mode.LIVE) == []


async def test_while_the_books_are_made_whole_the_queue_says_that_nothing_goes_on(store: Store) -> None:
    world = await silent(store, "o1")
    await store.pool.execute("SELECT begin_recovery($1, $2, $1, 'person ada')", world.clock.now(), uuid4())
    (one,) = await queued(world)
    assert one.outlook.text.startswith("The books are being made whole")


@pytest.mark.parametrize("believed", [0, 10_000_000])
async def test_a_page_reads_what_is_undecided_however_much_is_decided(
    store: Store, owner: asyncpg.Connection, believed: int
) -> None:
    """Whatever the planner believes of the number of leases, it looks each operation up by its key."""
    world = await silent(store, "o1", "o2")
    await owner.execute(
        "INSERT INTO operation (operation_id, order_id, payment_id, shop_id, mode, kind, provider, amount_minor, "
        "currency, body, status, attempt, created_at) "
        "SELECT gen_random_uuid(), gen_random_uuid(), payment_id, shop_id, mode, kind, provider, amount_minor, "
        "currency, '', 'APPROVED', 1, created_at "
        "FROM operation, generate_series(1, 10000) WHERE status = 'OPEN'"
    )
    await owner.execute("ANALYZE operation")
    await owner.execute("ANALYZE lease")
    if believed:
        await owner.execute("UPDATE pg_class SET reltuples = $1, relpages = 1 WHERE relname = 'lease'", float(believed))
    plan = await owner.fetchval(
        "EXPLAIN (ANALYZE, FORMAT JSON) " + store.queries["retry_queue_list"],
        *(CALLER.shop_id, "test", START - timedelta(days=1), uuid4(), 20, None, None, START + timedelta(days=1), None),
        world.clock.now(),
    )
    scans = list(_scans_of(json.loads(plan)[0]["Plan"]))
    assert {scan["Node Type"] for scan in scans if scan["Relation Name"] == "operation"} == {"Index Scan"}
    assert {scan["Node Type"] for scan in scans if scan["Relation Name"] == "payment_order"} == {"Index Scan"}
    assert sum(scan["Actual Rows"] * scan["Actual Loops"] for scan in scans) == 6


def _scans_of(node: dict[str, Any]) -> Any:
    if "Relation Name" in node:
        yield node
    for part in node.get("Plans", []):
        yield from _scans_of(part)


@dataclass(frozen=True, slots=True)
class Desk:
    """A gateway that listens, and a key of its shop."""

    world: World
    server: RunningGateway
    key: str

    async def get(self, path: str, key: str | None = None) -> Answer:
        return await self.server.ask("GET", f"/v1/retry_queue{path}", key or self.key)


@asynccontextmanager
async def opened(store: Store, *orders: str, **more: Any) -> AsyncIterator[Desk]:
    world = await silent(store, *orders, **more)
    async with listening(world.gateway) as url, aiohttp.ClientSession() as session:
        server = RunningGateway(url, world.gateway, session, world.clock, "")
        yield Desk(world, server, await server.make_key())


async def test_the_api_shows_an_operation_with_what_happens_next_and_the_evidence(store: Store) -> None:
    async with opened(store, "o1") as desk:
        answer = await desk.get(f"/{charge_of('o1')}")
        body = answer.body
        assert (answer.status, body["operation_id"], body["operation"], body["status"]) == (
            *(200, charge_of("o1"), "charge", "OPEN"),
        )
        payment_id = await store.pool.fetchval("SELECT payment_id FROM payment")
        assert (body["payment_id"], body["payment_order_id"]) == (print_id(PAYMENT, payment_id), "o1")
        assert (body["refund_id"], body["payout_id"]) == (None, None)
        assert (body["amount"], body["currency"], body["provider"]) == ("10.00", "EUR", "simulator")
        assert (body["cause"], body["attempts"], body["tries"], body["retry_budget"]) == ("read timeout", 1, 1, 12)
        coming = body["next"]
        assert (coming["would"], coming["is_running"], coming["age_s"], coming["window_s"]) == (
            "send",
            False,
            1,
            86_400,
        )
        assert (coming["safe_until"], coming["safe_for_s"]) == ("2026-03-02T11:55:00Z", 86_099)
        assert coming["text"].startswith("It is sent again under the same key ")
        assert [each["kind"] for each in body["evidence"]] == ["operation.rescheduled"]
        listed = (await desk.get("")).body["operations"]
        assert listed == [{name: value for name, value in body.items() if name != "evidence"}]


async def test_the_api_tells_attempts_from_tries(store: Store) -> None:
    async with opened(store) as desk:
        desk.world.provider.charges = [pending]
        desk.world.provider.look_ups = [pending, pending]
        await desk.world.pay(checkout("c1", "o1"))
        await desk.world.recover()
        await desk.world.recover()
        (shown,) = (await desk.get("")).body["operations"]
        assert (shown["status"], shown["attempts"], shown["tries"], shown["retry_budget"]) == ("PENDING", 3, 0, 12)


async def test_the_api_names_the_refund_and_the_payout(store: Store) -> None:
    async with opened(store, provider=ScriptedProvider(payout_token="dest_[a-z]+")) as desk:
        world = desk.world
        await world.pay(checkout("c1", "o1"))
        world.provider.acts = {OperationKind.REFUND: [unknown]}
        refund = await world.refund("o1")
        (shown,) = (await desk.get("")).body["operations"]
        assert (shown["operation"], shown["refund_id"]) == ("refund", print_id(REFUND, refund.refund_id))
        await world.recover()
        await seller_with(world, 1000)
        world.provider.acts = {OperationKind.PAYOUT: [unknown]}
        made = await pay_out(world, 400)
        (shown,) = (await desk.get("")).body["operations"]
        assert (shown["operation"], shown["payout_id"]) == ("payout", print_id(PAYOUT, made.payout_id))
        assert (shown["payment_id"], shown["payment_order_id"]) == (None, None)


async def test_the_api_s_list_goes_on_with_its_cursor_and_has_filters(store: Store) -> None:
    async with opened(store, "o1", "o2", "o3") as desk:
        first = (await desk.get("?limit=2")).body
        assert [each["payment_order_id"] for each in first["operations"]] == ["o1", "o2"]
        rest = (await desk.get(f"?limit=2&cursor={first['next_cursor']}")).body
        assert ([each["payment_order_id"] for each in rest["operations"]], rest["next_cursor"]) == (["o3"], None)
        foreign = await desk.server.ask("GET", f"/v1/dead_letters?limit=2&cursor={first['next_cursor']}", desk.key)
        assert (foreign.status, foreign.body["code"]) == (400, "invalid_cursor")
        old = (await desk.get("?older_than_s=3")).body["operations"]
        assert [each["payment_order_id"] for each in old] == ["o1"]
        assert (await desk.get("?cause=refused")).body["operations"] == []
        assert (await desk.get("?status=OPEN")).status == 422


async def test_B7_another_shop_or_mode_sees_nothing_of_the_queue(store: Store) -> None:
    async with opened(store, "o1") as desk:
        shoes, _ = await create_key(store, desk.world.clock, "shoes", Mode.TEST)
        live, _ = await create_key(store, desk.world.clock, "hats", Mode.LIVE)
        for key in (shoes, live):
            assert (await desk.get("", key)).body == {"operations": [], "next_cursor": None}
            assert (await desk.get(f"/{charge_of('o1')}", key)).status == 404
        assert (await desk.server.ask("GET", "/v1/retry_queue")).status == 401
        assert (await desk.get("/op_x")).status == 404


async def test_the_command_line_lists_and_shows_what_goes_on_by_itself(
    store: Store, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("COATCHECK_DIGEST_SECRET", "x" * 40)

    async def command(*words: str) -> tuple[int, str]:
        status = await asyncio.to_thread(cli.run, ["retry-queue", *words])  # a command has a loop of its own
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    assert await command("list") == (0, "Nothing is being retried.\n")
    world = World(store)
    world.provider.charges = [unknown]
    await world.pay(checkout("c1", "o1"))
    status, out = await command("list", "--provider", "simulator")
    assert status == 0, out
    (row,) = [line for line in out.splitlines() if line.startswith(charge_of("o1"))]
    assert row.split("  ")[0] == charge_of("o1")
    for cell in ("charge", "o1", "10.00 EUR", "simulator", "OPEN", "1 of 12", "read timeout", "2026-03-01 12:00:00"):
        assert f"  {cell}  " in row
    status, out = await command("show", charge_of("o1"))
    assert status == 0, out
    assert f"{charge_of('o1')}: a charge of 10.00 EUR at simulator, OPEN\n" in out
    assert ", order o1\ncause      read timeout, after 1 attempts\ntries      1 of 12 of the retry budget\n" in out
    assert "\nnext       It is looked up by the next gateway that looks" in out  # its clock is the real one
    assert "operation.rescheduled: attempt 1, outcome UNKNOWN, cause read timeout" in out
    status, out = await command("show", charge_of("o2"))
    assert (status, "does not go on by itself" in out) == (2, True)
