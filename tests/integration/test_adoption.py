"""What the PSP has charged and the books never had is taken over from the PSP's own word, and charged once for ever."""

import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest
from tests.integration.conftest import new_database
from tests.integration.outside import CALLER, SETTINGS, World, checkout
from tests.integration.test_reconciliation import Desk, kinds, lines, summed
from tests.simulation.life import Life
from tests.simulation.psp import PspLine

from coatcheck.explain import explain
from coatcheck.ids import PAYMENT, print_id
from coatcheck.payments import PaymentView, Verdict
from coatcheck.providers.protocol import Registry
from coatcheck.reconciliation.adoption import Adopted, candidate_of
from coatcheck.reconciliation.files import Source
from coatcheck.reconciliation.reconciler import Reconciler
from coatcheck.reconciliation.report import Report
from coatcheck.refunds import RefundVerdict
from coatcheck.states import Capture, OnFailure
from coatcheck.store import Store
from coatcheck.store.database import _open
from coatcheck.store.embedded import EmbeddedServer


@dataclass
class Amnesia:
    """A gateway that has charged at a PSP, and books of the same shop that know nothing of it."""

    before: Desk
    world: World
    directory: Path

    async def take(self, text: str, name: str = "file.csv") -> Report:
        """Bring a file of the PSP's to the books that know nothing."""
        return await replace_books(self.before, self.world, self.directory).take(text, name)

    async def correct(self, report: Report, policy: str = "adopt") -> int:
        gateway = self.world.gateway
        corrections = gateway.corrections
        corrections._unrecorded = policy
        return await corrections.correct(report.file_id)

    @property
    def charges(self) -> int:
        return self.before.psp.bank.charge_count


def replace_books(desk: Desk, world: World, directory: Path) -> Desk:
    other = object.__new__(Desk)
    other.world, other.psp, other._directory = world, desk.psp, directory
    other.reconciler = Reconciler(world.store, world.clock)
    return other


@pytest.fixture
async def forgetful(server: EmbeddedServer, template_made: list[str]) -> AsyncIterator[Store]:
    async with new_database(server, template_made) as url, _open(url, pool_size=8) as store:
        yield store


@pytest.fixture
def amnesia(store: Store, forgetful: Store, tmp_path: Path) -> Amnesia:
    before = Desk(store, tmp_path)
    line = PspLine(before.psp, Life(random.Random(2), None))
    world = World(forgetful, line, clock=before.world.clock)  # type: ignore[arg-type]
    return Amnesia(before, world, tmp_path)


async def story_of(world: World, view: PaymentView) -> list[str]:
    gateway = world.gateway
    from coatcheck.api.dead_letters import dead_letters_of  # noqa: PLC0415 - only stories need it

    told = await explain(
        world.store,
        gateway.operations,
        print_id(PAYMENT, view.payment_id),
        shop=None,
        mode=CALLER.mode,
        advise=dead_letters_of(gateway).advise,
        at=world.clock.now(),
    )
    return [moment.text for moment in told.moments]


async def test_H6_a_charge_that_only_the_psp_has_is_adopted_and_a_retry_charges_nothing(amnesia: Amnesia) -> None:
    request = checkout("c1", "o1")
    was = await amnesia.before.world.pay(request)
    (text,) = amnesia.before.close()
    report = await amnesia.take(text)
    assert kinds(report) == ["missing_here"]
    assert (await amnesia.world.balances())["suspense"] == -1000
    assert await amnesia.correct(report) == 1
    view = await amnesia.world.read(was.payment_id)
    assert (view.status, view.buyer_reference, [order.captured_minor for order in view.orders]) == (
        "SUCCESS",
        None,
        [1000],
    )
    kinds_told = await amnesia.world.store.pool.fetch("SELECT kind FROM event WHERE subject_id = $1", was.payment_id)
    assert {row["kind"] for row in kinds_told} == {"payment.adopted", "order.succeeded"}
    books = await amnesia.world.balances()
    assert books == {
        "psp_payouts_in_transit": 975,
        "platform_psp_fees": 25,
        "platform_commission": 100,
        "seller_pending": 900,
    }
    # A day and a half later the PSP has forgotten the key: sent again, this would be a second charge.
    amnesia.world.clock.advance(amnesia.world.provider.capabilities.idempotency_window * 1.5)
    accepted = await amnesia.world.accept(request)
    assert (accepted.verdict, accepted.operations) == (Verdict.SAME_CHECKOUT, ())
    again = await amnesia.world.pay(request, "another key")
    assert (again.payment_id, again.status, again.buyer_reference) == (was.payment_id, "SUCCESS", "buyer-1")
    assert amnesia.charges == 1
    assert await amnesia.world.violations() == {}
    assert await amnesia.correct(report) == 0
    assert any("taken over from the provider" in text for text in await story_of(amnesia.world, again))


