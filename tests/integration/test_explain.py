"""A payment's story in plain sentences: what happened, where it stands and why, what comes next."""

import asyncio
import logging
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import msgspec
import pytest
import structlog
from tests.integration.outside import (
    CALLER,
    SETTINGS,
    ScriptedProvider,
    World,
    approved,
    checkout,
    declined,
    not_found,
    not_sent,
    pending,
    unknown,
)

from coatcheck import cli
from coatcheck.api.dead_letters import dead_letters_of
from coatcheck.audit.replay import replay
from coatcheck.dead_letters import Finding, Word, person_named
from coatcheck.errors import CoatcheckError, ErrorCode
from coatcheck.explain import Story, explain
from coatcheck.ids import OPERATION, ORDER, PAYMENT, REFUND, operation_id_of, order_id_of, print_id
from coatcheck.operations import UndecidedQuery
from coatcheck.shops import create_key
from coatcheck.states import Capture, Mode, OnFailure, OperationKind
from coatcheck.store import Store
from coatcheck.wiring import make_watcher

IMPATIENT = replace(SETTINGS, retry_budget_attempts=1)
O1 = order_id_of(CALLER.shop_id, CALLER.mode, "o1")
CHARGE_KEY = print_id(OPERATION, operation_id_of(O1, "charge"))


async def story_of(world: World, named: str, shop: str | None = None) -> Story:
    return await explain(
        world.store,
        world.gateway.operations,
        named,
        shop=shop,
        mode=Mode.TEST,
        advise=dead_letters_of(world.gateway).advise,
        at=world.clock.now(),
    )


def sentences(story: Story) -> list[str]:
    return [moment.text for moment in story.moments]


async def test_a_payment_that_took_two_attempts(store: Store) -> None:
    world = World(store)
    world.provider.charges = [unknown]
    view = await world.pay(checkout("c1", "o1"))
    await world.recover()
    story = await story_of(world, print_id(PAYMENT, view.payment_id))
    assert story.title.endswith("checkout c1, test mode: SUCCESS")
    told = sentences(story)
    assert told[0] == (
        "Checkout c1 was accepted with 1 order(s); the risk rules said ALLOW. Order o1: 10.00 EUR for seller-o1, to go "
        f"to simulator under the key {CHARGE_KEY}."
    )
    assert told[1].startswith(
        f"Attempt 1 under the key {CHARGE_KEY} decided nothing about the charge of order o1: UNKNOWN: read timeout. "
        "It goes on at 2026-03-01 12:00:00"
    )
    assert re.fullmatch(r"A gateway \(.{36}\) took the charge of order o1 over as attempt 2\.", told[2])
    assert told[3] == f"Attempt 2: the charge of order o1 is sent again to simulator under the key {CHARGE_KEY}."
    assert told[4].startswith("Attempt 2: simulator did the charge of order o1 (its id: ch_op_")
    assert [moment.at for moment in story.moments] == sorted(moment.at for moment in story.moments)
    assert story.standing == ["Order o1 is SUCCESS: 10.00 EUR of 10.00 EUR was taken. Nothing more is to come."]


async def test_A1_A5_each_step_of_finding_out_is_told_with_the_way_its_answer_came(store: Store) -> None:
    world = World(store, ScriptedProvider(look_up_before_resend=True))
    world.provider.charges = [unknown, unknown]
    world.provider.look_ups = [not_found, not_found, approved]
    view = await world.pay(checkout("c1", "o1"))
    for _ in range(3):
        await world.recover()
    assert world.provider.asked == ["charge", "look_up", "look_up", "charge", "look_up"]
    told = sentences(await story_of(world, print_id(PAYMENT, view.payment_id)))
    nothing = f"under the key {CHARGE_KEY} decided nothing about the charge of order o1: "
    found = "NOT_FOUND: not found at the provider (nothing under our reference)"
    said = f"a look-up said {found}"
    beginnings = [
        "Checkout c1 was accepted",
        f"Attempt 1 {nothing}UNKNOWN: read timeout. It goes on at ",
        "A gateway (",
        f"Attempt 2 (a look-up) {nothing}{found}. It goes on at ",
        "A gateway (",
        f"Attempt 3: the charge of order o1 is sent again to simulator under the key {CHARGE_KEY}, for {said}.",
        f"Attempt 3 {nothing}UNKNOWN: read timeout. It goes on at ",
        "A gateway (",
        f"Attempt 4 (a look-up): simulator did the charge of order o1 (its id: ch_{CHARGE_KEY}). The order is SUCCESS",
    ]
    assert [told[place].startswith(begins) for place, begins in enumerate(beginnings)] == [True] * len(told)
    assert (await replay(store)).differences == 0


