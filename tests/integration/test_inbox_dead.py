"""Events that nobody could handle: what a person sees of them, and what a person may do."""

import asyncio
import json
import logging
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg
import msgspec
import pytest
import structlog
from structlog.testing import capture_logs
from tests.integration.outside import CALLER, SETTINGS, START, World, approved, checkout, declined, unknown
from tests.integration.running import Answer, RunningGateway, listening
from tests.integration.test_inbox import Psp, charge

from coatcheck import cli, inbox
from coatcheck.dead_letters import person_named
from coatcheck.errors import CoatcheckError, ErrorCode
from coatcheck.ids import INBOX, OPERATION, derive_id, operation_id_of, order_id_of, print_id
from coatcheck.inbox import EventOutcome, EventQuery, Foresight, Prospect, StoredEvent, handling, hear
from coatcheck.providers.protocol import ReceivedEvent
from coatcheck.shops import create_key
from coatcheck.states import Mode, OperationKind
from coatcheck.store import Store
from coatcheck.watcher import list_alerts
from coatcheck.wiring import make_watcher

ADA, BOB = person_named("Ada"), person_named("Bob")
NOBODY = UUID(int=0)
POISON = b'{"id": "evt_0", "type": "charge.succeeded", "data": NaN}\x00'
CARD = "4111 1111 1111 1111"


def succeeded(name: str, event_id: str) -> bytes:
    """The simulator's word that the charge of an order succeeded."""
    order_id = order_id_of(CALLER.shop_id, CALLER.mode, name)
    reference = print_id(OPERATION, operation_id_of(order_id, OperationKind.CHARGE))
    charge = {"id": f"ch_{reference}", "status": "succeeded", "amount": 1000, "currency": "EUR", "reference": reference}
    charge |= {"decline_code": None, "livemode": False, "created": 1, "amount_captured": 0, "amount_refunded": 0}
    charge |= {"expires_at": None, "disputed": False}
    event = {"id": event_id, "type": "charge.succeeded", "created": 1, "livemode": False, "account": "coatcheck"}
    return json.dumps({**event, "data": {"object": charge}}).encode()


async def receive(
    world: World, raw: bytes, event_id: str, *, provider: str = "simulator", headers: dict[str, str] | None = None
) -> UUID:
    event = ReceivedEvent(account="coatcheck", event_id=event_id, raw=raw)
    await world.gateway.inbox.store(provider, Mode.TEST, headers or {}, [event])
    return derive_id(INBOX, provider, "test", "coatcheck", event_id)


async def handle(world: World) -> None:
    while await world.gateway.inbox.handle_once():
        pass
    await world.quiet()


async def poisoned(world: World, event_id: str = "evt_0", raw: bytes = POISON, **more: Any) -> UUID:
    """An event that cannot be read, and waits for a person."""
    inbox_id = await receive(world, raw, event_id, **more)
    await handle(world)
    return inbox_id


async def orphaned(world: World, name: str) -> UUID:
    """An event about an operation that nobody knows, after its last try."""
    inbox_id = await receive(world, succeeded(name, f"evt_{name}"), f"evt_{name}")
    await handle(world)
    for _ in range(11):
        world.clock.advance(timedelta(minutes=11))
        await handle(world)
    return inbox_id


async def the_event(world: World) -> StoredEvent:
    (event,) = await inbox.dead(world.store)
    return event


async def refusal(asking: Any) -> CoatcheckError:
    with pytest.raises(CoatcheckError) as caught:
        await asking
    return caught.value


async def told(world: World, kind: str) -> list[dict[str, Any]]:
    rows = await world.store.pool.fetch("SELECT body::text FROM event WHERE kind = $1 ORDER BY event_id", kind)
    return [msgspec.json.decode(row["body"]) for row in rows]


async def test_C13_a_dead_event_says_what_it_is_and_why_it_waits(store: Store) -> None:
    world = World(store)
    inbox_id = await poisoned(world, headers={"simulator-signature": "t=1,v1=00", "x-request-id": "r1"})
    event = await the_event(world)
    assert (event.inbox_id, event.provider, event.mode, event.account) == (
        *(inbox_id, "simulator", Mode.TEST, "coatcheck"),
    )
    assert (event.event_id, event.received_at, event.attempts) == ("evt_0", START, 1)
    assert event.cause is not None
    assert event.cause.startswith("cannot be read: ")
    assert event.headers == {"simulator-signature": "t=1,v1=00", "x-request-id": "r1"}
    assert event.body == POISON.decode()
    assert event.is_dead
    assert event.type is None  # what is no JSON has no type


