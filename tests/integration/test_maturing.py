"""Sellers' money from pending to available: by settlement files, hold periods, reserves, and what is owed first."""

import asyncio
import json
import os
import random
import sys
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.integration.locks import deadlocks, until_waiting
from tests.integration.outside import CALLER, SETTINGS, World
from tests.integration.payees import house, pay_out
from tests.integration.test_reconciliation import Desk, lines, summed

from coatcheck.ids import account_id_of, derive_id, seller_id_of
from coatcheck.ledger import (
    Account,
    AccountName,
    Ledger,
    PostOutcome,
    Transfer,
    psp_receivable,
    seller_available,
    seller_pending,
    seller_reserve,
)
from coatcheck.maturing import Maturing
from coatcheck.metrics import Metrics
from coatcheck.seller_terms import Seller, Terms, read_terms, set_terms, usual_terms_of
from coatcheck.shops import create_key
from coatcheck.states import Capture
from coatcheck.store import Store
from coatcheck.validation import Buyer, OrderRequest, PaymentRequest
from coatcheck.wallets import Wallet, wallet

DAY = timedelta(days=1)
HOLD = timedelta(days=SETTINGS.wallet_hold_days)
HATTER = Seller(CALLER.shop_id, CALLER.mode, "hatter")
WITHOUT_RESERVE = Terms(7, 0, 90)