async def test_a_sending_that_was_held_back_tells_the_look_up_that_would_have_allowed_it(store: Store) -> None:
    settings = replace(SETTINGS, breaker_threshold=1, breaker_pause_s=3600)
    world = World(store, ScriptedProvider(look_up_before_resend=True), settings=settings)
    world.provider.charges = [unknown]
    view = await world.pay(checkout("c1", "o1"))
    await world.recover()
    await world.recover()
    told = sentences(await story_of(world, print_id(PAYMENT, view.payment_id)))
    assert told[-1].startswith(f"Attempt 3 (a look-up) under the key {CHARGE_KEY} decided nothing")
    assert ": NOT_FOUND: not found at the provider (nothing under our reference). It was not sent again: " in told[-1]


async def test_C1_a_webhook_s_word_is_told_as_a_webhook_s(store: Store) -> None:
    world = World(store)
    world.provider.charges = [unknown]
    view = await world.pay(checkout("c1", "o1"))
    for held in await world.gateway.operations.claim_named([operation_id_of(O1, "charge")]):
        await world.gateway.executor.settle(held, approved(held.intent))
    told = sentences(await story_of(world, print_id(PAYMENT, view.payment_id)))
    assert told[-1].startswith("Attempt 2 (a webhook): simulator did the charge of order o1")
    assert (await replay(store)).differences == 0


async def test_a_charge_approved_at_once_says_nothing_of_the_way_its_answer_came(store: Store) -> None:
    """The path that everybody takes: no event and no field more than the decision needs."""
    world = World(store)
    await world.pay(checkout("c1", "o1"))
    rows = await store.pool.fetch(
        "SELECT kind, body FROM event WHERE kind NOT IN ('account.opened', 'payment.accepted')"
    )
    assert [row["kind"] for row in rows] == ["order.succeeded"]
    assert list(msgspec.json.decode(rows[0]["body"])) == [
        *("operation_id", "order_id", "attempt", "outcome", "status", "provider_reference", "decline_code", "transfers")
    ]


async def test_A9_a_late_authorization_that_policy_gave_back(store: Store) -> None:
    world = World(store, settings=replace(SETTINGS, late_success="refund"))
    world.provider.acts[OperationKind.AUTHORIZE] = [declined]
    view = await world.pay(checkout("c1", "o1", capture=Capture.MANUAL))
    (held,) = await world.gateway.operations.reopen([operation_id_of(O1, "authorize")], "the event charge.authorized")
    await world.gateway.executor.settle(held, approved(held.intent))
    await world.recover()
    told = sentences(await story_of(world, print_id(PAYMENT, view.payment_id)))
    assert "simulator reserved the money of order o1 until " in told[3]
    assert "although the order had been given up" in told[3]
    assert told[4] == (
        "What was reserved is given back by policy, for the authorization succeeded after the order had been given up "
        f"(under the key late-success {O1})."
    )
    assert told[-1].endswith("order o1 is CANCELLED by the void of order o1: what was reserved is given back.")