async def test_C12_the_type_is_told_where_no_reader_is_there_any_more(store: Store) -> None:
    world = World(store)
    await poisoned(world, "psp:REFUND:true", b'{"eventCode": "REFUND", "pspReference": "x"}', provider="adyen")
    await poisoned(world, "evt_1", b'{"id": "evt_1", "type": "refund.failed", "livemode": false}', provider="stripe")
    found = await inbox.dead(store)
    assert [(event.provider, event.type) for event in found] == [("adyen", "REFUND"), ("stripe", "refund.failed")]
    assert {event.cause for event in found} == {"webhooks of this provider and mode are not configured here any more"}


async def test_no_card_number_is_shown_and_no_byte_is_lost(store: Store) -> None:
    world = World(store)
    raw = b'{"type": "x", "note": "\xff' + CARD.encode() + b'", "data": NaN}'
    inbox_id = await poisoned(world, raw=raw, headers={"x-note": CARD, "cookie": "a=b"})
    event = await the_event(world)
    assert "[card number removed]" in event.body
    assert "1111" not in event.body
    assert event.headers == {"x-note": "[card number removed]", "cookie": "[hidden]"}
    assert await store.pool.fetchval("SELECT raw FROM inbox WHERE inbox_id = $1", inbox_id) == raw


async def test_a_card_number_in_a_body_s_names_is_not_kept_in_the_cause(store: Store) -> None:
    world = World(store)
    event = json.loads(succeeded("o1", "evt_1"))
    event["data"]["object"]["status"] = CARD
    await poisoned(world, "evt_1", json.dumps(event).encode())
    await poisoned(world, "evt_2", f'{{"{CARD}": 1, "{CARD}": 2}}'.encode())
    causes = await store.pool.fetch("SELECT cause FROM inbox_lease WHERE due_at IS NULL")
    assert len(causes) == 2
    assert not any("1111" in row["cause"] for row in causes)


async def test_the_list_is_oldest_first_page_by_page_and_narrowed(store: Store) -> None:
    world = World(store)
    for number in range(3):
        await poisoned(world, f"evt_{number}", provider="stripe" if number == 1 else "simulator")
        world.clock.advance(timedelta(seconds=1))
    await receive(world, succeeded("o1", "evt_9"), "evt_9")  # due, so nobody's turn but the gateway's

    async def names(**query: Any) -> list[str]:
        return [event.event_id for event in await inbox.dead(store, **query)]

    assert await names() == ["evt_0", "evt_1", "evt_2"]
    first = await inbox.dead(store, limit=2)
    assert [event.event_id for event in first] == ["evt_0", "evt_1"]
    assert await names(after=(first[-1].received_at, first[-1].inbox_id)) == ["evt_2"]
    assert await names(provider="stripe") == ["evt_1"]
    assert await names(cause="CANNOT BE READ") == ["evt_0", "evt_2"]
    assert await names(cause="%") == []


async def test_no_page_drops_or_repeats_what_came_at_one_moment(store: Store) -> None:
    world = World(store)
    wanted = sorted([await poisoned(world, f"evt_{number}") for number in range(3)])
    seen: list[StoredEvent] = []
    for _ in wanted:
        after = (seen[-1].received_at, seen[-1].inbox_id) if seen else None
        seen += await inbox.dead(store, after=after, limit=1)
    assert [event.inbox_id for event in seen] == wanted


async def test_C1_a_retry_handles_an_event_whose_operation_is_known_by_now(store: Store) -> None:
    world = World(store)
    inbox_id = await orphaned(world, "o1")
    assert (await the_event(world)).attempts == 12
    world.provider.charges = [unknown]
    view = await world.pay(checkout("c1", "o1"))
    assert await inbox.retry(store, world.clock, [inbox_id], ADA) == [inbox_id]
    await handle(world)
    assert (await world.read(view.payment_id)).status == "SUCCESS"
    event = await inbox.read(store, inbox_id)
    assert (event.outcome, event.attempts, event.is_dead) == (EventOutcome.APPLIED, None, False)
    assert await inbox.dead(store) == []
    assert await world.count("transfer") == 2
    assert await world.violations() == {}


async def test_C13_a_retry_is_one_more_try_and_the_attempt_never_goes_back(store: Store) -> None:
    world = World(store)
    inbox_id = await orphaned(world, "o1")
    await inbox.retry(store, world.clock, [inbox_id], ADA)
    await handle(world)
    event = await the_event(world)
    assert (event.attempts, event.cause) == (13, "its operation is not known here")


