"""What a person may do with work that waits for one, and what nobody may do alone."""

import asyncio
import re
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import asyncpg
import msgspec
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
    not_found,
    not_sent,
    unknown,
)

from coatcheck import cli
from coatcheck.api.dead_letters import dead_letters_of
from coatcheck.dead_letters import (
    RESOLVED_BY_HAND,
    DeadLetter,
    DeadLetters,
    Finding,
    SafeAction,
    Word,
    person_named,
)
from coatcheck.errors import CoatcheckError, ErrorCode
from coatcheck.executor import Step
from coatcheck.ids import derive_id
from coatcheck.operations import UndecidedQuery
from coatcheck.providers.outcome import Outcome, OutcomeKind
from coatcheck.providers.protocol import Intent
from coatcheck.states import Capture, Mode, OperationKind
from coatcheck.store import Store

ALL = UndecidedQuery()
ADA, BOB = person_named("Ada"), person_named("Bob")
CHARGED = Finding(word=Word.CHARGED, reason="seen in the dashboard", provider_reference="ch_seen")
NOT_CHARGED = Finding(word=Word.NOT_CHARGED, reason="the provider says it never began")
DONE = Finding(word=Word.DONE, reason="seen in the dashboard", provider_reference="re_seen")
NOT_DONE = Finding(word=Word.NOT_DONE, reason="the provider refused it by telephone")
IMPATIENT = replace(SETTINGS, retry_budget_attempts=1)  # a silence is a dead letter at once


def about_another(intent: Intent) -> Outcome:
    return msgspec.structs.replace(approved(intent), amount_minor=999)


def desk(world: World) -> DeadLetters:
    return dead_letters_of(world.gateway)


async def unresolved(store: Store, *orders: str, provider: ScriptedProvider | None = None) -> World:
    """A payment whose charges were sent and got no answer."""
    world = World(store, provider, settings=IMPATIENT)
    world.provider.charges = [unknown] * max(len(orders), 1)
    await world.pay(checkout("c1", *orders))
    return world


async def the_letter(world: World) -> DeadLetter:
    (letter,) = await desk(world).find(ALL)
    return letter


def id_of(letter: DeadLetter) -> UUID:
    return letter.operation.intent.operation_id


async def refused(asking: object) -> CoatcheckError:
    with pytest.raises(CoatcheckError) as caught:
        await asking  # type: ignore[misc]
    return caught.value


async def standing(world: World) -> tuple[str, str]:
    row = await world.store.pool.fetchrow(
        "SELECT o.status, c.status FROM payment_order o JOIN operation c USING (order_id) ORDER BY c.created_at DESC"
    )
    assert row is not None
    return row[0], row[1]


async def test_F3_a_dead_letter_says_why_and_what_is_safe(store: Store) -> None:
    world = await unresolved(store)
    world.clock.advance(timedelta(hours=3))
    letter = await the_letter(world)
    assert (letter.operation.cause, letter.operation.attempt, letter.is_retrying) == ("read timeout", 1, False)
    advice = letter.advice
    assert (advice.action, advice.step) == (SafeAction.SEND_AGAIN, Step.SEND)
    assert (advice.age, advice.window) == (timedelta(hours=3), timedelta(hours=24))
    assert advice.safe_until == START + timedelta(hours=23, minutes=55)
    evidence = await desk(world).evidence(letter)
    assert [each.kind for each in evidence] == ["operation.unresolved"]
    assert evidence[0].body["cause"] == "read timeout"


async def test_the_list_is_oldest_first_page_by_page_and_of_one_shop_and_mode(store: Store) -> None:
    world = World(store, settings=IMPATIENT)
    world.provider.charges = [unknown] * 3
    for number in range(3):
        await world.pay(checkout(f"c{number}"), f"k{number}")
        world.clock.advance(timedelta(seconds=1))
    found = await desk(world).find(ALL, limit=2)
    assert [letter.payment_order_id for letter in found] == ["c0-o1", "c1-o1"]
    last = found[-1]
    rest = await desk(world).find(ALL, after=(last.created_at, last.operation.intent.operation_id), limit=2)
    assert [letter.payment_order_id for letter in rest] == ["c2-o1"]
    assert len(await desk(world).find(UndecidedQuery(shop_id=CALLER.shop_id, mode=Mode.TEST))) == 3
    assert await desk(world).find(UndecidedQuery(shop_id=CALLER.shop_id, mode=Mode.LIVE)) == []
    assert await desk(world).find(UndecidedQuery(shop_id=derive_id("shop", "shoes"), mode=Mode.TEST)) == []


