"""Dead letters over HTTP: two keys, one shop, one mode."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import aiohttp
import pytest
from tests.integration.outside import CALLER, SETTINGS, World, checkout, unknown
from tests.integration.running import Answer, RunningGateway, listening

from coatcheck.ids import OPERATION, operation_id_of, order_id_of, print_id
from coatcheck.shops import create_key
from coatcheck.states import Mode
from coatcheck.store import Store

PAN = "4111 1111 1111 1111"
ID = print_id(OPERATION, operation_id_of(order_id_of(CALLER.shop_id, CALLER.mode, "o1"), "charge"))
CHARGED = {"word": "charged", "provider_reference": "ch_seen", "reason": "seen in the dashboard"}


@dataclass(frozen=True, slots=True)
class Desk:
    """A gateway with one dead letter, and the keys of two people of its shop."""

    world: World
    server: RunningGateway
    ada: str
    bob: str

    async def get(self, path: str, key: str | None = None) -> Answer:
        return await self.server.ask("GET", f"/v1/dead_letters{path}", key or self.ada)

    async def post(self, path: str, body: Any = None, key: str | None = None) -> Answer:
        return await self.server.ask("POST", f"/v1/dead_letters{path}", key or self.ada, json=body)


@asynccontextmanager
async def opened(store: Store, *orders: str, replay_alone_most: int = 20) -> AsyncIterator[Desk]:
    settings = replace(SETTINGS, retry_budget_attempts=1, replay_alone_most=replay_alone_most)
    world = World(store, settings=settings)
    world.provider.charges = [unknown] * max(len(orders), 1)
    for order in orders or ("o1",):
        await world.pay(checkout(f"c-{order}", order), order)
        world.clock.advance(timedelta(seconds=1))
    async with listening(world.gateway) as url, aiohttp.ClientSession() as session:
        server = RunningGateway(url, world.gateway, session, world.clock, "")
        yield Desk(world, server, await server.make_key(), await server.make_key())


@pytest.fixture
async def desk(store: Store) -> AsyncIterator[Desk]:
    async with opened(store) as one:
        yield one


async def test_a_dead_letter_is_shown_with_its_evidence_and_what_is_safe(desk: Desk) -> None:
    desk.world.clock.advance(timedelta(minutes=5))
    answer = await desk.get(f"/{ID}")
    assert answer.status == 200
    body = answer.body
    assert (body["operation_id"], body["kind"], body["operation"]) == (ID, "operation", "charge")
    assert (body["amount"], body["currency"], body["payment_order_id"]) == ("10.00", "EUR", "o1")
    assert (body["cause"], body["attempts"], body["is_retrying"]) == ("read timeout", 1, False)
    assert (body["tries"], body["retry_budget"], body["payout_id"]) == (1, 1, None)
    advice = body["advice"]
    assert (advice["action"], advice["would"], advice["age_s"], advice["window_s"]) == (
        *("send_again", "send"),
        *(301, 86_400),
    )
    assert advice["safe_until"] == "2026-03-02T11:55:00Z"
    assert [each["kind"] for each in body["evidence"]] == ["operation.unresolved"]
    listed = (await desk.get("")).body["dead_letters"]
    assert listed == [{name: value for name, value in body.items() if name != "evidence"}]


async def test_the_list_goes_on_with_its_cursor_and_has_filters(store: Store) -> None:
    async with opened(store, "o1", "o2", "o3") as desk:
        first = (await desk.get("?limit=2")).body
        assert [each["payment_order_id"] for each in first["dead_letters"]] == ["o1", "o2"]
        rest = (await desk.get(f"?limit=2&cursor={first['next_cursor']}")).body
        assert ([each["payment_order_id"] for each in rest["dead_letters"]], rest["next_cursor"]) == (["o3"], None)
        foreign = await desk.get(f"?limit=2&provider=stripe&cursor={first['next_cursor']}")
        assert (foreign.status, foreign.body["code"]) == (400, "invalid_cursor")
        old = (await desk.get("?older_than_s=3")).body["dead_letters"]
        assert [each["payment_order_id"] for each in old] == ["o1"]
        assert (await desk.get("?cause=REFUSED")).body["dead_letters"] == []
        assert (await desk.get("?older_than_s=x")).status == 422


async def test_F4_a_retry_is_taken_and_passes_the_gate(desk: Desk) -> None:
    desk.world.clock.advance(timedelta(days=2))
    answer = await desk.post(f"/{ID}/retry")
    assert (answer.status, answer.body["is_retrying"], answer.body["advice"]["would"]) == (202, True, "look_up")
    assert (await desk.post(f"/{ID}/retry")).status == 202
    assert len(await desk.world.recover(timedelta(0))) == 1
    assert desk.world.provider.asked == ["charge", "look_up"]


async def test_F4_a_bulk_retry_has_a_dry_run(store: Store) -> None:
    async with opened(store, "o1", "o2") as desk:
        dry = await desk.post("/retry", {"dry_run": True, "limit": 1})
        assert (dry.status, dry.body["dry_run"], len(dry.body["dead_letters"])) == (200, True, 1)
        assert await desk.world.recover(timedelta(0)) == []
        done = await desk.post("/retry", {"dry_run": False, "provider": "simulator"})
        assert len(done.body["dead_letters"]) == 2
        assert len(await desk.world.recover(timedelta(milliseconds=100))) == 2


async def test_F4_many_at_once_take_another_key(store: Store) -> None:
    async with opened(store, "o1", "o2", replay_alone_most=1) as desk:
        dry = (await desk.post("/retry", {"dry_run": True})).body
        assert (dry["takes_two"], dry["proposal"], len(dry["dead_letters"])) == (True, None, 2)
        asked = (await desk.post("/retry", {"dry_run": False})).body
        assert (asked["proposal"]["proposed_by"].startswith("key key_"), len(asked["dead_letters"])) == (True, 2)
        assert await desk.world.recover(timedelta(milliseconds=100)) == []
        path = f"/retry/{asked['proposal']['replay_id']}/confirm"
        same = await desk.post(path)
        assert (same.status, same.body["code"]) == (409, "resolution_not_possible")
        shoes, _ = await create_key(store, desk.world.clock, "shoes", Mode.TEST)
        assert (await desk.post(path, key=shoes)).status == 404
        assert (await desk.post("/retry/rpl_x/confirm", key=desk.bob)).status == 404
        done = await desk.post(path, key=desk.bob)
        assert (done.status, done.body["proposal"], len(done.body["dead_letters"])) == (200, None, 2)
        assert len(await desk.world.recover(timedelta(milliseconds=100))) == 2


async def test_I1_one_key_proposes_and_another_confirms(desk: Desk, store: Store) -> None:
    proposed = await desk.post(f"/{ID}/resolve", CHARGED)
    assert (proposed.status, proposed.body["confirmed_by"]) == (201, None)
    assert (await desk.post(f"/{ID}/resolve", CHARGED)).body == proposed.body
    assert (await desk.get(f"/{ID}", desk.bob)).body["proposal"] == proposed.body
    named = {"proposal_id": proposed.body["proposal_id"]}
    same = await desk.post(f"/{ID}/confirm", named)
    assert (same.status, same.body["code"]) == (409, "resolution_not_possible")
    assert "second person" in same.body["detail"]
    confirmed = await desk.post(f"/{ID}/confirm", named, desk.bob)
    assert (confirmed.status, confirmed.body["outcome"]) == (200, "APPROVED")
    assert (await desk.post(f"/{ID}/confirm", named, desk.bob)).body == confirmed.body
    assert (await desk.get(f"/{ID}")).status == 404
    rows = await store.pool.fetch("SELECT proposed_by, confirmed_by FROM resolution")
    assert [
        row["proposed_by"] != row["confirmed_by"] and row["proposed_by"].startswith("key key_") for row in rows
    ] == [True]
    assert await desk.world.violations() == {}


async def test_B7_another_shop_or_mode_sees_nothing_and_can_do_nothing(desk: Desk, store: Store) -> None:
    proposal = (await desk.post(f"/{ID}/resolve", CHARGED)).body["proposal_id"]
    shoes, _ = await create_key(store, desk.world.clock, "shoes", Mode.TEST)
    live, _ = await create_key(store, desk.world.clock, "hats", Mode.LIVE)
    for key in (shoes, live):
        assert (await desk.get("", key)).body["dead_letters"] == []
        assert (await desk.get(f"/{ID}", key)).status == 404
        assert (await desk.post(f"/{ID}/retry", key=key)).status == 404
        assert (await desk.post(f"/{ID}/resolve", CHARGED, key)).status == 404
        assert (await desk.post(f"/{ID}/confirm", {"proposal_id": proposal}, key)).status == 404
        assert (await desk.post("/retry", {"dry_run": False}, key)).body["dead_letters"] == []
    assert (await desk.server.ask("GET", "/v1/dead_letters")).status == 401
    assert await desk.world.recover(timedelta(0)) == []
    assert await desk.world.count("transfer") == 0


@pytest.mark.parametrize(
    ("path", "body", "status", "pointer"),
    [
        (f"/{ID}/resolve", {"word": "maybe", "reason": "x"}, 422, "/word"),
        (f"/{ID}/resolve", {"word": "charged"}, 422, "/reason"),
        (f"/{ID}/resolve", {**CHARGED, "amount": "10.00"}, 422, "/amount"),
        (f"/{ID}/resolve", {"word": "charged", "reason": "x"}, 422, "/provider_reference"),
        (f"/{ID}/resolve", {"word": "not_charged", "reason": PAN}, 422, None),
        (f"/{ID}/resolve", [], 400, None),
        (f"/{ID}/confirm", {"proposal_id": "prop_x"}, 422, "/proposal_id"),
        (f"/{ID}/confirm", {}, 422, "/proposal_id"),
        ("/retry", {"dry_run": True, "limit": 101}, 422, "/limit"),
        ("/retry", {"limit": 1}, 422, "/dry_run"),
        ("/op_x/retry", None, 404, None),
        ("/op_x/resolve", CHARGED, 404, None),
    ],
)
async def test_what_is_wrong_is_refused_and_named(
    desk: Desk, path: str, body: Any, status: int, pointer: str | None
) -> None:
    answer = await desk.post(path, body)
    assert answer.status == status, answer.raw
    assert PAN.encode() not in answer.raw
    assert [each["pointer"] for each in answer.body.get("problems", [])] == ([] if pointer is None else [pointer])
    assert await desk.world.count("resolution") == 0