async def test_what_comes_next_and_when(store: Store) -> None:
    world = World(store)
    accepted = await world.accept(checkout("c1", "o1"))
    named = print_id(PAYMENT, accepted.payment_id)
    (_, working) = (await story_of(world, named)).standing
    assert working.endswith(
        "A gateway is working on it now; if that one dies, another takes over at 2026-03-01 12:00:30 UTC."
    )
    world.provider.charges = [unknown]
    await world.gateway.executor.start(accepted.operations)
    (order, waiting) = (await story_of(world, named)).standing
    assert order == "Order o1 is EXECUTING: what became of 10.00 EUR is not known yet."
    assert (
        "is OPEN after attempt 1: read timeout. Next: it is sent under the same key, at 2026-03-01 12:00:00" in waiting
    )
    world.clock.advance(timedelta(days=2))
    (_, late) = (await story_of(world, named)).standing
    assert "Next: it is looked up at the provider, which moves no money, by the next gateway that looks" in late


async def test_a_dead_letter_s_story_ends_with_what_a_person_may_do(store: Store) -> None:
    world = World(store, settings=IMPATIENT)
    world.provider.charges = [unknown]
    view = await world.pay(checkout("c1", "o1"))
    await make_watcher(world.gateway).watch_once()
    desk = dead_letters_of(world.gateway)
    operation_id = operation_id_of(O1, "charge")
    story = await story_of(world, CHARGE_KEY)
    assert story.standing[1].startswith(
        f"The charge of order o1 (key {CHARGE_KEY}) is UNRESOLVED after attempt 1: read timeout. It waits for a "
        "person. Sending it again under the same key is safe until 2026-03-02 11:55:00 UTC."
    )
    finding = Finding(word=Word.NOT_CHARGED, reason="the provider never had it")
    proposal = await desk.propose(operation_id, UndecidedQuery(), finding, person_named("Ada"))
    world.clock.advance(timedelta(seconds=1))
    await desk.confirm(operation_id, proposal.proposal_id, UndecidedQuery(), person_named("Bob"))
    told = sentences(await story_of(world, print_id(PAYMENT, view.payment_id)))
    assert "An alert was opened: operation_unresolved." in told
    assert (
        "person ada says of the charge of order o1: not charged (the provider never had it). A second person must "
        "confirm it."
    ) in told
    assert "person bob confirmed what person ada had said of the charge of order o1: not charged " in " ".join(told)
    assert (
        "Attempt 2 (by hand): the charge of order o1 was declined: resolved_by_hand. The order is FAILED; no money "
        "moved."
    ) in told


async def test_every_way_to_name_a_payment(store: Store) -> None:
    world = World(store)
    world.provider.charges = [declined]
    view = await world.pay(checkout("c1", "o1", "o2"))
    await world.refund("o2" if view.orders[1].status == "SUCCESS" else "o1", 400)
    refund_id = await store.pool.fetchval("SELECT refund_id FROM refund")
    whole = await story_of(world, print_id(PAYMENT, view.payment_id))
    assert len(whole.standing) == 2
    one = await story_of(world, "o1", "hats")
    assert [one, one, one] == [
        await story_of(world, CHARGE_KEY),
        await story_of(world, print_id(ORDER, O1)),
        await story_of(world, "o1", "hats"),
    ]
    assert len(one.standing) == 1
    refund = await story_of(world, print_id(REFUND, refund_id))
    told = " ".join(sentences(refund))
    assert "A refund of 4.00 EUR of order " in told
    assert "its key: r1) and reserved" in told
    assert "4.00 EUR of it has gone back" in refund.standing[0]


@pytest.mark.parametrize(
    "named", ["pay_" + "a" * 26, "op_" + "a" * 26, "rf_" + "a" * 26, "po_" + "a" * 26, "o1", "pay_x"]
)
async def test_what_is_not_there_says_how_to_name_it(store: Store, named: str) -> None:
    with pytest.raises(CoatcheckError) as caught:
        await story_of(World(store), named)
    assert caught.value.error is ErrorCode.NOT_FOUND
    assert "--shop" in caught.value.detail


