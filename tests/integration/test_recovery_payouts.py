"""Payouts that restored books have forgotten: no seller is paid twice, and every wallet is right again (G16, D8)."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest
from tests.integration.conftest import new_database
from tests.integration.outside import CALLER, World
from tests.integration.payees import fund, house, owe, pay_out, payout_of, schedule
from tests.integration.running import run_gateway, simulator_url
from tests.integration.test_maturing import HATTER, HOLD, Shop
from tests.integration.test_recovery import TWO_DAYS, Town, backup_of, recovered
from tests.integration.test_replay import differences_of

from coatcheck.ids import OPERATION, payout_id_of, print_id
from coatcheck.payouts import Decision, PayoutAnswer, PayoutRequest, PayoutVerdict
from coatcheck.payouts.commits import payout_operation_id
from coatcheck.reconciliation.reconciler import Reconciler
from coatcheck.simulator.payouts import PayoutBody
from coatcheck.simulator.records import Sending
from coatcheck.states import PayoutRunStatus, PayoutStatus
from coatcheck.store import Store
from coatcheck.store.database import _open
from coatcheck.store.embedded import EmbeddedServer
from coatcheck.wallets import wallet

__all__ = ["simulator_url"]

DAILY = "0 6 * * *"
DAY = timedelta(days=1)
CONJURED = {"transfer", "account", "wallet_balance"}  # of these no event tells where a test put money itself


class Stand(Shop):
    """The hatter's shop on whatever database there is now; the town's PSP keeps what it was told."""

    def __init__(self, town: Town, store: Store, directory: Path) -> None:
        self.town, self.world, self.psp = town, town.world(store), town.psp
        self.reconciler = Reconciler(store, town.clock)
        self._directory = directory

    async def settle(self) -> None:
        """The PSP closes its batches, and its files are taken; they can be taken again."""
        self.town.files += self.close()  # type: ignore[attr-defined]
        await self.take_again()

    async def take_again(self) -> None:
        """Take every settlement file there has ever been."""
        for place, text in enumerate(self.town.files):  # type: ignore[attr-defined]
            assert (await self.take(text, f"settlement-{place}.csv")).is_clean

    async def ask(self, amount_minor: int | None = None, key: str = "p1", seller: str = HATTER.name) -> PayoutAnswer:
        return await pay_out(self.world, amount_minor, seller=seller, key=key)

    async def payable(self) -> int:
        (one,) = await wallet(self.world.store, HATTER.shop_id, HATTER.mode, HATTER.name)
        return one.payable_minor

    async def payouts(self) -> dict[str, tuple[Any, ...]]:
        """How every payout stands, as a shop sees it."""
        rows = await self.world.store.pool.fetch(
            "SELECT key, payout_id, seller_account, amount_minor, destination, status, decline_code, "
            "provider_reference, run_id FROM payout"
        )
        return {row["key"]: tuple(row)[1:] for row in rows}

    async def is_sound(self) -> bool:
        """Whether all invariants hold, and the events make the very rows: all but money that a test has conjured up."""
        differing = {each.table for each in await differences_of(self.world.store)}
        conjured = await self.world.count("transfer", "kind IN ('funding', 'taking')")
        return await self.world.violations() == {} and differing <= (CONJURED if conjured else set())

    def paid_out(self) -> list[int]:
        """What has really been paid out, in all."""
        return [each.amount for each in self.psp.bank.payouts.page(0, 1000)]


Days = Callable[[Stand], Any]


class Fire:
    """What was before the backup and after it: a PSP, and books that are lost."""

    def __init__(self, server: EmbeddedServer, template_made: list[str], directory: Path) -> None:
        self._server, self._template_made, self._directory = server, template_made, directory
        self.town = Town()
        self.town.files = []  # type: ignore[attr-defined]
        self.backup_at: datetime
        self.balances: dict[str, int] = {}
        self.payouts: dict[str, tuple[Any, ...]] = {}
        self.purse: tuple[int, int, int] | None = None

    @asynccontextmanager
    async def restored(self, before: Days, after: Days) -> AsyncIterator[Stand]:
        """The stand on the books of before, when all of `after` has happened, too."""
        async with new_database(self._server, self._template_made) as url:
            async with _open(url, pool_size=4) as store:
                await before(self._stand(store))
            self.backup_at = self.town.clock.now()
            async with backup_of(self._server, url) as backup:
                async with _open(url, pool_size=4) as store:
                    lost = self._stand(store)
                    await after(lost)
                    assert await lost.world.violations() == {}
                    self.balances, self.payouts = await lost.world.balances(), await lost.payouts()
                    self.purse = await lost.purse()
                self._restored_url = backup
                async with _open(backup, pool_size=4) as store:
                    yield self._stand(store)

    async def as_owner(self, statement: str) -> None:
        """Change the restored books past their functions."""
        owner = await asyncpg.connect(self._restored_url)
        await owner.execute(statement)
        await owner.close()

    def _stand(self, store: Store) -> Stand:
        return Stand(self.town, store, self._directory)

    async def put_out(self, stand: Stand) -> int:
        """Make the books whole; returns how much was adopted."""
        report = await recovered(stand.world, self.backup_at)
        assert report.strange == []
        return report.adopted


@pytest.fixture
def fire(server: EmbeddedServer, template_made: list[str], tmp_path: Path) -> Fire:
    return Fire(server, template_made, tmp_path)


async def rich(stand: Stand) -> None:
    """The hatter has 900 available, and 450 pending."""
    await stand.sell("o1")
    await stand.settle()
    await stand.mature(HOLD)
    await stand.sell("o2", 500)
    await house(stand.world, HATTER.name)


def reopened(payout_key: str) -> list[UUID]:
    return [payout_operation_id(payout_id_of(CALLER.shop_id, CALLER.mode, payout_key))]


async def hear(stand: Stand, key: str = "p1") -> None:
    """Let the gateway ask again about a payout."""
    for held in await stand.world.gateway.operations.reopen(reopened(key), "the PSP has told"):
        await stand.world.gateway.executor.run(held)


async def paid(stand: Stand) -> None:
    await stand.ask(400)


async def failed(stand: Stand) -> None:
    await house(stand.world, HATTER.name, "dest_closed")
    stand.town.clock.advance(TWO_DAYS)
    await stand.ask(400)


async def pending(stand: Stand) -> None:
    await house(stand.world, HATTER.name, "dest_pending")
    stand.town.clock.advance(TWO_DAYS)
    await stand.ask(400)


async def returned(stand: Stand) -> None:
    await stand.ask(400)
    (payout,) = stand.psp.bank.payouts.page(0, 10)
    stand.psp.bank.payouts.send_back(payout.id)
    await hear(stand)


@pytest.mark.parametrize(
    ("after", "status"), [(paid, "PAID"), (failed, "FAILED"), (pending, "PENDING"), (returned, "RETURNED")]
)
async def test_G16_a_forgotten_payout_comes_back_as_the_provider_has_it(fire: Fire, after: Days, status: str) -> None:
    async with fire.restored(rich, after) as stand:
        assert await stand.payouts() == {}
        assert await fire.put_out(stand) == 1
        assert await stand.payouts() == fire.payouts
        assert fire.payouts["p1"][4] == status
        assert await stand.world.balances() == fire.balances
        assert await stand.purse() == fire.purse
        assert await stand.is_sound()
        assert await fire.put_out(stand) == 0
        assert await stand.payouts() == fire.payouts
        assert stand.paid_out() == [400]
        assert await stand.is_sound()


async def test_G16_a_returned_payout_was_paid_first_and_each_is_told(fire: Fire) -> None:
    async with fire.restored(rich, returned) as stand:
        await fire.put_out(stand)
        rows = await stand.world.store.pool.fetch(
            "SELECT kind FROM event WHERE subject_id = $1", payout_id_of(CALLER.shop_id, CALLER.mode, "p1")
        )
        assert {row["kind"] for row in rows} == {
            "payout.adopted",
            "payout.paid",
            "operation.reopened",
            "payout.returned",
        }


@pytest.mark.parametrize("decided", ["succeeded", "failed"])
async def test_G16_an_adopted_payout_that_was_pending_is_decided_like_any_other(fire: Fire, decided: str) -> None:
    async with fire.restored(rich, pending) as stand:
        await fire.put_out(stand)
        assert await stand.purse() == (450, 500, 0)
        (payout,) = stand.psp.bank.payouts.page(0, 10)
        stand.psp.bank.payouts.settle(payout.id, "paid" if decided == "succeeded" else "failed")
        for _ in range(4):
            await stand.world.recover(timedelta(hours=1))
        assert (await stand.payouts())["p1"][4] == ("PAID" if decided == "succeeded" else "FAILED")
        assert await stand.purse() == (450, 500 if decided == "succeeded" else 900, 0)
        assert await stand.is_sound()


async def poor(stand: Stand) -> None:
    """The hatter has 900 pending, and no file has told of it yet."""
    await stand.sell("o1")
    await house(stand.world, HATTER.name)


async def half_rich(stand: Stand) -> None:
    """The hatter has 450 available, and 900 pending."""
    await stand.sell("o0", 500)
    await stand.settle()
    await stand.mature(HOLD)
    await poor(stand)


async def settled_and_paid(stand: Stand) -> None:
    await stand.settle()
    await stand.mature(HOLD)
    await stand.ask(None)


async def settled_and_paid_in_part(stand: Stand) -> None:
    await stand.settle()
    await stand.mature(HOLD)
    await stand.ask(700)


@pytest.mark.parametrize("before", [poor, half_rich])
@pytest.mark.parametrize("after", [settled_and_paid, settled_and_paid_in_part])
async def test_D8_G16_what_a_forgotten_settlement_had_made_available_is_not_paid_again(
    fire: Fire, before: Days, after: Days
) -> None:
    async with fire.restored(before, after) as stand:
        assert fire.purse is not None
        have = sum(fire.purse)
        await fire.put_out(stand)
        pending_minor, available_minor, _ = await stand.purse()
        assert (available_minor, pending_minor) == (0, have)
        assert await stand.payable() == 0
        assert (await stand.ask(None, "another")).verdict is PayoutVerdict.NOTHING_AVAILABLE
        assert await stand.is_sound()
        await stand.take_again()
        assert await stand.payable() == 0
        await stand.mature(HOLD)
        assert await stand.purse() == fire.purse
        assert await stand.payable() == have
        assert await stand.is_sound()
        answer = await stand.ask(None, "another")
        assert answer.verdict is (PayoutVerdict.REQUESTED if have else PayoutVerdict.NOTHING_AVAILABLE)
        assert sum(stand.paid_out()) == sum(share for share in (900, 450 if before is half_rich else 0))
        assert await stand.mature(100 * DAY) == {}
        assert await stand.is_sound()


async def test_D13_G16_with_a_reserve_no_cent_is_made_or_lost(fire: Fire) -> None:
    """What was paid ahead was in no reserve, so the new one is smaller; the sum is the same."""

    async def agreed(stand: Stand) -> None:
        await stand.agree(7, 1000, 30)
        await poor(stand)

    async with fire.restored(agreed, settled_and_paid_in_part) as stand:
        assert fire.purse == (0, 110, 90)
        await fire.put_out(stand)
        assert await stand.purse() == (200, 0, 0)
        await stand.take_again()
        await stand.mature(HOLD)
        assert await stand.purse() == (0, 180, 20)
        await stand.mature(30 * DAY)
        assert await stand.purse() == (0, 200, 0)
        assert (await stand.ask(201, "p2")).verdict is PayoutVerdict.TOO_MUCH
        assert await stand.is_sound()


async def test_D9_G16_what_no_balance_covers_is_a_debt_that_the_next_money_pays(fire: Fire) -> None:
    async def lucky(stand: Stand) -> None:
        await fund(stand.world, HATTER.name, 500)  # a transfer that no file will ever bring back
        await house(stand.world, HATTER.name)
        await stand.ask(None)

    async def nothing(stand: Stand) -> None:
        await stand.sell("o1", 100)

    async with fire.restored(nothing, lucky) as stand:
        await fire.put_out(stand)
        assert await stand.purse() == (90 - 500, 0, 0)
        assert await stand.is_sound()
        await stand.sell("o2")
        assert await stand.purse() == (490, 0, 0)
        await stand.settle()
        await stand.mature(HOLD)
        assert await stand.purse() == (0, 490, 0)
        await house(stand.world, HATTER.name)
        assert (await stand.ask(491, "p2")).verdict is PayoutVerdict.TOO_MUCH
        assert (await stand.ask(490, "p2")).verdict is PayoutVerdict.REQUESTED
        assert await stand.is_sound()


async def test_D9_G16_what_is_available_and_owed_is_taken_before_what_is_pending(fire: Fire) -> None:
    """Available money is taken as far as it goes and never below zero, whatever the seller owes."""

    async def in_debt(stand: Stand) -> None:
        await rich(stand)
        await owe(stand.world, HATTER.name, 600)

    async def more(stand: Stand) -> None:
        await fund(stand.world, HATTER.name, 300)
        await stand.ask(None)

    async with fire.restored(in_debt, more) as stand:
        assert [each[2] for each in fire.payouts.values()] == [1050]
        await fire.put_out(stand)
        assert await stand.purse() == (-300, 0, 0)
        (row,) = await stand.world.store.pool.fetch("SELECT ahead_minor FROM adopted_payout")
        assert row["ahead_minor"] == 150
        assert await stand.is_sound()


@pytest.mark.parametrize("first", ["settled", "comes back"])
@pytest.mark.parametrize("ends", ["failed", "returned"])
async def test_D10_G16_what_was_paid_ahead_and_comes_back_is_payable_once(fire: Fire, first: str, ends: str) -> None:
    async def before(stand: Stand) -> None:
        await poor(stand)
        await house(stand.world, HATTER.name, "dest_pending")
        stand.town.clock.advance(TWO_DAYS)

    async with fire.restored(before, settled_and_paid) as stand:
        await fire.put_out(stand)
        assert await stand.purse() == (0, 0, 0)

        async def come_back() -> None:
            (payout,) = stand.psp.bank.payouts.page(0, 1)
            stand.psp.bank.payouts.settle(payout.id, "failed" if ends == "failed" else "paid")
            for _ in range(4):
                await stand.world.recover(timedelta(hours=1))
            if ends == "returned":
                stand.psp.bank.payouts.send_back(payout.id)
                await hear(stand)

        async def settle() -> None:
            await stand.take_again()
            await stand.mature(HOLD)

        for step in (settle, come_back) if first == "settled" else (come_back, settle):
            await step()
            assert await stand.is_sound()
        assert await stand.purse() == (0, 900, 0)
        assert await stand.payable() == 900
        assert (await stand.ask(901, "p2")).verdict is PayoutVerdict.TOO_MUCH
        assert (await stand.ask(900, "p2")).verdict is PayoutVerdict.REQUESTED
        assert await stand.mature(100 * DAY) == {}
        assert await stand.is_sound()


@pytest.mark.parametrize("pause", [timedelta(minutes=10), TWO_DAYS], ids=["inside the window", "long after it"])
@pytest.mark.parametrize("amount_minor", [400, None])
async def test_B2_G16_the_shop_s_retry_finds_the_adopted_payout(
    fire: Fire, pause: timedelta, amount_minor: int | None
) -> None:
    async def housed_and_paid(stand: Stand) -> None:
        await house(stand.world, HATTER.name)  # the restored books do not even know where to
        await stand.ask(400)

    async def unhoused(stand: Stand) -> None:
        await stand.sell("o1")
        await stand.settle()
        await stand.mature(HOLD)

    async with fire.restored(unhoused, housed_and_paid) as stand:
        stand.town.clock.advance(pause)
        await fire.put_out(stand)
        payout_id = fire.payouts["p1"][0]
        for amount, seller in ((401, HATTER.name), (400, "somebody-else"), (None, "somebody-else")):
            assert (await stand.ask(amount, seller=seller)).verdict is PayoutVerdict.KEY_REUSED
        for _ in range(2):
            again = await stand.ask(amount_minor)
            assert (again.verdict, again.payout_id, len(again.operations)) == (PayoutVerdict.EXISTS, payout_id, 0)
            assert (await payout_of(stand.world, again)).status is PayoutStatus.PAID
        # From now on the key stands for this very request.
        assert (await stand.ask(None if amount_minor else 400)).verdict is PayoutVerdict.KEY_REUSED
        assert await stand.world.count("event", "kind = 'payout.recognised'") == 1
        assert stand.paid_out() == [400]
        assert await stand.is_sound()


async def test_A3_G16_a_payout_that_was_sent_after_the_backup_is_asked_about_first(fire: Fire) -> None:
    """At the backup it had never left. Sent again after the provider's window, it would be paid twice."""

    async def asked(stand: Stand) -> None:
        await rich(stand)
        want = PayoutRequest(seller_account=HATTER.name, currency="EUR", amount_minor=400)
        await stand.world.gateway.payouts.request(CALLER, want, "p1")
        pool = stand.world.store.pool
        await pool.execute(
            "SELECT release_operations($1, $2)", stand.town.clock.now(), stand.world.gateway.operations.holder
        )

    async def sent(stand: Stand) -> None:
        await stand.world.recover()
        assert stand.paid_out() == [400]

    async with fire.restored(asked, sent) as stand:
        stand.town.clock.advance(TWO_DAYS)
        report = await recovered(stand.world, fire.backup_at)
        assert (report.asked, report.adopted, report.strange) == (1, 0, [])
        for _ in range(5):
            await stand.world.recover()
        assert await stand.payouts() == fire.payouts
        assert stand.paid_out() == [400]
        assert await stand.is_sound()