def sale(name: str, amount_minor: int = 1000, *, currency: str = "EUR", **more: Any) -> PaymentRequest:
    """One order of the hatter's, with a commission of a tenth."""
    order = OrderRequest(name, HATTER.name, amount_minor, currency, amount_minor // 10)
    return PaymentRequest(f"checkout-{name}", Buyer("buyer-1"), "tok_approve", (order,), **more)


class Shop(Desk):
    """A desk whose sales are all one seller's."""

    async def sell(self, name: str, amount_minor: int = 1000, **more: Any) -> None:
        view = await self.world.pay(sale(name, amount_minor, **more), f"pay-{name}")
        assert view.status == "SUCCESS"

    async def settle(self) -> None:
        """The PSP pays out, and its files are taken."""
        for place, text in enumerate(self.close()):
            report = await self.take(text, f"settlement-{self.world.clock.now():%Y%m%d%H%M%S}-{place}.csv")
            assert report.is_clean

    async def mature(self, after: timedelta = timedelta(0)) -> Counter[str]:
        self.world.clock.advance(after)
        return await self.world.gateway.maturing.mature_once()

    async def purse(self, currency: str = "EUR") -> tuple[int, int, int]:
        """What the hatter has pending, available and in reserve."""
        found = await wallet(self.world.store, HATTER.shop_id, HATTER.mode, HATTER.name)
        (one,) = [each for each in found if each.currency == currency]
        return one.pending_minor, one.available_minor, one.reserve_minor

    async def agree(self, hold_days: int, reserve_basis_points: int = 0, reserve_days: int = 0) -> None:
        terms = Terms(hold_days, reserve_basis_points, reserve_days)
        await set_terms(self.world.store, self.world.clock, HATTER, terms, by="person ada")

    async def pay_out(self, amount_minor: int) -> None:
        """Pay the hatter out."""
        await house(self.world, HATTER.name)
        await pay_out(self.world, amount_minor, seller=HATTER.name, key=f"payout-{uuid4()}")

    async def move(self, debit: AccountName, credit: AccountName, amount_minor: int, kind: str) -> None:
        ledger, at = Ledger(self.world.store), self.world.clock.now()
        giving, taking = (Account(HATTER.shop_id, HATTER.mode, name, "EUR") for name in (debit, credit))
        await ledger.open_accounts([giving, taking], at)
        assert await ledger.post([transfer(giving, taking, amount_minor, kind)], at) == [PostOutcome.POSTED]

    async def events(self, kind: str) -> list[Any]:
        rows = await self.world.store.pool.fetch(
            "SELECT body::text FROM event WHERE kind = $1 ORDER BY at, event_id", kind
        )
        return [json.loads(row["body"]) for row in rows]


def transfer(debit: Account, credit: Account, amount_minor: int, kind: str) -> Transfer:
    return Transfer(
        transfer_id=uuid4(),
        kind=kind,
        debit_account_id=debit.account_id,
        credit_account_id=credit.account_id,
        amount_minor=amount_minor,
        currency=debit.currency,
        subject_id=uuid4(),
    )


def ours(name: AccountName, currency: str = "EUR") -> UUID:
    return account_id_of(HATTER.shop_id, HATTER.mode, name.name, currency)


@pytest.fixture
def shop(store: Store, tmp_path: Path) -> Shop:
    return Shop(store, tmp_path)


async def test_a_charge_is_available_after_its_settlement_and_the_hold_period(shop: Shop) -> None:
    await shop.sell("o1")
    await shop.mature(100 * DAY)
    assert await shop.purse() == (900, 0, 0)  # no settlement file has told of it
    await shop.settle()
    assert await shop.mature() == {}
    assert await shop.mature(HOLD - timedelta(seconds=1)) == {}
    assert await shop.purse() == (900, 0, 0)
    assert await shop.mature(timedelta(seconds=1)) == {"matured": 1, "release": 1}
    assert await shop.purse() == (0, 900, 0)
    assert await shop.world.violations() == {}
    scrape = shop.world.gateway.metrics.render().decode()
    assert 'coatcheck_wallet_transfers_total{kind="release"} 1.0' in scrape
    assert "coatcheck_matured_total 1.0" in scrape


async def test_F8_the_job_again_releases_nothing_again(shop: Shop) -> None:
    await shop.sell("o1")
    await shop.settle()
    await shop.mature(HOLD)
    before = await shop.world.count("transfer"), await shop.world.count("event")
    for _ in range(3):
        assert await shop.mature(DAY) == {}
    assert (await shop.world.count("transfer"), await shop.world.count("event")) == before


async def test_F8_many_gateways_at_once_release_once(store: Store, tmp_path: Path) -> None:
    shop = Shop(store, tmp_path)
    names = [f"o{n}" for n in range(6)]
    request = sale("o0")
    orders = tuple(OrderRequest(name, f"seller-{name}", 1000, "EUR", 100) for name in names)
    await shop.world.pay(replace_orders(request, orders))
    await shop.settle()
    shop.world.clock.advance(HOLD)
    jobs = [Maturing(store, shop.world.clock, WITHOUT_RESERVE, Metrics()) for _ in range(8)]
    await asyncio.gather(*[job.mature_once() for job in jobs])
    await jobs[0].mature_once()
    balances = await shop.world.balances()
    assert balances["seller_available"] == 6 * 900
    assert "seller_pending" not in balances
    assert await shop.world.count("transfer", "kind = 'release'") == 6
    assert await deadlocks(store) == 0
    assert await shop.world.violations() == {}


def replace_orders(request: PaymentRequest, orders: tuple[OrderRequest, ...]) -> PaymentRequest:
    return PaymentRequest(request.checkout_id, request.buyer, request.token, orders)


async def test_D13_the_shares_of_partial_captures_are_those_that_were_posted(shop: Shop) -> None:
    view = await shop.world.pay(sale("o1", 999, capture=Capture.MANUAL))
    for n, amount in enumerate((334, 1, 333)):
        await shop.world.capture(view, key=f"c{n}", is_final=n == 2, o1=amount)  # the last one releases what is left
    await shop.settle()
    await shop.mature(HOLD)
    posted = await shop.world.store.pool.fetch(
        "SELECT amount_minor FROM transfer WHERE kind = 'charge' AND phase = 'captured'"
    )
    parts = await shop.world.store.pool.fetch("SELECT amount_minor FROM maturing")
    assert sorted(row[0] for row in parts) == sorted(row[0] for row in posted)
    pending, available, _ = await shop.purse()
    assert (pending, available) == (0, sum(row[0] for row in posted))
    assert await shop.world.violations() == {}


async def test_what_is_all_commission_matures_to_nothing(shop: Shop) -> None:
    order = OrderRequest("o1", HATTER.name, 500, "EUR", 500)
    await shop.world.pay(replace_orders(sale("o1"), (order,)))
    await shop.settle()
    assert await shop.mature(HOLD) == {"matured": 1}
    assert await shop.world.violations() == {}


async def test_E8_each_currency_matures_for_itself(shop: Shop) -> None:
    await shop.sell("o1")
    await shop.sell("o2", 5000, currency="JPY")
    await shop.settle()
    await shop.mature(HOLD)
    await shop.world.refund("o1")
    assert await shop.purse() == (-900, 900, 0)
    assert await shop.mature() == {"offset": 1}
    assert (await shop.purse(), await shop.purse("JPY")) == ((0, 0, 0), (0, 4500, 0))


async def test_a_reserve_is_kept_of_each_release_and_ends_after_its_days(shop: Shop) -> None:
    await shop.agree(2, 1000, 30)
    await shop.sell("o1")
    await shop.settle()
    assert await shop.mature(2 * DAY) == {"matured": 1, "release": 1, "reserve": 1}
    assert await shop.purse() == (0, 810, 90)
    assert await shop.mature(30 * DAY - timedelta(seconds=1)) == {}
    assert await shop.mature(timedelta(seconds=1)) == {"reserve_release": 1}
    assert await shop.purse() == (0, 900, 0)
    assert await shop.mature(DAY) == {}
    assert await shop.world.violations() == {}


async def test_terms_hold_for_what_is_settled_from_then_on(shop: Shop) -> None:
    await shop.sell("o1")
    await shop.settle()
    await shop.mature()
    await shop.agree(30)
    await shop.sell("o2")
    await shop.settle()
    await shop.mature(HOLD)
    assert await shop.purse() == (900, 900, 0)
    await shop.mature(30 * DAY - HOLD)
    assert await shop.purse() == (0, 1800, 0)


async def test_D9_what_a_seller_owes_is_taken_from_what_comes_next(shop: Shop) -> None:
    await shop.sell("o1")
    await shop.settle()
    await shop.mature(HOLD)
    await shop.pay_out(900)
    await shop.world.refund("o1")
    assert await shop.purse() == (-900, 0, 0)
    assert await shop.mature(DAY) == {}  # there is nothing to cover it with
    await shop.sell("o2", 2000)
    assert await shop.purse() == (900, 0, 0)
    await shop.settle()
    assert await shop.mature(HOLD) == {"matured": 1, "release": 1}
    assert await shop.purse() == (0, 900, 0)
    (part,) = await shop.world.store.pool.fetch(
        "SELECT amount_minor, released_minor FROM maturing WHERE amount_minor = 1800"
    )
    assert tuple(part) == (1800, 900)
    assert await shop.world.violations() == {}


async def test_D9_what_comes_next_pays_nothing_out_while_it_is_less_than_what_is_owed(shop: Shop) -> None:
    await shop.sell("o1", 3000)
    await shop.settle()
    await shop.mature(HOLD)
    await shop.pay_out(2700)
    await shop.world.refund("o1")
    for n in (2, 3, 4):
        await shop.sell(f"o{n}")
        await shop.settle()
        await shop.mature(HOLD)
        assert (await shop.purse())[1] == 0
    assert await shop.purse() == (0, 0, 0)
    await shop.sell("o5")
    await shop.settle()
    await shop.mature(HOLD)
    assert await shop.purse() == (0, 900, 0)
    assert await shop.world.violations() == {}


async def test_D9_available_covers_what_is_owed_before_it_can_be_paid_out(shop: Shop) -> None:
    await shop.sell("o1")
    await shop.sell("o2")
    await shop.settle()
    await shop.mature(HOLD)
    await shop.pay_out(500)
    await shop.world.refund("o1")
    assert await shop.purse() == (-900, 1300, 0)
    assert await shop.mature() == {"offset": 1}
    assert await shop.purse() == (0, 400, 0)
    await shop.pay_out(400)
    await shop.world.refund("o2", key="r2")
    assert await shop.mature(2 * timedelta(hours=1)) == {}  # and never below zero
    assert await shop.purse() == (-900, 0, 0)
    (told,) = await shop.events("wallet.offset")
    assert [(each["kind"], each["amount_minor"]) for each in told["transfers"]] == [("offset", 900)]
    assert await shop.world.violations() == {}


async def test_D9_a_reserve_whose_time_is_over_covers_what_is_owed_first(shop: Shop) -> None:
    await shop.agree(1, 5000, 10)
    await shop.sell("o1")
    await shop.settle()
    await shop.mature(DAY)
    assert await shop.purse() == (0, 450, 450)
    await shop.pay_out(450)
    await shop.world.refund("o1", 200)  # 180 of it are the seller's
    assert await shop.mature(9 * DAY) == {}
    assert await shop.mature(DAY) == {"offset": 1, "reserve_release": 1}
    assert await shop.purse() == (0, 270, 0)
    told = (await shop.events("wallet.released"))[-1]  # in one turn: nobody can be paid out in between
    assert {(each["kind"], each["debit_account_id"], each["amount_minor"]) for each in told["transfers"]} == {
        ("offset", str(ours(seller_reserve(HATTER.name))), 180),
        ("reserve_release", str(ours(seller_reserve(HATTER.name))), 270),
    }
    assert await shop.world.violations() == {}


async def test_a_refund_takes_from_what_has_matured_before_what_has_not(shop: Shop) -> None:
    await shop.sell("o1")
    await shop.settle()
    await shop.mature(HOLD - DAY)
    await shop.sell("o2")
    await shop.world.refund("o2", 500)
    assert await shop.mature(DAY) == {"matured": 1, "release": 1}
    assert await shop.purse() == (900, 450, 0)  # o2's 900 stay until a file has told of them
    await shop.settle()
    await shop.mature(HOLD)
    assert await shop.purse() == (0, 1350, 0)
    assert await shop.world.violations() == {}


async def test_D6_a_refund_that_came_back_is_released_though_nothing_is_due(shop: Shop) -> None:
    await shop.sell("o1")
    await shop.settle()
    await shop.mature(HOLD)
    pending, receivable = seller_pending(HATTER.name), psp_receivable("simulator")
    await shop.move(pending, receivable, 300, "refund")
    await shop.mature()
    assert await shop.purse() == (0, 600, 0)
    await shop.move(receivable, pending, 300, "refund_return")
    assert await shop.mature() == {}
    assert await shop.purse() == (300, 600, 0)  # it is seen with the next balance mark
    assert await shop.mature(timedelta(hours=2)) == {"release": 1}
    assert await shop.purse() == (0, 900, 0)


async def test_H5_what_a_break_is_open_about_waits_until_it_is_closed(shop: Shop) -> None:
    await shop.sell("o1")
    await shop.sell("o2")
    header, one, two, *_ = lines(shop.close()[0])
    report = await shop.take(summed(header, one.replace(",EUR,10.00,0.25,9.75", ",EUR,9.00,0.25,8.75"), two))
    assert await shop.mature(HOLD) == {"matured": 1, "release": 1}
    assert await shop.purse() == (900, 900, 0)
    (found,) = report.mismatches
    await shop.corrections.close([found.break_id], "person ada", "the PSP has paid the rest by hand")
    assert await shop.mature() == {"matured": 1, "release": 1}
    assert await shop.purse() == (0, 1800, 0)


async def test_A1_what_a_file_decides_matures_when_it_is_decided(store: Store, tmp_path: Path) -> None:
    decided_by_files = replace(SETTINGS, retry_budget_attempts=1)
    shop = Shop(store, tmp_path, settings=decided_by_files, drop_after_charge_share=1.0)
    await shop.world.pay(sale("o1"))
    report = await shop.take(shop.close()[0])
    await shop.mature()
    assert await shop.world.count("maturing", "amount_minor IS NULL") == 1
    assert await shop.mature(HOLD) == {}
    await shop.corrections.correct(report.file_id)
    assert await shop.mature() == {"matured": 1, "release": 1}
    assert await shop.purse() == (0, 900, 0)
    assert await shop.world.violations() == {}


async def test_H4_a_batch_that_is_issued_again_matures_nothing_twice_and_takes_back_its_word(shop: Shop) -> None:
    await shop.sell("o1")
    await shop.sell("o2")
    header, one, two, payout, _ = lines(shop.close()[0])
    await shop.take(summed(header, one, two))
    await shop.mature()
    await shop.take(summed(header, one, payout), "again.csv")  # o2 is not in it any more
    assert await shop.mature(HOLD) == {"matured": 1, "release": 1}
    assert await shop.world.count("maturing") == 2
    await shop.take(summed(header, two.replace("st_000001", "st_000009")), "later.csv")
    assert await shop.mature() == {"matured": 1, "release": 1}
    assert await shop.purse() == (0, 1800, 0)
    assert await shop.world.violations() == {}


async def test_G2_a_release_that_waited_for_a_refund_sees_it(shop: Shop, owner: asyncpg.Connection) -> None:
    await shop.sell("o1")
    await shop.settle()
    await shop.mature()
    shop.world.clock.advance(HOLD)
    async with owner.transaction():
        outcome = await owner.fetchval(
            "SELECT outcome FROM ledger_post($1, '{refund}', NULL, NULL, $2, $3, '{400}', '{EUR}', $1, $4)",
            [uuid4()],
            [ours(seller_pending(HATTER.name))],
            [ours(psp_receivable("simulator"))],
            shop.world.clock.now(),
        )
        assert outcome == "posted"
        waiting = asyncio.create_task(shop.mature())
        await until_waiting(owner)
    assert await waiting == {"matured": 1, "release": 1}
    assert await shop.purse() == (0, 500, 0)


@pytest.mark.parametrize("seed", [1, 2])
async def test_G4_refunds_and_releases_at_once_neither_deadlock_nor_lose_a_cent(
    store: Store, tmp_path: Path, seed: int
) -> None:
    shop, dice = Shop(store, tmp_path), random.Random(seed)
    await shop.agree(7, 1500, 20)
    for n in range(16):
        await shop.sell(f"o{n}", 1000 + n)
    await shop.settle()
    shop.world.clock.advance(HOLD)
    jobs = [Maturing(store, shop.world.clock, WITHOUT_RESERVE, Metrics()).mature_once() for _ in range(16)]
    refunds = [shop.world.refund(f"o{n}", dice.randint(1, 1000), key=f"r{n}") for n in range(16)]
    work: list[Any] = [*jobs, *refunds]
    dice.shuffle(work)
    await asyncio.gather(*work)
    while await shop.mature():
        pass
    assert await deadlocks(store) == 0
    assert await shop.world.violations() == {}
    counted = await store.pool.fetchrow("SELECT sum(captured_minor), sum(commission_minor) FROM payment_order")
    given_back = await store.pool.fetchval("SELECT sum(amount_minor - commission_minor) FROM refund")
    assert counted is not None
    pending, available, reserve = await shop.purse()
    assert pending == 0
    assert available + reserve == counted[0] - counted[1] - given_back


async def test_the_transfers_are_in_the_event_with_tickets_of_their_own(shop: Shop) -> None:
    await shop.agree(0, 1000, 30)
    await shop.sell("o1")
    await shop.settle()
    await shop.mature()
    (told,) = await shop.events("wallet.released")
    pending_id = ours(seller_pending(HATTER.name))
    assert {each["transfer_id"] for each in told["transfers"]} == {
        str(derive_id("wallet", pending_id.hex, "1", leg)) for leg in ("release", "reserve")
    }
    assert {(each["kind"], each["debit_account_id"], each["credit_account_id"]) for each in told["transfers"]} == {
        ("release", str(pending_id), str(ours(seller_available(HATTER.name)))),
        ("reserve", str(pending_id), str(ours(seller_reserve(HATTER.name)))),
    }


async def test_the_rows_can_be_made_again_of_the_events_alone(shop: Shop) -> None:
    await shop.agree(1, 1234, 5)
    for n in range(4):
        await shop.sell(f"o{n}", 1000 + 37 * n)
        await shop.settle()
        await shop.mature(DAY)
    await shop.world.refund("o1", 700)
    for _ in range(8):
        await shop.mature(DAY)
    rows = await shop.world.store.pool.fetch(
        "SELECT e.kind, e.subject_id, e.at, e.body::text, e.shop_id, e.mode FROM event AS e "
        "WHERE kind LIKE 'wallet.%' OR kind LIKE 'seller.%' ORDER BY e.kind <> 'wallet.settled', "
        "(e.body ->> 'turn')::integer, e.at, e.event_id"
    )
    parts, wallets, files, terms = rebuilt(rows)
    assert parts == await table_of(shop.world, "maturing", "operation_id")
    assert wallets == await table_of(shop.world, "wallet", "pending_id")
    assert files == await table_of(shop.world, "settled_reading", "file_id")
    assert terms == await table_of(shop.world, "seller_terms", "seller_account")
    assert sum(each["reserved_minor"] for each in parts.values()) > 0


Rows = dict[str, dict[str, Any]]


async def table_of(world: World, table: str, key: str) -> Rows:
    rows = await world.store.pool.fetch(f"SELECT to_json(t)::text FROM {table} AS t")
    found = [json.loads(row[0]) for row in rows]
    return {row[key]: row for row in found}


def rebuilt(rows: list[Any]) -> tuple[Rows, Rows, Rows, Rows]:
    parts: Rows = {}
    wallets: Rows = {}
    files: Rows = {}
    terms: Rows = {}
    for row in rows:
        body, at = json.loads(row["body"]), row["at"].isoformat()
        if row["kind"] == "seller.terms_set":
            by = body.pop("by")
            world = {"shop_id": str(row["shop_id"]), "mode": row["mode"]}
            terms[body["seller_account"]] = {**world, **body, "set_by": by, "set_at": at}
        elif row["kind"] == "wallet.settled":
            files[body["file_id"]] = {name: body[name] for name in ("file_id", "read_to", "is_done")}
            for part in body["parts"]:
                _begin(row, body, part, parts, wallets)
        else:
            _turn(row, body, at, parts, wallets)
    return parts, wallets, files, terms


def _begin(row: Any, body: Any, part: Any, parts: Rows, wallets: Rows) -> None:
    of_wallet = {name: part.pop(name) for name in ("available_id", "reserve_id", "seller_account", "currency")}
    wallets.setdefault(
        part["pending_id"],
        {
            "pending_id": part["pending_id"],
            "shop_id": str(row["shop_id"]),
            "mode": row["mode"],
            "matured_minor": 0,
            "turn": 0,
            **of_wallet,
        },
    )
    fresh = {"matured_at": None, "released_minor": 0, "reserved_minor": 0, "reserve_ended_at": None}
    parts[part["operation_id"]] = {**part, "file_id": body["file_id"], **fresh}


def _turn(row: Any, body: Any, at: str, parts: Rows, wallets: Rows) -> None:
    each = wallets[str(row["subject_id"])]
    each["turn"] = body["turn"]
    each["matured_minor"] += body["matured_minor"]
    for part in body["parts"]:
        parts[part["operation_id"]] |= {**part, "matured_at": at}
    for operation_id in body["reserves_ended"]:
        parts[operation_id]["reserve_ended_at"] = at


Part = tuple[int, int]


async def test_D13_a_release_and_its_reserve_add_up_to_the_last_cent(owner: asyncpg.Connection) -> None:
    cases: list[tuple[list[Part], int]] = []
    amount = st.one_of(st.integers(0, 50), st.integers(0, 2**53 - 1))
    points = st.one_of(st.integers(0, 10_000), st.sampled_from([0, 1, 9_999, 10_000]))

    @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        parts=st.lists(st.tuples(amount, points), min_size=1, max_size=12),
        releasable=st.integers(0, 2**53 - 1),
        is_little=st.booleans(),
    )
    def collect(*, parts: list[Part], releasable: int, is_little: bool) -> None:
        whole = sum(each for each, _ in parts)
        cases.append((parts, releasable % (whole + 2) if is_little else releasable))

    collect()
    for parts, releasable in cases:
        rows = await owner.fetch(
            "SELECT * FROM spread_release($1, $2, $3)",
            [each for each, _ in parts],
            [each for _, each in parts],
            releasable,
        )
        released = [row["released_minor"] for row in rows]
        reserved = [row["reserved_minor"] for row in rows]
        assert [row["place"] for row in rows] == list(range(1, len(parts) + 1))
        assert sum(released) == min(releasable, sum(each for each, _ in parts))
        assert all(0 <= each <= whole for each, (whole, _) in zip(released, parts, strict=True))
        assert all(0 <= kept <= each for kept, each in zip(reserved, released, strict=True))
        exactly = sum(each * share for each, (_, share) in zip(released, parts, strict=True))
        assert sum(reserved) == exactly // 10_000
        for place in range(len(parts) - 1):  # the oldest first
            assert released[place] == parts[place][0] or not any(released[place + 1 :])