async def test_H6_an_adopted_charge_has_its_line_and_is_not_missed_later(amnesia: Amnesia) -> None:
    await amnesia.before.world.pay(checkout("c1", "o1"))
    header, charge, *rest = lines(amnesia.before.close()[0])
    report = await amnesia.take("".join((header, charge, *rest)))
    assert await amnesia.correct(report) == 1
    assert await amnesia.world.count("settled_record") == 1
    later = await amnesia.take(summed(header, charge.replace("st_000001", "st_000002")), "later.csv")
    assert kinds(later) == ["duplicate_line"]
    again = await amnesia.take("".join((header, charge, *rest)).replace("\n", "\r\n"), "again.csv")
    assert (kinds(again), again.matched) == ([], 1)  # the batch is issued again, and everything of it is known by now
    assert await amnesia.world.violations() == {}


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({"amount_minor": 1001, "commission_minor": 100}, Verdict.CHECKOUT_CONFLICT),
        ({"seller_account": "somebody"}, Verdict.CHECKOUT_CONFLICT),
        ({"commission_minor": 99}, Verdict.CHECKOUT_CONFLICT),
        ({"currency": "USD"}, Verdict.CHECKOUT_CONFLICT),
        ({}, Verdict.SAME_CHECKOUT),
    ],
)
async def test_H6_an_adopted_payment_is_only_the_checkout_that_was_charged(
    amnesia: Amnesia, change: dict[str, Any], verdict: Verdict
) -> None:
    request = checkout("c1", "o1")
    await amnesia.before.world.pay(request)
    assert await amnesia.correct(await amnesia.take(amnesia.before.close()[0])) == 1
    order = msgspec.structs.replace(request.orders[0], **change)
    accepted = await amnesia.world.accept(msgspec.structs.replace(request, orders=(order,)))
    assert accepted.verdict is verdict
    assert accepted.operations == ()
    assert amnesia.charges == 1


async def test_H6_orders_that_no_psp_has_are_charged_by_the_shop_s_retry(amnesia: Amnesia) -> None:
    await amnesia.before.world.pay(checkout("c1", "o1"))
    assert await amnesia.correct(await amnesia.take(amnesia.before.close()[0])) == 1
    view = await amnesia.world.pay(checkout("c1", "o1", "o2"))
    assert [(order.payment_order_id, order.status.value) for order in view.orders] == [
        ("o1", "SUCCESS"),
        ("o2", "SUCCESS"),
    ]
    assert amnesia.charges == 2
    assert await amnesia.world.violations() == {}
    assert (await amnesia.world.accept(checkout("c1", "o1"), "k9")).verdict is Verdict.CHECKOUT_CONFLICT


async def test_H6_what_policy_refunds_goes_back_once(amnesia: Amnesia) -> None:
    await amnesia.before.world.pay(checkout("c1", "o1"))
    report = await amnesia.take(amnesia.before.close()[0])
    assert await amnesia.correct(report, "refund") == 1
    await amnesia.world.recover()
    assert await amnesia.correct(report, "refund") == 0
    await amnesia.world.recover()
    (row,) = await amnesia.world.store.pool.fetch("SELECT status, amount_minor FROM refund")
    assert tuple(row) == ("SUCCEEDED", 1000)
    assert amnesia.before.psp.bank.action_count == 1
    assert await amnesia.world.violations() == {}