async def test_A3_G16_an_item_that_was_never_sent_at_the_backup_is_doubted(fire: Fire) -> None:
    """A run's operation has no first sending until it is claimed: its window counts from its beginning now."""

    async def planned(stand: Stand) -> None:
        await rich(stand)
        await schedule(stand.world, HATTER.name, DAILY)
        stand.town.clock.advance(DAY)
        await stand.world.gateway.upkeep.tend_once()
        (run,) = await stand.world.gateway.payout_runs.find(status=PayoutRunStatus.WAITING)
        assert await stand.world.gateway.payout_runs.decide(run.run_id, "grace", is_approved=True) is Decision.DONE
        await stand.world.gateway.upkeep.tend_once()

    async def sent(stand: Stand) -> None:
        await stand.world.recover()
        assert stand.paid_out() == [900]

    async with fire.restored(planned, sent) as stand:
        stand.town.clock.advance(TWO_DAYS)
        report = await recovered(stand.world, fire.backup_at)
        assert (report.asked, report.adopted, report.strange) == (1, 0, [])
        assert await stand.world.count("event", "kind = 'operation.doubted'") == 1
        assert await stand.payouts() == fire.payouts
        for _ in range(5):
            await stand.world.recover()
        assert stand.paid_out() == [900]
        assert await stand.is_sound()