async def test_only_what_waits_for_a_person_is_a_dead_letter(store: Store) -> None:
    world = World(store)
    world.provider.charges = [unknown, declined, approved]
    await world.pay(checkout("c1", "o1", "o2", "o3"))
    assert await desk(world).find(ALL) == []
    assert await world.recover(timedelta(0)) == []


async def test_F4_a_retry_outside_the_window_only_looks_up(store: Store) -> None:
    world = await unresolved(store)
    world.clock.advance(timedelta(days=3))
    letter = await the_letter(world)
    assert letter.advice.step is Step.LOOK_UP
    assert await desk(world).retry([letter], ADA) == [id_of(letter)]
    assert (await the_letter(world)).is_retrying
    await world.recover(timedelta(0))
    assert world.provider.asked == ["charge", "look_up"]
    letter = await the_letter(world)
    assert (letter.advice.action, letter.is_retrying) == (SafeAction.ASK_PROVIDER, False)
    assert await standing(world) == ("EXECUTING", "UNRESOLVED")
    assert await world.violations() == {}


async def test_A3_a_retry_inside_the_window_sends_the_same_key_and_settles_it(store: Store) -> None:
    world = await unresolved(store)
    await desk(world).retry([await the_letter(world)], ADA)
    await world.recover(timedelta(0))
    assert [intent.reference for _, intent in world.provider.calls] == [world.provider.calls[0][1].reference] * 2
    assert await standing(world) == ("SUCCESS", "APPROVED")
    assert await desk(world).find(ALL) == []
    body = await store.pool.fetchval("SELECT body ->> 'by' FROM event WHERE kind = 'dead_letter.retried'")
    assert body == "person ada"


async def test_F4_a_retry_pressed_many_times_is_one_attempt(store: Store) -> None:
    world = await unresolved(store)
    letter = await the_letter(world)
    retried = await asyncio.gather(*[desk(world).retry([letter], ADA) for _ in range(8)])
    assert sorted(map(len, retried)) == [0] * 7 + [1]
    await world.recover(timedelta(0))
    assert world.provider.asked == ["charge", "charge"]


async def test_what_was_never_sent_is_safe_to_send_at_any_age(store: Store) -> None:
    world = World(store, settings=IMPATIENT)
    world.provider.charges = [not_sent]
    await world.pay(checkout())
    world.clock.advance(timedelta(days=30))
    letter = await the_letter(world)
    assert (letter.advice.action, letter.advice.step, letter.advice.age) == (SafeAction.SEND, Step.SEND, None)
    await desk(world).retry([letter], ADA)
    await world.recover(timedelta(0))
    assert await standing(world) == ("SUCCESS", "APPROVED")


async def test_A15_an_answer_about_something_else_is_to_be_compared_first(store: Store) -> None:
    world = World(store)
    world.provider.charges = [about_another]
    await world.pay(checkout())
    letter = await the_letter(world)
    assert letter.advice.action is SafeAction.COMPARE
    assert letter.operation.intent.reference in letter.advice.text


async def test_F4_a_dry_run_says_what_would_be_asked_and_how_and_asks_nobody(store: Store) -> None:
    world = World(store, settings=IMPATIENT)
    world.provider.charges = [unknown, not_sent, unknown]
    await world.pay(checkout("c0"), "k0")
    world.clock.advance(timedelta(days=2))
    await world.pay(checkout("c1"), "k1")
    await world.pay(checkout("c2"), "k2")
    replay = await desk(world).replay(ALL, ADA, most=100, dry_run=True)
    would = {letter.payment_order_id: letter.advice.step for letter in replay.letters}
    assert would == {"c0-o1": Step.LOOK_UP, "c1-o1": Step.SEND, "c2-o1": Step.SEND}
    assert await world.recover(timedelta(0)) == []
    assert world.provider.asked == ["charge"] * 3
    assert await world.count("event", "kind = 'dead_letter.retried'") == 0