async def test_the_application_cannot_write_what_matures(shop: Shop) -> None:
    await shop.sell("o1")
    await shop.settle()
    await shop.mature()
    pool = shop.world.store.pool
    for table in ("maturing", "wallet", "seller_terms", "settled_reading", "balance_mark", "balance_snapshot"):
        await pool.fetch(f"SELECT * FROM {table}")
        for statement in (f"DELETE FROM {table}", f"INSERT INTO {table} SELECT * FROM {table}"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await pool.execute(statement)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await pool.execute("UPDATE maturing SET due_at = settled_at")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await pool.fetch("SELECT * FROM spread_release('{1}', '{1}', 1)")


async def test_terms_are_told_once_for_each_change(shop: Shop) -> None:
    store, usual = shop.world.store, usual_terms_of(SETTINGS)
    before = await read_terms(store, HATTER, usual)
    assert (before.terms, before.set_by, before.set_at) == (WITHOUT_RESERVE, None, None)
    for _ in range(2):
        await shop.agree(14, 500, 60)
    await shop.agree(14, 600, 60)
    after = await read_terms(store, HATTER, usual)
    assert (after.terms, after.set_by, after.set_at) == (Terms(14, 600, 60), "person ada", shop.world.clock.now())
    told = await shop.events("seller.terms_set")
    in_turn = sorted(told, key=lambda each: int(each["revision"]))
    assert [each["reserve_basis_points"] for each in in_turn] == [500, 600]
    subject = await store.pool.fetchval("SELECT DISTINCT subject_id FROM event WHERE kind = 'seller.terms_set'")
    assert subject == seller_id_of(HATTER.shop_id, HATTER.mode, HATTER.name)


@pytest.mark.parametrize("terms", [Terms(-1, 0, 0), Terms(731, 0, 0), Terms(0, 10_001, 0), Terms(0, 0, -1)])
async def test_the_table_itself_refuses_terms_that_make_no_sense(shop: Shop, terms: Terms) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await set_terms(shop.world.store, shop.world.clock, HATTER, terms, by="person ada")


async def coatcheck(database_url: str, *arguments: str) -> tuple[int, str]:
    """Run a command as a person would; its exit status and what it printed."""
    running = await asyncio.create_subprocess_exec(
        *[sys.executable, "-c", "from coatcheck.cli import main; main()", *arguments],
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "DATABASE_URL": database_url, "COATCHECK_CONFIG": os.devnull},
    )
    printed, _ = await running.communicate()
    assert running.returncode is not None
    return running.returncode, printed.decode()