async def test_D10_G16_a_payout_of_before_that_came_back_since_is_asked_about_again(fire: Fire) -> None:
    async def paid_before(stand: Stand) -> None:
        await rich(stand)
        await stand.ask(400)

    async def came_back(stand: Stand) -> None:
        (payout,) = stand.psp.bank.payouts.page(0, 10)
        stand.psp.bank.payouts.send_back(payout.id)
        await hear(stand)

    async with fire.restored(paid_before, came_back) as stand:
        assert (await stand.payouts())["p1"][4] == "PAID"
        assert await fire.put_out(stand) == 0
        assert await stand.payouts() == fire.payouts
        assert fire.payouts["p1"][4] == "RETURNED"
        assert await stand.world.balances() == fire.balances
        assert await stand.is_sound()


async def test_G16_charges_come_back_before_the_payouts_that_they_pay(fire: Fire) -> None:
    async def empty(stand: Stand) -> None:
        await house(stand.world, HATTER.name)

    async def all_at_once(stand: Stand) -> None:
        await stand.sell("o1")
        await stand.sell("o2", 300)
        await stand.world.refund("o2", 100)
        await settled_and_paid(stand)

    async with fire.restored(empty, all_at_once) as stand:
        assert await fire.put_out(stand) == 4
        await stand.take_again()
        await stand.mature(HOLD)
        assert await stand.purse() == fire.purse
        assert await stand.payable() == 0
        assert await stand.is_sound()


