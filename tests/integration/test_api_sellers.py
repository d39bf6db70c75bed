"""A seller's wallet at a moment, and the terms his money matures under, over real HTTP."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.integration.running import checkout, run_gateway, simulator_url

from coatcheck.clock import ManualClock
from coatcheck.config import SETTINGS, Settings
from coatcheck.states import Mode
from coatcheck.store import Store

__all__ = ["simulator_url"]

TERMS = "/v1/sellers/seller-0/terms"
WALLET = "/v1/sellers/seller-0/wallet"
AGREED = {"hold_days": 14, "reserve_basis_points": 1050, "reserve_days": 60}


def text_of(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


async def test_terms_are_set_and_shown_to_their_own_shop_and_mode(store: Store, simulator_url: str) -> None:
    async with run_gateway(store, simulator_url) as server:
        key = await server.make_key()
        usual = await server.ask("GET", TERMS, key)
        assert usual.body == {
            "seller_account": "seller-0",
            "hold_days": Settings().wallet_hold_days,
            "reserve_basis_points": Settings().wallet_reserve_basis_points,
            "reserve_days": Settings().wallet_reserve_days,
            "set_by": None,
            "set_at": None,
        }
        first = await server.ask("PUT", TERMS, key, json=AGREED)
        assert (first.status, first.body["set_by"][:8]) == (200, "key key_")
        assert {name: first.body[name] for name in AGREED} == AGREED
        again = await server.ask("PUT", TERMS, key, json=AGREED)
        assert (again.status, again.body) == (200, first.body)
        assert (await server.ask("GET", TERMS, key)).body == first.body
        assert await store.pool.fetchval("SELECT count(*) FROM event WHERE kind = 'seller.terms_set'") == 1
        for other in (await server.make_key("shoes"), await server.make_key("hats", Mode.LIVE)):
            assert (await server.ask("GET", TERMS, other)).body == usual.body


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({**AGREED, "hold_days": -1}, "/hold_days"),
        ({**AGREED, "hold_days": 731}, "/hold_days"),
        ({**AGREED, "reserve_basis_points": 10_001}, "/reserve_basis_points"),
        ({**AGREED, "reserve_days": "60"}, "/reserve_days"),
        ({**AGREED, "hold_days": 1.5}, "/hold_days"),
        ({**AGREED, "discount": 1}, "/discount"),
        ({"hold_days": 1, "reserve_basis_points": 0}, "/reserve_days"),
    ],
)
async def test_terms_that_make_no_sense_are_refused(
    store: Store, simulator_url: str, body: dict[str, Any], pointer: str
) -> None:
    async with run_gateway(store, simulator_url) as server:
        key = await server.make_key()
        answer = await server.ask("PUT", TERMS, key, json=body)
        assert (answer.status, answer.body["code"]) == (422, "invalid_request")
        assert [each["pointer"] for each in answer.body["problems"]] == [pointer]
        assert await store.pool.fetchval("SELECT count(*) FROM seller_terms") == 0


async def test_terms_are_taken_like_every_body(store: Store, simulator_url: str) -> None:
    async with run_gateway(store, simulator_url) as server:
        key = await server.make_key()
        assert (await server.ask("PUT", TERMS, json=AGREED)).status == 401
        assert (await server.ask("PUT", TERMS, key, data=b'{"hold_days": 1')).body["code"] == "malformed_body"
        typed = {"Content-Type": "text/plain"}
        assert (await server.ask("PUT", TERMS, key, data=b"{}", headers=typed)).status == 415
        named = await server.ask("PUT", "/v1/sellers/a:b/terms", key, json=AGREED)
        assert (named.status, named.body["code"]) == (404, "not_found")


async def test_a_wallet_is_shown_as_it_was_at_a_moment(store: Store, simulator_url: str) -> None:
    clock = ManualClock(datetime.now(UTC))
    async with run_gateway(store, simulator_url, clock=clock) as server:
        key = await server.make_key()
        before = clock.now()
        clock.advance(timedelta(seconds=10))
        seen = {}
        for place in range(3):
            answer = await server.pay(key, checkout(f"c{place}"), Idempotency_Key=f"k{place}")
            assert answer.status == 201, answer.raw
            seen[clock.now()] = (await server.ask("GET", WALLET, key)).body
            clock.advance(timedelta(seconds=10))
        for moment, body in seen.items():
            for shown in (moment, moment + timedelta(seconds=9)):
                assert (await server.ask("GET", f"{WALLET}?at={text_of(shown)}", key)).body == body
        assert [each["balances"][0]["pending"] for each in seen.values()] == ["11.34", "22.68", "34.02"]
        none = await server.ask("GET", f"{WALLET}?at={text_of(before)}", key)
        assert (none.status, none.body["code"]) == (404, "not_found")
        for wrong in (text_of(clock.now() + timedelta(seconds=1)), "yesterday", "2026-01-31T23:59:59"):
            refused = await server.ask("GET", f"{WALLET}?at={wrong}", key)
            assert (refused.status, [each["pointer"] for each in refused.body["problems"]]) == (422, ["/at"])


async def test_the_running_gateway_lets_wallets_mature_by_itself(store: Store, simulator_url: str) -> None:
    async with run_gateway(store, simulator_url, settings={"maturing_interval_s": 1}) as server:
        for _ in range(300):
            scrape = server.gateway.metrics.render().decode()
            if "coatcheck_matured_at_seconds 0.0" not in scrape:
                return
            await server.ask("GET", "/health/ready")
    pytest.fail(f"nothing matured within {SETTINGS['maturing_interval_s'].default} s")