async def test_H6_what_policy_leaves_to_people_stays_in_suspense(amnesia: Amnesia) -> None:
    await amnesia.before.world.pay(checkout("c1", "o1"))
    report = await amnesia.take(amnesia.before.close()[0])
    assert await amnesia.correct(report, "queue") == 0
    assert (await amnesia.world.balances())["suspense"] == -1000
    assert await amnesia.world.count("payment") == 0


@pytest.mark.parametrize(
    ("rule", "policy", "expected"),
    [
        (None, "adopt", ([], 0, 0)),
        ("correct", "refund", ([], 0, 1)),
        ("queue", "adopt", (["missing_here"], 0, 0)),
        ("escalate", "adopt", (["missing_here"], 1, 0)),
        (None, "queue", (["missing_here"], 1, 0)),  # what could not be corrected must not wait
    ],
)
async def test_H6_the_rule_says_whether_a_forgotten_charge_is_taken_over(
    amnesia: Amnesia, rule: str | None, policy: str, expected: tuple[list[str], int, int]
) -> None:
    """What is left open, how many are called for, and how many refunds there are."""
    before = amnesia.before
    await before.world.pay(checkout("c1", "o1"))
    path = amnesia.directory / "file.csv"
    path.write_text(before.close()[0], "utf-8")
    rules = {} if rule is None else {"missing_here": rule}
    settings = replace(SETTINGS, break_rules=rules, unrecorded_charge=policy)  # type: ignore[arg-type]
    known = amnesia.world
    world = World(known.store, known.provider, clock=known.clock, settings=settings)
    source = Source(path=path, name=path.name, shop_id=CALLER.shop_id, mode=CALLER.mode, brought_by="ada")
    report = await world.gateway.arrivals.take(source)
    left = [each.kind for each in report.mismatches if each.closed_at is None]
    assert (left, await world.count("escalated_break"), await world.count("refund")) == expected
    assert await world.count("payment") == 1 - len(left)
    assert await world.violations() == {}


async def test_H6_what_says_nothing_of_us_stays_in_suspense(amnesia: Amnesia) -> None:
    await amnesia.before.world.pay(checkout("c1", "o1"))
    header, charge, *_ = lines(amnesia.before.close()[0])
    foreign = charge.replace("ch_0", "ch_9").replace(",op_", ",their_")
    report = await amnesia.take(summed(header, foreign))
    assert await amnesia.correct(report) == 0
    assert kinds(report) == ["missing_here"]
    assert (await amnesia.world.balances())["suspense"] == -1000


async def test_H6_captures_and_refunds_are_adopted_with_the_charges_they_belong_to(amnesia: Amnesia) -> None:
    old = amnesia.before.world
    held = await old.pay(checkout("c1", "o1", capture=Capture.MANUAL))
    await old.capture(held, o1=700)
    await old.refund("o1", 300, key="r1")
    report = await amnesia.take(amnesia.before.close()[0])
    assert kinds(report) == ["missing_here", "missing_here"]
    assert await amnesia.correct(report) == 2
    (order,) = (await amnesia.world.read(held.payment_id)).orders
    assert (order.status, order.authorized_minor, order.captured_minor, order.refunded_minor) == (
        "SUCCESS",
        1000,
        700,
        300,
    )
    assert await amnesia.world.violations() == {}
    acts = amnesia.before.psp.bank.action_count
    # The shop asks again for all of it, under its own keys.
    view = await amnesia.world.pay(checkout("c1", "o1", capture=Capture.MANUAL))
    assert await amnesia.world.capture(view, o1=700) == ["exists"]
    again = await amnesia.world.refund("o1", 300, key="r1")
    assert again.verdict is RefundVerdict.EXISTS
    assert (await amnesia.world.refund("o1", 299, key="r1")).verdict is RefundVerdict.KEY_REUSED
    assert (amnesia.charges, amnesia.before.psp.bank.action_count) == (1, acts)
    assert await amnesia.world.violations() == {}