async def test_G16_a_provider_that_only_pays_out_is_asked_as_well(fire: Fire) -> None:
    async def housed(stand: Stand) -> None:
        await house(stand.world, HATTER.name)

    async def paid_at_once(stand: Stand) -> None:
        await fund(stand.world, HATTER.name, 500)
        await stand.ask(None)
        await stand.sell("o1")  # so that there is a purse

    async with fire.restored(housed, paid_at_once) as stand:
        recovery = stand.world.gateway.recovery
        recovery._provider = "another one charges"
        report = await recovery.run(fire.backup_at, "person ada")
        assert (report.adopted, report.strange) == (2, [])
        assert await stand.payouts() == fire.payouts


async def test_A15_G16_an_answer_about_another_amount_is_told_and_nothing_is_booked(fire: Fire) -> None:
    async with fire.restored(rich, paid) as stand:
        listed = stand.world.provider.look_up

        async def less(intent: Any) -> Any:
            outcome = await listed(intent)
            return msgspec.structs.replace(outcome, amount_minor=399)

        stand.world.provider.look_up = less  # type: ignore[method-assign]
        report = await recovered(stand.world, fire.backup_at)
        assert (report.adopted, [each.why.value for each in report.strange]) == (0, ["unclear"])
        assert await stand.payouts() == {}
        assert await stand.is_sound()