async def test_F4_a_replay_takes_the_oldest_first_at_a_pace_and_no_more_than_asked(store: Store) -> None:
    world = World(store, settings=IMPATIENT)
    world.provider.charges = [unknown] * 4
    for number in range(4):
        await world.pay(checkout(f"c{number}"), f"k{number}")
        world.clock.advance(timedelta(seconds=1))
    replay = await desk(world).replay(ALL, ADA, most=3, dry_run=False)
    assert [letter.payment_order_id for letter in replay.letters] == ["c0-o1", "c1-o1", "c2-o1"]
    assert len(await world.recover(timedelta(0))) == 1
    assert len(await world.recover(timedelta(milliseconds=100))) == 1
    rest = await desk(world).replay(ALL, ADA, most=3, dry_run=False)
    assert [letter.payment_order_id for letter in rest.letters] == ["c3-o1"]  # the third is due already
    error = await refused(desk(world).replay(ALL, ADA, most=101, dry_run=False))
    assert error.error is ErrorCode.INVALID_REQUEST


async def many(store: Store, count: int, *, replay_alone_most: int) -> World:
    """So many dead letters, each of a payment of its own."""
    world = World(store, settings=replace(IMPATIENT, replay_alone_most=replay_alone_most))
    world.provider.charges = [unknown] * count
    for number in range(count):
        await world.pay(checkout(f"c{number}"), f"k{number}")
        world.clock.advance(timedelta(seconds=1))
    return world


async def test_F4_more_than_one_person_may_retry_wait_for_a_second_one(store: Store) -> None:
    world = await many(store, 3, replay_alone_most=2)
    dry = await desk(world).replay(ALL, ADA, most=3, dry_run=True)
    assert (dry.takes_two, dry.proposal, len(dry.letters)) == (True, None, 3)
    asked = await desk(world).replay(ALL, ADA, most=3, dry_run=False)
    assert (asked.takes_two, len(asked.letters)) == (True, 3)
    assert asked.proposal is not None
    assert await world.recover(timedelta(seconds=1)) == []
    assert await world.count("event", "kind = 'dead_letter.retried'") == 0
    world.clock.advance(timedelta(seconds=1))
    for name in ("Ada", " ADA"):
        error = await refused(desk(world).confirm_replay(asked.proposal.replay_id, ALL, person_named(name)))
        assert (error.error, "second person" in error.detail) == (ErrorCode.RESOLUTION_NOT_POSSIBLE, True)
    done = await desk(world).confirm_replay(asked.proposal.replay_id, ALL, BOB)
    assert [letter.payment_order_id for letter in done.letters] == ["c0-o1", "c1-o1", "c2-o1"]
    assert len(await world.recover(timedelta(seconds=1))) == 3
    assert await desk(world).find(ALL) == []
    rows = await store.pool.fetch(
        "SELECT kind, body ->> 'by' FROM event WHERE kind LIKE 'dead_letter.re%' ORDER BY at, kind"
    )
    told = [("dead_letter.replay_proposed", ADA), ("dead_letter.replay_confirmed", BOB)]
    assert [tuple(row) for row in rows] == [*told, *[("dead_letter.retried", BOB)] * 3]
    assert await world.violations() == {}


async def test_F4_as_many_as_one_person_may_retry_need_nobody_else(store: Store) -> None:
    world = await many(store, 3, replay_alone_most=3)
    asked = await desk(world).replay(ALL, ADA, most=100, dry_run=False)
    assert (asked.takes_two, asked.proposal, len(asked.letters)) == (False, None, 3)
    assert await world.count("replay_proposal") == 0


async def test_F4_what_was_asked_about_since_it_was_proposed_is_left_alone_and_so_is_what_was_not(store: Store) -> None:
    world = await many(store, 4, replay_alone_most=0)
    asked = await desk(world).replay(ALL, ADA, most=3, dry_run=False)
    assert asked.proposal is not None
    world.provider.charges = [unknown]
    await desk(world).retry([asked.letters[0]], BOB)
    await world.recover(timedelta(0))
    done = await desk(world).confirm_replay(asked.proposal.replay_id, ALL, BOB)
    assert [letter.payment_order_id for letter in done.letters] == ["c1-o1", "c2-o1"]
    again = await desk(world).confirm_replay(asked.proposal.replay_id, ALL, BOB)
    assert again.letters == []  # they are due
    third = await refused(desk(world).confirm_replay(asked.proposal.replay_id, ALL, person_named("Cleo")))
    assert "Somebody else" in third.detail
    await world.recover(timedelta(seconds=1))
    assert world.provider.asked == ["charge"] * 7