async def test_authorize_capture_and_refund_are_told(store: Store) -> None:
    world = World(store)
    view = await world.pay(checkout("c1", "o1", capture=Capture.MANUAL))
    named = print_id(PAYMENT, view.payment_id)
    story = await story_of(world, named)
    assert (
        "10.00 EUR is reserved until 2026-03-08 12:00:00 UTC. It waits for a capture or a cancel." in story.standing[0]
    )
    world.clock.advance(timedelta(seconds=1))
    await world.capture(view, key="cap", is_final=False, o1=400)
    world.clock.advance(timedelta(seconds=1))
    world.provider.acts[OperationKind.CAPTURE] = [pending]
    await world.capture(view, key="rest")
    story = await story_of(world, named)
    told = sentences(story)
    assert "The shop asked to capture 4.00 EUR of order o1 (its key: cap)." in told
    assert (
        "The shop asked to capture all that is left of order o1 (its key: rest); nothing is captured after it." in told
    )
    assert any(line.startswith("The capture of order o1 (key op_") and "is PENDING" in line for line in story.standing)


async def test_an_all_or_nothing_checkout_says_what_was_decided(store: Store) -> None:
    world = World(store)
    world.provider.acts[OperationKind.AUTHORIZE] = [declined]
    view = await world.pay(checkout("c1", "o1", "o2", on_failure=OnFailure.ALL_OR_NOTHING))
    await world.quiet()
    told = sentences(await story_of(world, print_id(PAYMENT, view.payment_id)))
    assert "All or nothing: the orders go together, and the decision is to void." in told
    assert any("by the void of order" in sentence for sentence in told)


@pytest.fixture
def logs_as_before() -> Iterator[None]:
    """A command takes over the logs of its process."""
    root = logging.getLogger()
    before = root.handlers[:], root.level, sys.excepthook
    yield
    structlog.reset_defaults()
    logging.captureWarnings(False)
    root.handlers[:], root.level, sys.excepthook = before


@pytest.mark.usefixtures("logs_as_before")
async def test_the_command_line_lists_retries_resolves_and_explains(
    store: Store, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(store, settings=IMPATIENT)
    world.provider.charges = [not_sent, unknown]
    await create_key(store, world.clock, "hats", Mode.TEST)
    await world.pay(checkout("c1", "o1"), "k1")
    await world.pay(checkout("c2", "o2"), "k2")
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("COATCHECK_DIGEST_SECRET", "x" * 40)

    async def command(*words: str) -> tuple[int, str]:
        status = await asyncio.to_thread(cli.run, words)  # a command has a loop of its own, as at a terminal
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    status, out = await command("dead-letters", "list")
    assert status == 0, out
    assert "connection refused" in out
    second = print_id(OPERATION, operation_id_of(order_id_of(CALLER.shop_id, CALLER.mode, "o2"), "charge"))
    status, out = await command("dead-letters", "show", second)
    assert "cause      read timeout, after 1 attempts\ntries      1 of 12 of the retry budget\n" in out
    status, out = await command("dead-letters", "replay", "--by", "ada", "--dry-run")
    assert "2 would be asked about; nobody was." in out
    status, out = await command("dead-letters", "retry", CHARGE_KEY, "--by", "ada")
    assert "is due now: the next gateway that looks will send it under the same key" in out
    status, out = await command(
        *("dead-letters", "resolve", second, "charged", "--provider-reference", "ch_9"),
        *("--reason", "in the dashboard", "--by", "ada"),
    )
    assert status == 0
    proposal = re.search(r"prop_\w+", out)
    assert proposal is not None
    status, out = await command("dead-letters", "confirm", second, proposal[0], "--by", "Ada")
    assert (status, "A second person must confirm" in out) == (2, True)
    status, out = await command("dead-letters", "confirm", second, proposal[0], "--by", "bob")
    assert (status, out.startswith("Booked as APPROVED.")) == (0, True)
    status, out = await command("explain", "o2", "--shop", "hats")
    assert "person bob confirmed what person ada had said of the charge of order o2: charged" in out
    assert "Order o2 is SUCCESS" in out
    assert await command("alerts") == (0, "There is nothing to look at.\n")
    await make_watcher(world.gateway).watch_once()
    status, out = await command("alerts")
    assert (status, "docs/runbooks/operation_unresolved.md" in out) == (1, True)
    status, out = await command("alerts", "acknowledge", print_id(ORDER, O1), "--by", "ada", "--reason", "seen")
    assert (status, "no charged_twice alert" in out) == (2, True)
    assert await world.violations() == {}