async def test_G16_a_recovery_that_breaks_off_among_payouts_goes_on(fire: Fire) -> None:
    async def three(stand: Stand) -> None:
        for place in range(3):
            await stand.ask(100, f"p{place}")

    async with fire.restored(rich, three) as stand:
        applied, count = stand.world.gateway.payouts.apply_within, 0

        async def breaks(*arguments: Any) -> bool:
            nonlocal count
            count += 1
            if count == 2:
                raise OSError("the power is gone")
            return await applied(*arguments)

        stand.world.gateway.payouts.apply_within = breaks  # type: ignore[method-assign, assignment]
        with pytest.raises(OSError, match="power"):
            await recovered(stand.world, fire.backup_at)
        stand.world.gateway.payouts.apply_within = applied  # type: ignore[method-assign]
        assert len(await stand.payouts()) == 1
        with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError):
            await stand.ask(50, "another")
        assert await stand.is_sound()
        assert await fire.put_out(stand) == 2
        assert await stand.payouts() == fire.payouts
        assert await stand.world.balances() == fire.balances
        assert await stand.is_sound()


async def test_G16_what_is_not_provably_ours_is_told_and_left_alone(fire: Fire) -> None:
    ours = {"shop": CALLER.shop_id.hex, "seller": HATTER.name, "key": "p1"}
    mine = print_id(OPERATION, payout_operation_id(payout_id_of(CALLER.shop_id, CALLER.mode, "p1")))
    other = print_id(OPERATION, payout_operation_id(payout_id_of(CALLER.shop_id, CALLER.mode, "p2")))

    def remit(stand: Stand, reference: str, metadata: dict[str, str] | None, destination: str = "dest_ok") -> None:
        merchant = stand.psp.bank.merchant("coatcheck", is_live=False)
        body = PayoutBody(50, "EUR", destination, reference, metadata)
        stand.psp.bank.payouts.pay(
            merchant, body, Sending(None, "", False, 0.0), declines=False, settle_s=0.0, return_s=0.0
        )

    async def strangers(stand: Stand) -> None:
        remit(stand, "invoice-7", None)
        remit(stand, other, ours)  # the key says another payout
        remit(stand, mine, ours | {"run": uuid4().hex})  # a run that the key does not name

    async with fire.restored(rich, strangers) as stand:
        report = await recovered(stand.world, fire.backup_at)
        assert [(each.reference, each.why.value) for each in report.strange] == [
            ("invoice-7", "foreign"),
            (other, "foreign"),
            (mine, "foreign"),
        ]
        assert report.adopted == 0
        assert await stand.payouts() == {}
        assert await stand.is_sound()