async def test_F4_a_proposal_to_retry_expires_and_is_of_its_shop_and_mode(store: Store) -> None:
    world = await many(store, 1, replay_alone_most=0)
    mine = UndecidedQuery(shop_id=CALLER.shop_id, mode=Mode.TEST)
    asked = await desk(world).replay(mine, ADA, most=1, dry_run=False)
    assert asked.proposal is not None
    replay_id = asked.proposal.replay_id
    shoes = UndecidedQuery(shop_id=derive_id("shop", "shoes"), mode=Mode.TEST)
    for other in (shoes, UndecidedQuery(shop_id=CALLER.shop_id, mode=Mode.LIVE)):
        assert (await refused(desk(world).confirm_replay(replay_id, other, BOB))).error is ErrorCode.NOT_FOUND
    world.clock.advance(timedelta(hours=24))
    assert "24 hours" in (await refused(desk(world).confirm_replay(replay_id, mine, BOB))).detail
    assert await world.recover(timedelta(0)) == []


async def test_F4_the_database_itself_refuses_one_person_as_two(store: Store, owner: asyncpg.Connection) -> None:
    world = await many(store, 1, replay_alone_most=0)
    await desk(world).replay(ALL, ADA, most=1, dry_run=False)
    with pytest.raises(asyncpg.CheckViolationError):
        await owner.execute("UPDATE replay_proposal SET confirmed_by = proposed_by, confirmed_at = now()")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await store.pool.execute("UPDATE replay_proposal SET proposed_by = 'person eve'")