@pytest.mark.parametrize("trouble", [KeyError("a bug"), asyncpg.CheckViolationError("the books refuse it")])
async def test_C13_F3_an_event_that_can_never_be_handled_becomes_a_dead_letter_and_an_alert(
    store: Store, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    world = World(store)
    psp = Psp(world)
    world.provider.charges = [declined]
    view = await world.pay(checkout("c1", "o1"))

    async def in_trouble(*_: object, **__: object) -> None:
        raise trouble

    with monkeypatch.context() as broken, capture_logs() as logs:
        broken.setattr(world.gateway.operations, "reopen", in_trouble)
        await fail_twelve_times(world, psp)
    assert [line["event"] for line in logs].count("webhook_failed") == 13
    world.provider.look_ups = [approved]  # after the upgrade
    (event,) = await inbox.dead(store)
    assert await inbox.retry(store, world.clock, [event.inbox_id], ADA) == [event.inbox_id]
    await psp.handle()
    assert (await world.read(view.payment_id)).status == "SUCCESS"
    assert await psp.outcomes() == [EventOutcome.APPLIED]
    assert await world.violations() == {}


async def fail_twelve_times(world: World, psp: Psp) -> None:
    """An event whose handling raises each time, until it is a person's turn; then once more."""
    await psp.tell("charge.succeeded", charge("o1", "succeeded"))
    for _ in range(11):
        assert await inbox.dead(world.store) == []
        world.clock.advance(timedelta(minutes=11))
        await psp.handle()
    event = await the_event(world)
    assert event.attempts == 12
    assert event.cause is not None
    assert event.cause.startswith("the gateway failed: ")
    (change,) = await make_watcher(world.gateway).watch_once()
    assert (change.alert.kind.value, change.alert.subject) == ("webhook_dead", print_id(INBOX, event.inbox_id))
    assert await inbox.retry(world.store, world.clock, [event.inbox_id], ADA) == [event.inbox_id]
    await psp.handle()
    assert (await the_event(world)).attempts == 13


@pytest.mark.parametrize(
    "trouble", [asyncpg.ConnectionDoesNotExistError("gone"), asyncpg.DeadlockDetectedError("again")]
)
async def test_C13_the_database_s_trouble_costs_an_event_no_try(
    store: Store, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    world = World(store)
    psp = Psp(world)
    world.provider.charges = [unknown]
    view = await world.pay(checkout("c1", "o1"))

    async def in_trouble(*_: object, **__: object) -> None:
        raise trouble

    with monkeypatch.context() as broken, capture_logs():
        broken.setattr(world.gateway.executor, "settle", in_trouble)
        await psp.tell("charge.succeeded", charge("o1", "succeeded"))
        for _ in range(13):
            world.clock.advance(timedelta(minutes=11))
            await psp.handle()
    assert await inbox.dead(store) == []
    world.clock.advance(timedelta(minutes=11))
    await psp.handle()
    assert (await world.read(view.payment_id)).status == "SUCCESS"
    assert await psp.outcomes() == [EventOutcome.APPLIED]
    assert await world.violations() == {}


@pytest.mark.parametrize("where", ["reading", "hearing"])
async def test_C13_F3_a_bug_that_one_event_meets_stops_no_other(
    store: Store, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    world = World(store)
    psp = Psp(world)
    world.provider.charges = [unknown]
    view = await world.pay(checkout("c1", "o1"))
    (reader,) = world.gateway.webhooks.values()
    parse, judge = reader.parse, hear

    def parse_badly(raw: bytes) -> Any:
        if b"evt_bad" in raw:
            raise KeyError("a bug")
        return parse(raw)

    def hear_badly(standing: Any, sender: Any, outcome: Any, at: Any) -> Any:
        if outcome.provider_reference == "ch_bad":
            raise KeyError("a bug")
        return judge(standing, sender, outcome, at)

    if where == "reading":
        monkeypatch.setattr(reader, "parse", parse_badly)
    else:
        monkeypatch.setattr(handling, "hear", hear_badly)
    await psp.send(psp.event("charge.succeeded", charge("o1", "succeeded", id="ch_bad"), "evt_bad"))
    with capture_logs():
        await psp.tell("charge.succeeded", charge("o1", "succeeded"))
        assert (await world.read(view.payment_id)).status == "SUCCESS"
        for _ in range(11):
            assert await inbox.dead(store) == []
            world.clock.advance(timedelta(minutes=11))
            await psp.handle()
    event = await the_event(world)
    assert (event.event_id, event.attempts, event.cause) == ("evt_bad", 12, "the gateway failed: KeyError")


async def test_F4_a_retry_pressed_many_times_is_one_try_and_one_event(store: Store) -> None:
    world = World(store)
    inbox_id = await poisoned(world)
    retried = await asyncio.gather(*[inbox.retry(store, world.clock, [inbox_id, inbox_id], ADA) for _ in range(8)])
    assert sorted(map(len, retried)) == [0] * 7 + [1]
    assert (await inbox.read(store, inbox_id)).due_at == START
    await handle(world)
    assert (await the_event(world)).attempts == 2
    (body,) = await told(world, "webhook.retried")
    assert body.pop("cause").startswith("cannot be read: ")
    named = {"inbox_id": str(inbox_id), "provider": "simulator", "account": "coatcheck", "event_id": "evt_0"}
    assert body == {**named, "attempt": 1, "by": "person ada"}


async def test_a_retry_leaves_alone_what_does_not_wait_for_a_person(store: Store) -> None:
    world = World(store)
    parked = await receive(world, succeeded("o1", "evt_1"), "evt_1")
    await handle(world)
    handled = await receive(world, b'{"id": "evt_2", "type": "x", "livemode": false, "account": "coatcheck"}', "evt_2")
    await handle(world)
    before = (await inbox.read(store, parked)).due_at
    assert await inbox.retry(store, world.clock, [parked, handled, UUID(int=7)], ADA) == []
    assert (await inbox.read(store, parked)).due_at == before
    assert (await inbox.read(store, handled)).outcome is EventOutcome.UNKNOWN_TYPE
    assert await told(world, "webhook.retried") == []


async def test_a_dismissal_moves_no_money_loses_no_byte_and_is_told(store: Store) -> None:
    world = World(store)
    inbox_id = await orphaned(world, "o1")
    assert await inbox.dismiss(store, world.clock, inbox_id, " of  another installation ", ADA) is True
    event = await inbox.read(store, inbox_id)
    assert (event.outcome, event.handled_at, event.is_dead) == (EventOutcome.DISMISSED, world.clock.now(), False)
    assert await store.pool.fetchval("SELECT raw FROM inbox") == succeeded("o1", "evt_o1")
    row = await store.pool.fetchrow(
        "SELECT subject_id, shop_id, mode, body::text FROM event WHERE kind = 'webhook.dismissed'"
    )
    assert row is not None
    assert (row["subject_id"], row["shop_id"], row["mode"]) == (inbox_id, NOBODY, "test")
    body = msgspec.json.decode(row["body"])
    assert (body["reason"], body["by"], body["event_id"]) == ("of another installation", "person ada", "evt_o1")
    assert [each.kind for each in await inbox.evidence(store, inbox_id)] == ["webhook.dismissed"]
    world.provider.charges = [unknown]
    await world.pay(checkout("c1", "o1"))
    world.clock.advance(timedelta(hours=1))
    await handle(world)  # ... and nobody takes it up again
    assert await world.count("transfer") == 0
    assert await world.violations() == {}


async def test_a_dismissal_given_again_changes_nothing_and_the_first_reason_stays(store: Store) -> None:
    world = World(store)
    inbox_id = await poisoned(world)
    done = await asyncio.gather(
        *[inbox.dismiss(store, world.clock, inbox_id, f"reason {place}", ADA) for place in range(8)]
    )
    assert sorted(done) == [False] * 7 + [True]
    assert await inbox.dismiss(store, world.clock, inbox_id, "another", BOB) is False
    assert [body["reason"] for body in await told(world, "webhook.dismissed")] == [f"reason {done.index(True)}"]
    assert await inbox.retry(store, world.clock, [inbox_id], ADA) == []


async def test_of_a_retry_and_a_dismissal_at_once_one_counts(store: Store) -> None:
    world = World(store)
    for number in range(8):
        inbox_id = await poisoned(world, f"evt_{number}")
        retried, dismissed = await asyncio.gather(
            inbox.retry(store, world.clock, [inbox_id], ADA),
            inbox.dismiss(store, world.clock, inbox_id, "seen", BOB),
            return_exceptions=True,
        )
        assert isinstance(retried, list)
        if retried:
            assert isinstance(dismissed, CoatcheckError)
            assert dismissed.error is ErrorCode.OPERATION_IN_PROGRESS
        else:
            assert dismissed is True
        assert (await inbox.read(store, inbox_id)).outcome == (None if retried else "dismissed")
        assert await world.count("inbox_lease", f"inbox_id = '{inbox_id}'") == len(retried)


async def test_what_is_not_dead_cannot_be_dismissed(store: Store) -> None:
    world = World(store)
    due = await receive(world, succeeded("o1", "evt_1"), "evt_1")
    error = await refusal(inbox.dismiss(store, world.clock, due, "seen", ADA))
    assert error.error is ErrorCode.OPERATION_IN_PROGRESS
    await handle(world)  # parked: it comes again
    assert (await refusal(inbox.dismiss(store, world.clock, due, "seen", ADA))).error is ErrorCode.OPERATION_IN_PROGRESS
    world.provider.charges = [unknown]
    await world.pay(checkout("c1", "o1"))
    world.clock.advance(timedelta(minutes=1))
    await handle(world)
    assert (await refusal(inbox.dismiss(store, world.clock, due, "seen", ADA))).error is ErrorCode.NOT_FOUND
    assert (await inbox.read(store, due)).outcome is EventOutcome.APPLIED
    nobody = UUID(int=7)
    assert (await refusal(inbox.dismiss(store, world.clock, nobody, "seen", ADA))).error is ErrorCode.NOT_FOUND
    assert (await refusal(inbox.read(store, nobody))).error is ErrorCode.NOT_FOUND
    assert await told(world, "webhook.dismissed") == []


@pytest.mark.parametrize("reason", ["", "  ", "x" * 501, "bell \x07", f"card {CARD}"])
async def test_a_reason_is_needed_and_has_no_card_number(store: Store, reason: str) -> None:
    world = World(store)
    inbox_id = await poisoned(world)
    error = await refusal(inbox.dismiss(store, world.clock, inbox_id, reason, ADA))
    assert error.error is ErrorCode.INVALID_REQUEST
    assert (await the_event(world)).inbox_id == inbox_id


async def test_C3_the_same_event_again_makes_nothing_due(store: Store) -> None:
    world = World(store)
    event = ReceivedEvent(account="coatcheck", event_id="evt_o1", raw=succeeded("o1", "evt_o1"))
    inbox_id = await orphaned(world, "o1")
    assert await world.gateway.inbox.store("simulator", Mode.TEST, {}, [event]) == 0
    assert (await the_event(world)).attempts == 12
    await inbox.dismiss(store, world.clock, inbox_id, "seen", ADA)
    assert await world.gateway.inbox.store("simulator", Mode.TEST, {}, [event]) == 0
    assert await world.gateway.inbox.handle_once() == 0
    assert (await inbox.read(store, inbox_id)).outcome is EventOutcome.DISMISSED


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE inbox_lease SET due_at = now()",
        "DELETE FROM inbox_lease",
        "UPDATE inbox SET outcome = 'dismissed'",
        "UPDATE inbox SET raw = ''",
        "DELETE FROM inbox",
    ],
)
async def test_the_application_s_role_has_no_other_way(store: Store, statement: str) -> None:
    await poisoned(World(store))
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await store.pool.execute(statement)


async def test_C13_a_dead_event_is_an_alert_until_somebody_has_seen_to_it(store: Store) -> None:
    world = World(store)
    await poisoned(world, "evt_0")
    world.clock.advance(timedelta(seconds=1))
    await poisoned(world, "evt_1")
    await receive(world, succeeded("o1", "evt_2"), "evt_2")  # due: the gateway's turn
    watcher = make_watcher(world.gateway)
    changes = await watcher.watch_once()
    assert [(change.alert.kind.value, change.is_opened) for change in changes] == [("webhook_dead", True)] * 2
    assert await watcher.watch_once() == []
    first, second = [event.inbox_id for event in await inbox.dead(store)]
    alerts = {alert.subject: alert for alert in await list_alerts(store)}
    alert = alerts[print_id(INBOX, first)]
    assert alert.since == START
    assert alert.text.startswith(
        "The event evt_0 of simulator, received 2026-03-01 12:00:00 UTC, waits for a person after attempt 1: cannot be "
        "read"
    )
    assert alert.runbook == "docs/runbooks/webhook_dead.md"
    figures = world.gateway.metrics.registry
    assert figures.get_sample_value("coatcheck_alerts", {"kind": "webhook_dead"}) == 2
    await inbox.dismiss(store, world.clock, first, "seen", ADA)
    (closed,) = await watcher.watch_once()
    assert (closed.is_opened, closed.alert.subject) == (False, print_id(INBOX, first))
    assert [each.kind for each in await inbox.evidence(store, second)] == ["alert.opened"]
    row = await store.pool.fetchrow("SELECT shop_id, mode FROM event WHERE kind = 'alert.closed'")
    assert row is not None
    assert (row["shop_id"], row["mode"]) == (NOBODY, "test")


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
async def test_the_command_line_lists_shows_retries_and_dismisses(
    store: Store, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(store)
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("COATCHECK_DIGEST_SECRET", "x" * 40)

    async def command(*words: str) -> tuple[int, str]:
        status = await asyncio.to_thread(cli.run, ["webhooks", *words])  # a command has a loop of its own
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    assert await command("list") == (0, "No event waits for a person.\n")
    inbox_id = await poisoned(world, raw=b'{"type": "x\x1b[2J", "data": NaN}\n', headers={"x-request-id": "r1"})
    printed = print_id(INBOX, inbox_id)
    status, out = await command("list")
    assert (status, printed in out, "cannot be read" in out) == (0, True, True)
    status, out = await command("show", printed)
    assert status == 0
    assert "state      waits for a person, after 1 attempts\n" in out
    assert "\nx-request-id: r1\n" in out
    assert '{"type": "x\\x1b[2J", "data": NaN}' in out  # and the terminal is left alone
    status, out = await command("retry", printed, printed, print_id(INBOX, UUID(int=7)), "--by", "ada")
    assert status == 0
    assert out.splitlines() == [
        f"{printed} is due now. `coatcheck webhooks show {printed}` says how it went.",
        f"{print_id(INBOX, UUID(int=7))} does not wait for a person: it is due or handled by now, or unknown here.",
    ]
    status, out = await command("dismiss", printed, "--reason", "seen", "--by", "ada")
    assert (status, "being handled at this moment" in out) == (2, True)
    world.clock.advance(timedelta(days=400))  # the command's clock is the real one
    await handle(world)
    capsys.readouterr()  # what the gateway logged
    assert await command("dismiss", printed, "--reason", "seen", "--by", "ada") == (0, f"{printed} is dismissed.\n")
    status, out = await command("dismiss", printed, "--reason", "again", "--by", "bob")
    assert (status, out) == (0, f"{printed} was dismissed before; the first reason stays.\n")
    status, out = await command("show", printed)
    assert "state      dismissed, " in out
    assert "webhook.dismissed: attempt 2, cause cannot be read" in out
    assert "reason seen, by person ada" in out
    assert "webhook.retried: attempt 1, " in out
    status, out = await command("show", print_id(INBOX, UUID(int=7)))
    assert (status, "unknown here" in out) == (2, True)
    status, out = await command("show", "evt_0")
    assert (status, "is not an id of ours: it begins with in_" in out) == (2, True)
    status, out = await command("replay", "--by", "ada", "--dry-run")
    assert (status, out.splitlines()[-1]) == (0, "0 would be handled again; none was.")
    await poisoned(world, "evt_2")
    capsys.readouterr()
    status, out = await command("replay", "--cause", "CANNOT BE", "--by", "ada", "--dry-run")
    assert (status, "it waits again: cannot be read" in out) == (0, True), out
    assert out.splitlines()[-1] == "1 would be handled again; none was."
    assert (await the_event(world)).is_dead
    status, out = await command("replay", "--by", "ada")
    assert (status, out.splitlines()[-1]) == (0, "1 are due now.")
    assert await inbox.dead(store) == []


async def test_F4_a_dry_run_says_which_events_and_what_would_come_of_each_and_handles_none(store: Store) -> None:
    world = World(store)
    poison = await poisoned(world)
    world.clock.advance(timedelta(seconds=1))
    stranger = await orphaned(world, "o1")
    known = await orphaned(world, "o2")
    foreign = await poisoned(world, "evt_9", provider="stripe")
    world.provider.charges = [unknown]
    await world.pay(checkout("c2", "o2"))
    done = await inbox.replay(store, world.clock, EventQuery(), ADA, most=100, dry_run=True)
    assert [event.inbox_id for event in done.events] == [poison, stranger, known, foreign]
    foreseen = await world.gateway.inbox.foresee([event.inbox_id for event in done.events])
    assert foreseen[known] == Foresight(Prospect.COMPARE)
    assert {foreseen[each].prospect for each in (poison, stranger, foreign)} == {Prospect.WAIT}
    assert str(foreseen[poison].why).startswith("cannot be read: ")
    assert str(foreseen[stranger].why).endswith(" is not known here")
    assert foreseen[foreign].why == "webhooks of this provider and mode are not configured here any more"
    assert await world.gateway.inbox.handle_once() == 0
    assert await told(world, "webhook.retried") == []
    assert await world.count("transfer") == 0


async def test_F4_a_bulk_retry_takes_the_oldest_first_and_comes_to_what_the_dry_run_said(store: Store) -> None:
    world = World(store)
    known, stranger = [await orphaned(world, name) for name in ("o1", "o2")]
    late = await poisoned(world)
    world.provider.charges = [unknown]
    await world.pay(checkout("c1", "o1"))
    done = await inbox.replay(store, world.clock, EventQuery(), ADA, most=2, dry_run=False)
    assert [event.inbox_id for event in done.events] == [known, stranger]
    await handle(world)
    assert (await inbox.read(store, known)).outcome is EventOutcome.APPLIED
    assert [event.inbox_id for event in await inbox.dead(store)] == [stranger, late]
    assert [body["by"] for body in await told(world, "webhook.retried")] == ["person ada"] * 2
    error = await refusal(inbox.replay(store, world.clock, EventQuery(), ADA, most=101, dry_run=False))
    assert error.error is ErrorCode.INVALID_REQUEST


async def test_a_bulk_retry_of_events_is_narrowed_by_provider_cause_mode_and_age(store: Store) -> None:
    world = World(store)
    await poisoned(world, "evt_0")
    world.clock.advance(timedelta(hours=1))
    await poisoned(world, "evt_1", provider="stripe")

    async def names(**query: Any) -> list[str]:
        done = await inbox.replay(store, world.clock, EventQuery(**query), ADA, most=10, dry_run=True)
        return [event.event_id for event in done.events]

    assert await names() == ["evt_0", "evt_1"]
    assert await names(provider="stripe") == ["evt_1"]
    assert await names(cause="CANNOT BE READ") == ["evt_0"]
    assert await names(mode=Mode.LIVE) == []
    assert await names(received_until=START) == ["evt_0"]


@dataclass(frozen=True, slots=True)
class WebhookDesk:
    """A gateway that listens, whose events the shop hats looks after, and a key of it."""

    world: World
    server: RunningGateway
    key: str

    async def get(self, path: str, key: str | None = None) -> Answer:
        return await self.server.ask("GET", f"/v1/webhooks{path}", key or self.key)

    async def post(self, path: str, body: Any = None, key: str | None = None) -> Answer:
        return await self.server.ask("POST", f"/v1/webhooks{path}", key or self.key, json=body)


@asynccontextmanager
async def webhook_desk(store: Store, keeper: str | None = "hats") -> AsyncIterator[WebhookDesk]:
    world = World(store, settings=replace(SETTINGS, webhooks_shop=keeper))
    async with listening(world.gateway) as url, aiohttp.ClientSession() as session:
        server = RunningGateway(url, world.gateway, session, world.clock, "")
        yield WebhookDesk(world, server, await server.make_key())


async def test_C13_the_api_lists_shows_retries_and_dismisses_events(store: Store) -> None:
    async with webhook_desk(store) as desk:
        raw = b'{"type": "x", "card": "' + CARD.encode() + b'", "data": NaN}'
        printed = print_id(INBOX, await poisoned(desk.world, raw=raw, headers={"cookie": "a=b", "x-request-id": "r1"}))
        shown = (await desk.get(f"/{printed}")).body
        assert (shown["inbox_id"], shown["provider"], shown["event_id"]) == (printed, "simulator", "evt_0")
        assert (shown["is_waiting"], shown["attempts"], shown["due_at"], shown["outcome"]) == (True, 1, None, None)
        assert shown["cause"].startswith("cannot be read: ")
        assert shown["headers"] == {"cookie": "[hidden]", "x-request-id": "r1"}
        assert ("[card number removed]" in shown["body"], shown["evidence"]) == (True, [])
        listed = (await desk.get("")).body["webhooks"]
        extra = ("headers", "body", "evidence")
        assert listed == [{name: value for name, value in shown.items() if name not in extra}]
        again = await desk.post(f"/{printed}/retry")
        assert (again.status, again.body["is_waiting"]) == (202, False)
        assert again.body["due_at"] is not None
        assert (await desk.post(f"/{printed}/retry")).status == 202
        busy = await desk.post(f"/{printed}/dismiss", {"reason": "seen"})
        assert (busy.status, busy.body["code"]) == (409, "operation_in_progress")
        await handle(desk.world)
        desk.world.clock.advance(timedelta(seconds=1))
        done = await desk.post(f"/{printed}/dismiss", {"reason": "of another installation"})
        assert (done.status, done.body["outcome"], done.body["is_waiting"]) == (200, "dismissed", False)
        assert (await desk.post(f"/{printed}/dismiss", {"reason": "again"})).body == done.body
        assert (await desk.post(f"/{printed}/retry")).status == 404
        kinds = [each["kind"] for each in (await desk.get(f"/{printed}")).body["evidence"]]
        assert kinds == ["webhook.dismissed", "webhook.retried"]
        (body,) = await told(desk.world, "webhook.dismissed")
        assert (body["by"].startswith("key key_"), body["reason"]) == (True, "of another installation")


async def test_F4_the_api_s_bulk_retry_of_events_has_a_dry_run(store: Store) -> None:
    async with webhook_desk(store) as desk:
        await poisoned(desk.world)
        desk.world.clock.advance(timedelta(seconds=1))
        known = await orphaned(desk.world, "o1")
        desk.world.provider.charges = [unknown]
        await desk.world.pay(checkout("c1", "o1"))
        dry = await desk.post("/retry", {"dry_run": True})
        assert (dry.status, dry.body["dry_run"]) == (200, True)
        assert [each["would"] for each in dry.body["webhooks"]] == ["wait", "compare"]
        assert dry.body["webhooks"][0]["why"].startswith("cannot be read: ")
        assert len((await desk.get("")).body["webhooks"]) == 2
        done = await desk.post("/retry", {"dry_run": False, "cause": "not known here"})
        assert [each["inbox_id"] for each in done.body["webhooks"]] == [print_id(INBOX, known)]
        assert (await inbox.read(store, known)).due_at is not None
        for wrong, pointer in (({"limit": 1}, "/dry_run"), ({"dry_run": True, "limit": 101}, "/limit")):
            answer = await desk.post("/retry", wrong)
            assert (answer.status, answer.body["problems"][0]["pointer"]) == (422, pointer)


async def test_the_api_s_list_of_events_goes_on_with_its_cursor_and_has_filters(store: Store) -> None:
    async with webhook_desk(store) as desk:
        for number in range(3):
            await poisoned(desk.world, f"evt_{number}", provider="stripe" if number == 1 else "simulator")
            desk.world.clock.advance(timedelta(seconds=1))
        first = (await desk.get("?limit=2")).body
        assert [each["event_id"] for each in first["webhooks"]] == ["evt_0", "evt_1"]
        rest = (await desk.get(f"?limit=2&cursor={first['next_cursor']}")).body
        assert ([each["event_id"] for each in rest["webhooks"]], rest["next_cursor"]) == (["evt_2"], None)
        foreign = await desk.get(f"?limit=2&provider=stripe&cursor={first['next_cursor']}")
        assert (foreign.status, foreign.body["code"]) == (400, "invalid_cursor")
        assert [each["event_id"] for each in (await desk.get("?provider=stripe")).body["webhooks"]] == ["evt_1"]
        assert [each["event_id"] for each in (await desk.get("?older_than_s=3")).body["webhooks"]] == ["evt_0"]


@pytest.mark.parametrize("keeper", [None, "shoes"])
async def test_B7_only_the_shop_that_looks_after_events_sees_them_and_only_in_its_mode(
    store: Store, keeper: str | None
) -> None:
    async with webhook_desk(store, keeper) as desk:
        printed = print_id(INBOX, await poisoned(desk.world))
        keys = [desk.key]
        if keeper is not None:
            live, _ = await create_key(store, desk.world.clock, keeper, Mode.LIVE)
            assert (await desk.get("", live)).body == {"webhooks": [], "next_cursor": None}
            assert (await desk.post("/retry", {"dry_run": False}, live)).body["webhooks"] == []
            keys.append(live)
        for key in keys:
            assert (await desk.get(f"/{printed}", key)).status == 404
            assert (await desk.post(f"/{printed}/retry", key=key)).status == 404
            assert (await desk.post(f"/{printed}/dismiss", {"reason": "seen"}, key)).status == 404
        assert (await desk.get("")).status == 404
        assert (await desk.post("/retry", {"dry_run": False})).status == 404
        assert (await desk.server.ask("GET", "/v1/webhooks")).status == 401
        assert (await the_event(desk.world)).is_dead
        assert await told(desk.world, "webhook.retried") == []