async def test_A8_G16_a_payout_that_was_made_twice_is_adopted_once_and_told(fire: Fire) -> None:
    async def twice(stand: Stand) -> None:
        await stand.ask(400)
        (payout,) = stand.psp.bank.payouts.page(0, 10)
        merchant = stand.psp.bank.merchant("coatcheck", is_live=False)
        body = PayoutBody(400, "EUR", "dest_ok", payout.reference, None)
        stand.psp.bank.payouts.pay(
            merchant, body, Sending(None, "", False, 0.0), declines=False, settle_s=0.0, return_s=0.0
        )

    async with fire.restored(rich, twice) as stand:
        for adopted in (1, 0):
            report = await recovered(stand.world, fire.backup_at)
            assert (report.adopted, [each.why.value for each in report.strange]) == (adopted, ["conflict"])
        assert await stand.payouts() == fire.payouts
        assert await stand.is_sound()


async def scheduled(stand: Stand) -> None:
    await rich(stand)
    await fund(stand.world, "cobbler", 300)
    await house(stand.world, "cobbler")
    for seller in (HATTER.name, "cobbler"):
        await schedule(stand.world, seller, DAILY)


async def ran(stand: Stand) -> None:
    """The day's run is made, let go by a second person, and paid."""
    stand.town.clock.advance(DAY)
    await tend(stand.world)
    for run in await stand.world.gateway.payout_runs.find(status=PayoutRunStatus.WAITING):
        assert await stand.world.gateway.payout_runs.decide(run.run_id, "grace", is_approved=True) is Decision.DONE
    await tend(stand.world)