async def test_the_commands_show_a_wallet_and_its_terms(shop: Shop, database_url: str) -> None:
    await create_key(shop.world.store, shop.world.clock, "hats", CALLER.mode)
    await shop.sell("o1")
    then = shop.world.clock.now()
    await shop.settle()
    await shop.mature(HOLD)
    of_hats = ("hatter", "--shop", "hats")
    status, printed = await coatcheck(database_url, "wallets", "show", *of_hats)
    assert (status, printed.split()[-5:]) == (0, ["EUR", "0.00", "9.00", "0.00", "0.00"])
    status, printed = await coatcheck(database_url, "wallets", "show", *of_hats, "--at", then.isoformat())
    assert (status, printed.split()[-5:]) == (0, ["EUR", "9.00", "0.00", "0.00", "0.00"])
    status, printed = await coatcheck(database_url, "wallets", "show", *of_hats, "--live")
    assert (status, "has no wallet" in printed) == (2, True)
    status, printed = await coatcheck(database_url, "wallets", "terms", *of_hats, "--reserve-basis-points", "1050")
    assert (status, "--by" in printed) == (2, True)
    change = ("--reserve-basis-points", "1050", "--by", "Ada")
    status, printed = await coatcheck(database_url, "wallets", "terms", *of_hats, *change)
    assert status == 0
    assert "Held for 7 days" in printed
    assert "In reserve: 10.50 % of each release, for 90 days more." in printed
    assert "Set by person ada" in printed


async def test_nobody_else_s_wallet_matures_with_it(shop: Shop) -> None:
    other = OrderRequest("x1", "milliner", 1000, "EUR", 100)
    await shop.world.pay(replace_orders(sale("x1"), (other,)), "pay-x1")
    await shop.settle()
    await shop.mature(DAY)
    await shop.sell("o1")
    await shop.settle()
    await shop.mature(HOLD - DAY)
    assert await shop.purse() == (900, 0, 0)
    found = await wallet(shop.world.store, HATTER.shop_id, HATTER.mode, "milliner")
    assert found == [Wallet("EUR", 0, 900, 0)]
