"""Events that nobody could handle: what a person sees of them, and what a person may do."""

import asyncio
import json
import logging
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import pytest
import structlog
from tests.integration.outside import CALLER, START, World, checkout, unknown

from coatcheck import cli, inbox
from coatcheck.dead_letters import person_named
from coatcheck.errors import CoatcheckError, ErrorCode
from coatcheck.ids import INBOX, OPERATION, derive_id, operation_id_of, order_id_of, print_id
from coatcheck.inbox import EventOutcome, StoredEvent
from coatcheck.providers.protocol import ReceivedEvent
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
    assert (event.attempts, event.cause) == (13, "its operation is being worked on, or is not known here")


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