async def tend(world: World) -> None:
    await world.gateway.upkeep.tend_once()
    for operation in await world.gateway.operations.claim(100):
        await world.gateway.executor.run(operation)


async def test_D11_G16_a_run_that_is_planned_again_pays_no_item_again(fire: Fire) -> None:
    async with fire.restored(scheduled, ran) as stand:
        assert sorted(stand.paid_out()) == [300, 900]
        assert await fire.put_out(stand) == 2
        assert await stand.payouts() == fire.payouts
        # Money that the run would pay, had it not been paid already.
        await fund(stand.world, HATTER.name, 1000)
        await tend(stand.world)
        (run,) = await stand.world.gateway.payout_runs.find()
        assert (run.status, run.items, run.total_minor) == (PayoutRunStatus.FINISHED, 2, 1200)
        items = await stand.world.gateway.payout_runs.items(run.run_id)
        assert {(each.seller_account, each.amount_minor, each.outcome) for each in items} == {
            (HATTER.name, 900, PayoutVerdict.REQUESTED),
            ("cobbler", 300, PayoutVerdict.REQUESTED),
        }
        assert sorted(stand.paid_out()) == [300, 900]
        assert await stand.is_sound()
        await ran(stand)
        assert sorted(stand.paid_out()) == [300, 900, 1000]
        assert await stand.is_sound()


async def test_D11_G16_a_run_that_had_paid_one_item_pays_the_other(fire: Fire) -> None:
    """The run broke off after its first item; made again, it waits for a second person with what is left of it."""

    async def half(stand: Stand) -> None:
        stand.town.clock.advance(DAY)
        await stand.world.gateway.upkeep.tend_once()
        (run,) = await stand.world.gateway.payout_runs.find()
        await stand.world.gateway.payout_runs.decide(run.run_id, "grace", is_approved=True)
        await stand.world.gateway.payout_runs.pay_items(1)
        for operation in await stand.world.gateway.operations.claim(100):
            await stand.world.gateway.executor.run(operation)

    async with fire.restored(scheduled, half) as stand:
        assert stand.paid_out() == [300]
        assert await fire.put_out(stand) == 1
        await tend(stand.world)
        (run,) = await stand.world.gateway.payout_runs.find()
        assert (run.status, run.items, run.total_minor) == (PayoutRunStatus.WAITING, 2, 1200)
        assert await stand.is_sound()
        assert await stand.world.gateway.payout_runs.decide(run.run_id, "grace", is_approved=True) is Decision.DONE
        await tend(stand.world)
        assert stand.paid_out() == [300, 900]
        assert await stand.is_sound()


async def test_D11_G16_a_run_of_before_whose_items_were_paid_since_pays_none_again(fire: Fire) -> None:
    async def proposed(stand: Stand) -> None:
        await scheduled(stand)
        stand.town.clock.advance(DAY)
        await stand.world.gateway.upkeep.tend_once()

    async def paid_since(stand: Stand) -> None:
        (run,) = await stand.world.gateway.payout_runs.find(status=PayoutRunStatus.WAITING)
        await stand.world.gateway.payout_runs.decide(run.run_id, "grace", is_approved=True)
        await tend(stand.world)

    async with fire.restored(proposed, paid_since) as stand:
        assert await fire.put_out(stand) == 2
        assert await stand.is_sound()
        await fund(stand.world, HATTER.name, 2000)
        await paid_since(stand)
        await tend(stand.world)
        assert sorted(stand.paid_out()) == [300, 900]
        (run,) = await stand.world.gateway.payout_runs.find()
        assert run.status is PayoutRunStatus.FINISHED
        assert await stand.is_sound()