async def test_H6_a_retried_all_or_nothing_checkout_goes_on_where_it_was(amnesia: Amnesia) -> None:
    old = amnesia.before.world
    joint = checkout("c1", "o1", "o2", on_failure=OnFailure.ALL_OR_NOTHING)
    await old.accept(joint)
    await old.quiet()
    registry = amnesia.world.provider
    assert isinstance(registry, Registry)
    accepted = await old.gateway.operations.stand(
        [row["operation_id"] for row in await old.store.pool.fetch("SELECT operation_id FROM operation")]
    )
    first = min(accepted.values(), key=lambda each: each.operation.intent.reference).operation
    await old.gateway.executor.run(first)  # one is authorized at the PSP, the other was never sent
    page = await registry.list_since(amnesia.world.clock.now())
    said = await amnesia.world.gateway.adoption.adopt_charges("simulator", page.found, by="ada", why="a test")
    assert set(said.values()) == {Adopted.ADOPTED}
    view = await amnesia.world.pay(joint)
    for _ in range(5):
        await amnesia.world.recover()
        await amnesia.world.quiet()
    view = await amnesia.world.read(view.payment_id)
    assert {order.status.value for order in view.orders} == {"SUCCESS"}
    assert amnesia.charges == 2
    assert await amnesia.world.violations() == {}


async def test_H6_two_adoptions_and_a_retry_at_once_make_one_payment(amnesia: Amnesia) -> None:
    import asyncio  # noqa: PLC0415

    request = checkout("c1", *[f"o{place}" for place in range(5)])
    await amnesia.before.world.pay(request)
    registry = amnesia.world.provider
    assert isinstance(registry, Registry)
    page = await registry.list_since(amnesia.world.clock.now())
    adoption = amnesia.world.gateway.adoption
    done = await asyncio.gather(
        adoption.adopt_charges("simulator", page.found, by="ada", why="a test"),
        adoption.adopt_charges("simulator", page.found[::-1], by="bob", why="a test"),
        amnesia.world.pay(request),
    )
    assert all(word.is_here for said in done[:2] for word in said.values())
    await amnesia.world.recover()
    view = await amnesia.world.read(done[2].payment_id)
    assert (view.status, amnesia.charges) == ("SUCCESS", 5)
    assert await amnesia.world.violations() == {}
    assert (await amnesia.world.balances())["seller_pending"] == 4500


async def test_H6_only_what_carries_the_ticket_of_its_order_is_ours(amnesia: Amnesia) -> None:
    await amnesia.before.world.pay(checkout("c1", "o1"))
    registry = amnesia.world.provider
    assert isinstance(registry, Registry)
    (found,) = (await registry.list_since(amnesia.world.clock.now())).found
    assert candidate_of(found) is not None
    assert found.origin is not None
    for change in (
        {"reference": None},
        {"origin": None},
        {"is_live": None},
        {"is_live": True},
        {"origin": msgspec.structs.replace(found.origin, payment_order_id="o2")},
        {"origin": msgspec.structs.replace(found.origin, shop_id=CALLER.key_id)},
        {"origin": msgspec.structs.replace(found.origin, commission_minor=1001)},
    ):
        assert candidate_of(msgspec.structs.replace(found, **change)) is None, change


async def test_I1_the_application_cannot_write_what_was_adopted_by_itself(
    forgetful: Store,
) -> None:
    for table in ("adopted_payment", "recovery", "break_resolution", "settlement_reach"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await forgetful.pool.execute(f"DELETE FROM {table}")


async def test_a_charge_s_words_for_us_survive_the_wire(amnesia: Amnesia) -> None:
    """What we write on a charge is read back as it was, however long its names are."""
    name = "o" + "x" * 120
    await amnesia.before.world.pay(checkout("c" * 128, name))
    registry = amnesia.world.provider
    assert isinstance(registry, Registry)
    (found,) = (await registry.list_since(amnesia.world.clock.now())).found
    assert found.origin is not None
    assert (found.origin.payment_order_id, found.origin.checkout_id) == (name, "c" * 128)
    assert SETTINGS.unrecorded_charge == "adopt"