async def test_F4_at_the_command_line_another_person_confirms_many(
    store: Store, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    await many(store, 2, replay_alone_most=1)
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("COATCHECK_DIGEST_SECRET", "x" * 40)
    monkeypatch.setenv("COATCHECK_REPLAY_ALONE_MOST", "1")

    async def command(*words: str) -> tuple[int, str]:
        status = await asyncio.to_thread(cli.run, ["dead-letters", *words])  # a command has a loop of its own
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    status, out = await command("replay", "--by", "ada", "--dry-run")
    assert status == 0
    assert out.splitlines()[-1] == "2 would be asked about; nobody was. So many take a second person."
    status, out = await command("replay", "--by", "ada")
    assert (status, "2 need a second person before " in out) == (0, True), out
    named = re.search(r"coatcheck dead-letters confirm-replay (rpl_\w+) --by NAME", out)
    assert named is not None
    status, out = await command("confirm-replay", named[1], "--by", "Ada")
    assert (status, "A second person must confirm" in out) == (2, True)
    status, out = await command("confirm-replay", named[1], "--by", "bob")
    assert (status, out.splitlines()[-1]) == (0, "2 are due now.")
    assert await store.pool.fetchval("SELECT count(*) FROM lease WHERE due_at IS NOT NULL") == 2


async def test_a_replay_is_narrowed_by_provider_cause_and_age(store: Store) -> None:
    world = World(store, settings=IMPATIENT)
    world.provider.charges = [unknown, not_sent]
    await world.pay(checkout("c0"), "k0")
    world.clock.advance(timedelta(hours=1))
    await world.pay(checkout("c1"), "k1")

    async def names(**fields: object) -> list[str]:
        found = await desk(world).replay(UndecidedQuery(**fields), ADA, most=10, dry_run=True)  # type: ignore[arg-type]
        return [letter.payment_order_id for letter in found.letters]

    assert await names(provider="stripe") == []
    assert await names(provider="simulator") == ["c0-o1", "c1-o1"]
    assert await names(cause="REFUSED") == ["c1-o1"]
    assert await names(cause="%") == []
    assert await names(made_until=START + timedelta(minutes=1)) == ["c0-o1"]


async def test_I1_two_people_book_a_charge_that_the_provider_made(store: Store) -> None:
    world = await unresolved(store)
    letter = await the_letter(world)
    operation_id = id_of(letter)
    proposal = await desk(world).propose(operation_id, ALL, CHARGED, ADA)
    assert await standing(world) == ("EXECUTING", "UNRESOLVED")
    assert await world.count("transfer") == 0
    assert (await the_letter(world)).proposal == proposal
    outcome = await desk(world).confirm(operation_id, proposal.proposal_id, ALL, BOB)
    assert outcome.kind is OutcomeKind.APPROVED
    assert outcome.evidence == "by hand: person ada proposed, person bob confirmed: seen in the dashboard"
    assert await standing(world) == ("SUCCESS", "APPROVED")
    assert await store.pool.fetchval("SELECT provider_reference FROM payment_order") == "ch_seen"
    assert await world.balances() == {"psp_receivable": 1000, "seller_pending": 900, "platform_commission": 100}
    assert world.provider.asked == ["charge"]  # nobody asked the provider for it
    assert await world.violations() == {}
    assert await desk(world).find(ALL) == []


async def test_I1_two_people_give_a_charge_up(store: Store) -> None:
    world = await unresolved(store)
    operation_id = id_of(await the_letter(world))
    proposal = await desk(world).propose(operation_id, ALL, NOT_CHARGED, ADA)
    await desk(world).confirm(operation_id, proposal.proposal_id, ALL, BOB)
    assert await standing(world) == ("FAILED", "DECLINED")
    assert await store.pool.fetchval("SELECT decline_code FROM payment_order") == RESOLVED_BY_HAND
    assert await world.count("transfer") == 0
    assert await world.violations() == {}


async def test_I1_both_people_and_the_reason_are_in_the_events(store: Store) -> None:
    world = await unresolved(store)
    operation_id = id_of(await the_letter(world))
    proposal = await desk(world).propose(operation_id, ALL, CHARGED, ADA)
    await desk(world).confirm(operation_id, proposal.proposal_id, ALL, BOB)
    rows = await store.pool.fetch(
        "SELECT kind, body::text FROM event WHERE kind LIKE 'dead_letter.%' ORDER BY event_id"
    )
    bodies = {row["kind"]: msgspec.json.decode(row["body"]) for row in rows}
    assert bodies["dead_letter.resolution_proposed"]["by"] == "person ada"
    confirmed = bodies["dead_letter.resolution_confirmed"]
    assert (confirmed["proposed_by"], confirmed["by"]) == ("person ada", "person bob")
    assert (confirmed["word"], confirmed["reason"]) == ("charged", "seen in the dashboard")
    assert confirmed["provider_reference"] == "ch_seen"


@pytest.mark.parametrize("name", ["Ada", "  ADA ", "\uff21da"])
async def test_I1_the_same_person_cannot_confirm(store: Store, name: str) -> None:
    world = await unresolved(store)
    operation_id = id_of(await the_letter(world))
    proposal = await desk(world).propose(operation_id, ALL, CHARGED, ADA)
    error = await refused(desk(world).confirm(operation_id, proposal.proposal_id, ALL, person_named(name)))
    assert "second person" in error.detail
    assert await standing(world) == ("EXECUTING", "UNRESOLVED")
    assert await world.count("transfer") == 0


async def test_I1_the_database_itself_refuses_one_person_as_two(store: Store, owner: asyncpg.Connection) -> None:
    world = await unresolved(store)
    await desk(world).propose(id_of(await the_letter(world)), ALL, CHARGED, ADA)
    with pytest.raises(asyncpg.CheckViolationError):
        await owner.execute("UPDATE resolution SET confirmed_by = proposed_by, confirmed_at = now()")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await store.pool.execute("UPDATE resolution SET proposed_by = 'person eve'")


async def test_I1_a_proposal_expires_after_a_day(store: Store) -> None:
    world = await unresolved(store)
    operation_id = id_of(await the_letter(world))
    proposal = await desk(world).propose(operation_id, ALL, CHARGED, ADA)
    world.clock.advance(timedelta(hours=24))
    error = await refused(desk(world).confirm(operation_id, proposal.proposal_id, ALL, BOB))
    assert "24 hours" in error.detail
    assert await standing(world) == ("EXECUTING", "UNRESOLVED")
    again = await desk(world).propose(operation_id, ALL, NOT_CHARGED, BOB)
    await desk(world).confirm(operation_id, again.proposal_id, ALL, ADA)
    assert await standing(world) == ("FAILED", "DECLINED")


async def test_I1_what_was_replaced_cannot_be_confirmed(store: Store) -> None:
    world = await unresolved(store)
    operation_id = id_of(await the_letter(world))
    first = await desk(world).propose(operation_id, ALL, CHARGED, ADA)
    assert await desk(world).propose(operation_id, ALL, CHARGED, ADA) == first  # the same again is the same
    second = await desk(world).propose(operation_id, ALL, NOT_CHARGED, ADA)
    assert "replaced" in (await refused(desk(world).confirm(operation_id, first.proposal_id, ALL, BOB))).detail
    row = await store.pool.fetchrow(  # and not in a race either, after the first look at it
        "SELECT * FROM confirm_resolution($1, $2, $3, $4, $5, $1, $5)",
        *(world.clock.now(), operation_id, first.proposal_id, BOB, derive_id("holder", "late")),
    )
    assert row is not None
    assert row["verdict"] == "unknown"
    assert "Somebody else" in (await refused(desk(world).propose(operation_id, ALL, CHARGED, BOB))).detail
    await desk(world).confirm(operation_id, second.proposal_id, ALL, BOB)
    assert await standing(world) == ("FAILED", "DECLINED")


async def test_I1_of_many_confirmations_one_is_booked_and_its_author_hears_the_same_again(store: Store) -> None:
    world = await unresolved(store)
    operation_id = id_of(await the_letter(world))
    proposal = await desk(world).propose(operation_id, ALL, CHARGED, ADA)
    people = [person_named(f"person {number}") for number in range(6)]
    answers = await asyncio.gather(
        *[desk(world).confirm(operation_id, proposal.proposal_id, ALL, person) for person in people],
        return_exceptions=True,
    )
    assert sum(isinstance(answer, Outcome) for answer in answers) == 1
    winner = next(person for person, answer in zip(people, answers, strict=True) if isinstance(answer, Outcome))
    assert (await desk(world).confirm(operation_id, proposal.proposal_id, ALL, winner)).kind is OutcomeKind.APPROVED
    assert await world.count("transfer") == 2
    assert await world.violations() == {}


async def test_a_confirmation_whose_process_died_may_be_given_again(store: Store) -> None:
    world = await unresolved(store)
    operation_id = id_of(await the_letter(world))
    proposal = await desk(world).propose(operation_id, ALL, CHARGED, ADA)
    row = await store.pool.fetchrow(
        "SELECT * FROM confirm_resolution($1, $2, $3, $4, $5, $6, $7)",
        *(world.clock.now(), operation_id, proposal.proposal_id, BOB, derive_id("holder", "dead")),
        *(world.clock.now() + timedelta(seconds=30), derive_id("event", "one")),
    )
    assert row is not None
    assert row["verdict"] == "confirmed"
    busy = await refused(desk(world).confirm(operation_id, proposal.proposal_id, ALL, BOB))
    assert busy.error is ErrorCode.OPERATION_IN_PROGRESS
    world.clock.advance(timedelta(seconds=31))
    await desk(world).confirm(operation_id, proposal.proposal_id, ALL, BOB)
    assert await standing(world) == ("SUCCESS", "APPROVED")
    assert await world.violations() == {}


async def test_F1_the_provider_s_answer_and_a_confirmation_at_once_book_one_decision(store: Store) -> None:
    world = await unresolved(store)
    operation_id = id_of(await the_letter(world))
    proposal = await desk(world).propose(operation_id, ALL, NOT_CHARGED, ADA)
    await desk(world).retry([await the_letter(world)], ADA)
    (claimed,) = await world.gateway.operations.claim(10)
    busy = await refused(desk(world).confirm(operation_id, proposal.proposal_id, ALL, BOB))
    assert busy.error is ErrorCode.OPERATION_IN_PROGRESS
    await world.gateway.executor.run(claimed)
    assert await standing(world) == ("SUCCESS", "APPROVED")
    settled = await refused(desk(world).confirm(operation_id, proposal.proposal_id, ALL, BOB))
    assert "no dead letter any more" in settled.detail
    assert await world.violations() == {}


async def test_F1_an_answer_that_comes_after_a_confirmation_is_not_booked(store: Store) -> None:
    world = await unresolved(store)
    operation_id = id_of(await the_letter(world))
    proposal = await desk(world).propose(operation_id, ALL, NOT_CHARGED, ADA)
    zombie = (await world.gateway.operations.stand([operation_id]))[operation_id].operation
    await desk(world).confirm(operation_id, proposal.proposal_id, ALL, BOB)
    assert await world.gateway.payments.apply(zombie, approved(zombie.intent)) is False
    assert await standing(world) == ("FAILED", "DECLINED")


@pytest.mark.parametrize(
    ("finding", "pointer"),
    [
        (Finding(word=Word.CHARGED, reason="seen"), "/provider_reference"),
        (Finding(word=Word.CHARGED, reason="seen", provider_reference="a b"), "/provider_reference"),
        (Finding(word=Word.CHARGED, reason="seen", provider_reference=""), "/provider_reference"),
        (Finding(word=Word.NOT_CHARGED, reason="seen", provider_reference="ch_1"), "/provider_reference"),
        (Finding(word=Word.DONE, reason="seen", provider_reference="ch_1"), "/word"),
        (Finding(word=Word.NOT_CHARGED, reason="  "), "/reason"),
        (Finding(word=Word.NOT_CHARGED, reason="x" * 501), "/reason"),
        (Finding(word=Word.NOT_CHARGED, reason="card 4111 1111 1111 1111"), "/reason"),
    ],
)
async def test_what_could_not_be_booked_is_not_proposed(store: Store, finding: Finding, pointer: str) -> None:
    world = await unresolved(store)
    error = await refused(desk(world).propose(id_of(await the_letter(world)), ALL, finding, ADA))
    assert [problem.pointer for problem in error.problems] == [pointer]
    assert await world.count("resolution") == 0


async def test_A15_another_id_than_the_provider_gave_is_refused(store: Store) -> None:
    world = await unresolved(store, provider=ScriptedProvider(registers_first=True))
    letter = await the_letter(world)
    operation_id = id_of(letter)
    assert letter.operation.intent.provider_reference == "pi_1"
    assert "pi_1" in (await refused(desk(world).propose(operation_id, ALL, CHARGED, ADA))).detail
    known = Finding(word=Word.CHARGED, reason="seen")
    proposal = await desk(world).propose(operation_id, ALL, known, ADA)
    assert (await desk(world).confirm(operation_id, proposal.proposal_id, ALL, BOB)).provider_reference == "pi_1"


async def refunding(store: Store) -> World:
    world = World(store, settings=IMPATIENT)
    await world.pay(checkout("c1", "o1"))
    world.provider.acts[OperationKind.REFUND] = [unknown]
    await world.refund("o1", 400)
    return world


async def test_I1_a_refund_is_done_or_not_done_by_two_people(store: Store) -> None:
    world = await refunding(store)
    operation_id = id_of(await the_letter(world))
    assert (await refused(desk(world).propose(operation_id, ALL, CHARGED, ADA))).problems[0].pointer == "/word"
    proposal = await desk(world).propose(operation_id, ALL, DONE, ADA)
    await desk(world).confirm(operation_id, proposal.proposal_id, ALL, BOB)
    assert await store.pool.fetchval("SELECT status FROM refund") == "SUCCEEDED"
    assert await store.pool.fetchval("SELECT refunded_minor FROM payment_order") == 400
    assert await world.violations() == {}


async def test_a_refund_that_was_not_done_frees_what_it_reserved(store: Store) -> None:
    world = await refunding(store)
    operation_id = id_of(await the_letter(world))
    proposal = await desk(world).propose(operation_id, ALL, NOT_DONE, ADA)
    await desk(world).confirm(operation_id, proposal.proposal_id, ALL, BOB)
    assert await store.pool.fetchval("SELECT refund_reserved_minor FROM payment_order") == 0
    assert await world.violations() == {}


async def test_an_authorization_that_was_made_holds_and_lives_as_long_as_usual(store: Store) -> None:
    world = World(store, settings=IMPATIENT)
    world.provider.acts[OperationKind.AUTHORIZE] = [unknown]
    await world.pay(checkout("c1", "o1", capture=Capture.MANUAL))
    operation_id = id_of(await the_letter(world))
    proposal = await desk(world).propose(operation_id, ALL, DONE, ADA)
    await desk(world).confirm(operation_id, proposal.proposal_id, ALL, BOB)
    assert await standing(world) == ("AUTHORIZED", "APPROVED")
    assert await store.pool.fetchval("SELECT expires_at FROM payment_order") == START + timedelta(days=7)
    assert await world.violations() == {}


async def test_what_nobody_here_can_ask_can_still_be_resolved(store: Store) -> None:
    world = World(store, settings=IMPATIENT)
    world.provider.acts[OperationKind.AUTHORIZE] = [unknown]
    await world.pay(checkout("c1", "o1", capture=Capture.MANUAL))
    elsewhere = World(store, ScriptedProvider(), settings=replace(IMPATIENT, provider="stripe"), clock=world.clock)
    letter = await the_letter(elsewhere)
    assert (letter.advice.action, letter.advice.step) == (SafeAction.CONFIGURE, None)
    proposal = await desk(elsewhere).propose(id_of(letter), ALL, DONE, ADA)
    await desk(elsewhere).confirm(id_of(letter), proposal.proposal_id, ALL, BOB)
    assert await standing(world) == ("AUTHORIZED", "APPROVED")


async def test_another_shop_cannot_propose_or_confirm(store: Store) -> None:
    world = await unresolved(store)
    operation_id = id_of(await the_letter(world))
    other = UndecidedQuery(shop_id=derive_id("shop", "shoes"), mode=Mode.TEST)
    assert (await refused(desk(world).propose(operation_id, other, CHARGED, ADA))).error is ErrorCode.NOT_FOUND
    proposal = await desk(world).propose(operation_id, ALL, CHARGED, ADA)
    error = await refused(desk(world).confirm(operation_id, proposal.proposal_id, other, BOB))
    assert error.error is ErrorCode.NOT_FOUND
    assert await desk(world).read(operation_id, other) is None


async def test_the_order_of_a_neighbour_is_not_touched(store: Store) -> None:
    world = await unresolved(store, "o1", "o2")
    first, second = await desk(world).find(ALL)
    proposal = await desk(world).propose(id_of(first), ALL, CHARGED, ADA)
    await desk(world).confirm(id_of(first), proposal.proposal_id, ALL, BOB)
    (left,) = await desk(world).find(ALL)
    assert id_of(left) == id_of(second)
    assert left.operation.order_status == "EXECUTING"
    assert await world.violations() == {}


async def test_A14_a_retry_waits_until_a_second_not_found_counts(store: Store) -> None:
    world = await unresolved(store, provider=ScriptedProvider(look_up_before_resend=True))
    world.provider.look_ups = [not_found, not_found]
    await desk(world).retry([await the_letter(world)], ADA)
    await world.recover(timedelta(0))
    assert world.provider.asked == ["charge", "look_up"]
    world.clock.advance(timedelta(seconds=1))
    assert len(await desk(world).retry([await the_letter(world)], ADA)) == 1
    # A second "not found" at once would prove nothing: the provider's search may lag for a minute.
    assert await world.recover(timedelta(seconds=58)) == []
    assert world.provider.asked == ["charge", "look_up"]
    await world.recover(timedelta(seconds=1))
    assert world.provider.asked == ["charge", "look_up", "look_up", "charge"]
    assert await standing(world) == ("SUCCESS", "APPROVED")


async def test_A14_a_retry_that_knows_of_an_earlier_attempt_does_nothing(store: Store) -> None:
    world = await unresolved(store)
    earlier = await the_letter(world)
    world.provider.charges = [unknown]
    await desk(world).retry([earlier], ADA)
    await world.recover(timedelta(0))
    assert (await the_letter(world)).operation.attempt == 2
    assert await desk(world).retry([earlier], ADA) == []
    assert not (await the_letter(world)).is_retrying


@pytest.mark.parametrize(
    ("word", "status", "held"), [(Word.DONE, "AUTHORIZED", 1000), (Word.NOT_DONE, "CANCELLED", None)]
)
async def test_A8_what_was_booked_before_is_confirmed_or_ended_and_never_booked_twice(
    store: Store, word: Word, status: str, held: int | None
) -> None:
    world = World(store)
    await world.pay(checkout("c1", "o1", capture=Capture.MANUAL))
    world.provider.look_ups = [lambda intent: msgspec.structs.replace(approved(intent), provider_reference="ch_other")]
    (operation_id,) = [row[0] for row in await store.pool.fetch("SELECT operation_id FROM operation")]
    for asked_again in await world.gateway.operations.reopen([operation_id], "a test"):
        await world.gateway.executor.run(asked_again)
    letter = await the_letter(world)
    assert letter.advice.action is SafeAction.COMPARE
    proposal = await desk(world).propose(operation_id, ALL, Finding(word=word, reason="looked at both"), ADA)
    await desk(world).confirm(operation_id, proposal.proposal_id, ALL, BOB)
    assert (await standing(world))[0] == status
    assert (await world.balances()).get("psp_receivable.held") == held
    assert await world.violations() == {}