async def closed(world: World) -> UUID:
    (row,) = await world.store.pool.fetch(
        "SELECT * FROM begin_recovery($1, $2, $3, 'person ada')", world.clock.now(), uuid4(), world.clock.now()
    )
    found: UUID = row["recovery_id"]
    return found


async def test_G16_while_the_door_is_closed_no_run_is_planned_or_paid(store: Store, tmp_path: Path) -> None:
    town = Town()
    town.files = []  # type: ignore[attr-defined]
    stand = Stand(town, store, tmp_path)
    await scheduled(stand)
    stand.town.clock.advance(DAY)
    world = stand.world
    (planned,) = await world.gateway.payout_runs.plan()
    recovery_id = await closed(world)
    await tend(world)
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError):
        await world.gateway.payout_runs.propose(planned)
    assert await world.gateway.payout_runs.find() == []
    await store.pool.fetchval("SELECT finish_recovery($1, $2, 'ada', '{}')", world.clock.now(), recovery_id)
    run = await world.gateway.payout_runs.propose(planned)
    assert await world.gateway.payout_runs.decide(run.run_id, "grace", is_approved=True) is Decision.DONE
    recovery_id = await closed(world)
    await tend(world)
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError):
        await world.gateway.payout_runs.pay_items(10)
    assert stand.paid_out() == []
    await store.pool.fetchval("SELECT finish_recovery($1, $2, 'ada', '{}')", world.clock.now(), recovery_id)
    await tend(world)
    assert sorted(stand.paid_out()) == [300, 900]


async def test_G16_while_the_door_is_closed_the_api_pays_nobody_out(store: Store, simulator_url: str) -> None:
    async with run_gateway(store, simulator_url) as server:
        key = await server.make_key()
        place = "/v1/sellers/seller-1/payout_destination"
        assert (await server.ask("PUT", place, key, json={"currency": "EUR", "token": "dest_ok"})).status == 200
        (row,) = await store.pool.fetch(
            "SELECT * FROM begin_recovery($1, $2, $3, 'person ada')", server.clock.now(), uuid4(), server.clock.now()
        )
        body = {"seller_account": "seller-1", "currency": "EUR"}
        answer = await server.ask("POST", "/v1/payouts", key, json=body, headers={"Idempotency-Key": "out-1"})
        assert (answer.status, answer.body["code"], answer.headers["retry-after"]) == (503, "recovering", "60")
        await store.pool.fetchval("SELECT finish_recovery($1, $2, 'ada', '{}')", server.clock.now(), row["recovery_id"])
        answer = await server.ask("POST", "/v1/payouts", key, json=body, headers={"Idempotency-Key": "out-1"})
        assert (answer.status, answer.body["code"]) == (409, "payout_not_possible")


async def test_the_invariants_see_what_was_taken_from_pending_and_not_noted(fire: Fire) -> None:
    async with fire.restored(poor, settled_and_paid) as stand:
        await fire.put_out(stand)
        assert await stand.world.violations() == {}
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await stand.world.store.pool.execute("UPDATE adopted_payout SET ahead_minor = 0")
        for change in ("UPDATE adopted_payout SET ahead_minor = 0", "DELETE FROM adopted_payout"):
            await fire.as_owner(change)
            assert set(await stand.world.violations()) == {"payout_equals_its_transfers"}


async def test_the_replay_names_what_was_tampered_with_of_an_adopted_payout(fire: Fire) -> None:
    async with fire.restored(poor, settled_and_paid) as stand:
        await fire.put_out(stand)
        assert (await stand.ask(None)).verdict is PayoutVerdict.EXISTS
        assert await differences_of(stand.world.store) == []
        for table, column, value in (
            ("adopted_payout", "ahead_minor", "ahead_minor + 1"),
            ("adopted_payout", "adopted_by", "'somebody'"),
            ("adopted_payout", "recognised_at", "NULL"),
            ("payout", "request_digest", "''"),
            ("payout", "created_at", "created_at + interval '1 second'"),
        ):
            await fire.as_owner(f"CREATE TABLE kept AS SELECT * FROM {table}")
            await fire.as_owner(f"UPDATE {table} SET {column} = {value}")
            found = await differences_of(stand.world.store)
            assert [(each.table, each.column) for each in found] == [(table, column)]
            await fire.as_owner(f"DELETE FROM {table}; INSERT INTO {table} SELECT * FROM kept; DROP TABLE kept")
        assert await stand.is_sound()
