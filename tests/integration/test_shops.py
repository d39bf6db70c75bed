import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from coatcheck.clock import ManualClock
from coatcheck.errors import CoatcheckError, ErrorCode
from coatcheck.shops import Caller, KeyRing, create_key, is_well_formed, list_keys, make_key, revoke_key, shop_id_of
from coatcheck.states import Mode
from coatcheck.store import Store

START = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


class CountingPool:
    """The real pool, and how often it was asked."""

    def __init__(self, pool: Any) -> None:
        self.pool, self.asked = pool, 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def fetchrow(self, *arguments: Any) -> Any:
        self.asked += 1
        await self.gate.wait()
        return await self.pool.fetchrow(*arguments)


def counting(store: Store) -> tuple[Store, CountingPool]:
    pool = CountingPool(store.pool)
    return Store(pool, store.queries, store.invariants), pool  # type: ignore[arg-type]


async def refusal(question: Coroutine[Any, Any, Caller]) -> CoatcheckError:
    with pytest.raises(CoatcheckError) as caught:
        await question
    assert caught.value.error is ErrorCode.UNAUTHENTICATED
    assert caught.value.headers["WWW-Authenticate"].startswith("Bearer")
    return caught.value


@pytest.mark.parametrize("mode", Mode)
async def test_a_new_key_tells_who_is_calling(store: Store, clock: ManualClock, mode: Mode) -> None:
    printed, key = await create_key(store, clock, " Hats & Co ", mode)
    caller = await KeyRing(store, clock).authenticate(f"Bearer {printed}")
    assert caller == Caller(shop_id_of("Hats & Co"), "Hats & Co", mode, key.key_id)
    assert caller == await KeyRing(store, clock).authenticate(f"bearer  {printed} ".encode())
    assert printed.startswith(f"cck_{mode}_")
    assert (printed.startswith(key.prefix), printed.endswith(key.last_four)) == (True, True)


async def test_the_key_itself_is_nowhere_in_the_database(store: Store, clock: ManualClock) -> None:
    printed, _ = await create_key(store, clock, "Hats", Mode.TEST)
    secret = printed.removeprefix("cck_test_")
    for table in ("shop", "api_key", "event"):
        for text in await store.pool.fetch(f"SELECT t::text AS text FROM {table} AS t"):
            assert secret[4:-4] not in text["text"]


async def test_two_keys_of_one_name_are_of_one_shop(store: Store, clock: ManualClock) -> None:
    made = await asyncio.gather(*(create_key(store, clock, "Hats", mode) for mode in (*Mode, *Mode)))
    assert len({key.shop_id for _, key in made}) == 1
    assert len({printed for printed, _ in made}) == 4
    assert await store.pool.fetchval("SELECT count(*) FROM shop") == 1
    assert {key.key_id for key in await list_keys(store)} == {key.key_id for _, key in made}


@pytest.mark.parametrize("name", ["", "  ", "x" * 101, "a\0b", "a\nb"])
async def test_a_name_that_cannot_be_used_is_refused(store: Store, clock: ManualClock, name: str) -> None:
    with pytest.raises(CoatcheckError, match="1 to 100 printable"):
        await create_key(store, clock, name, Mode.TEST)


async def test_a_shop_s_id_taken_by_another_name_is_compared_not_assumed(
    store: Store, clock: ManualClock, owner: asyncpg.Connection
) -> None:
    await owner.execute("INSERT INTO shop VALUES ($1, 'Other', $2)", shop_id_of("Hats"), START)
    with pytest.raises(CoatcheckError, match="choose another name"):
        await create_key(store, clock, "Hats", Mode.TEST)
    assert await list_keys(store) == []


async def test_creation_and_revocation_write_their_events(store: Store, clock: ManualClock) -> None:
    _, key = await create_key(store, clock, "Hats", Mode.LIVE)
    clock.advance(timedelta(hours=1))
    await revoke_key(store, clock, key.printed_id)
    await revoke_key(store, clock, key.printed_id)  # no second event
    rows = await store.pool.fetch("SELECT * FROM event WHERE subject_id = $1 ORDER BY event_id", key.key_id)
    assert [(row["kind"], row["mode"], row["at"]) for row in rows] == [
        ("api_key.created", "live", START),
        ("api_key.revoked", "live", START + timedelta(hours=1)),
    ]
    created, revoked = (json.loads(row["body"]) for row in rows)
    digest = await store.pool.fetchval("SELECT key_digest FROM api_key")
    assert created == {
        "key_id": str(key.key_id),
        "shop_id": str(key.shop_id),
        "shop_name": "Hats",
        "mode": "live",
        "key_digest": digest.hex(),
        "prefix": key.prefix,
        "last_four": key.last_four,
    }
    assert revoked == {"key_id": str(key.key_id), "shop_id": str(key.shop_id), "mode": "live"}


@pytest.mark.parametrize("header", [None, "", b"", "Basic dXNlcjpwYXNz", "Bearer", "cck_test_x"])
async def test_a_missing_key_is_told_how_to_send_one(store: Store, clock: ManualClock, header: str | None) -> None:
    assert "Authorization: Bearer cck_test_" in (await refusal(KeyRing(store, clock).authenticate(header))).detail


async def test_a_mistyped_key_is_refused_without_asking_the_database(store: Store, clock: ManualClock) -> None:
    watched, pool = counting(store)
    printed, _ = await create_key(store, clock, "Hats", Mode.TEST)
    ring = KeyRing(watched, clock)
    other = "B" if printed[20] == "A" else "A"
    for wrong in (
        printed[:-1],
        printed + "x",
        printed[:20] + other + printed[21:],
        printed.replace("test", "live"),
        "\xe9" * len(printed),
        "Bearer " * 1000,
    ):
        assert "mistyped" in (await refusal(ring.authenticate(f"Bearer {wrong}"))).detail
    assert pool.asked == 0


async def test_an_unknown_key_is_asked_for_once_a_second(store: Store, clock: ManualClock) -> None:
    watched, pool = counting(store)
    ring, key = KeyRing(watched, clock), make_key(Mode.TEST)
    for _ in range(3):
        assert "not known" in (await refusal(ring.authenticate(f"Bearer {key}"))).detail
    assert pool.asked == 1
    clock.advance(timedelta(seconds=1))
    await refusal(ring.authenticate(f"Bearer {key}"))
    assert pool.asked == 2


async def test_a_revoked_key_stops_working_within_a_second_and_the_others_do_not(
    store: Store, clock: ManualClock
) -> None:
    first, key = await create_key(store, clock, "Hats", Mode.TEST)
    second, _ = await create_key(store, clock, "Hats", Mode.TEST)
    ring = KeyRing(store, clock)
    await ring.authenticate(f"Bearer {first}")
    await revoke_key(store, clock, key.printed_id)
    clock.advance(timedelta(milliseconds=950))
    assert "revoked" in (await refusal(ring.authenticate(f"Bearer {first}"))).detail
    await ring.authenticate(f"Bearer {second}")


async def test_a_clock_set_back_gives_a_revoked_key_nothing(store: Store, clock: ManualClock) -> None:
    printed, key = await create_key(store, clock, "Hats", Mode.TEST)
    ring = KeyRing(store, clock)
    await ring.authenticate(f"Bearer {printed}")
    await revoke_key(store, clock, key.printed_id)
    clock.advance(timedelta(hours=-1))
    await refusal(ring.authenticate(f"Bearer {printed}"))


async def test_a_key_s_digest_is_compared_not_assumed(
    store: Store, clock: ManualClock, owner: asyncpg.Connection
) -> None:
    printed, _ = await create_key(store, clock, "Hats", Mode.TEST)
    await owner.execute("UPDATE api_key SET key_digest = $1", bytes(32))
    await refusal(KeyRing(store, clock).authenticate(f"Bearer {printed}"))


async def test_a_known_key_is_asked_for_once_in_its_time(store: Store, clock: ManualClock) -> None:
    watched, pool = counting(store)
    printed, _ = await create_key(store, clock, "Hats", Mode.TEST)
    ring = KeyRing(watched, clock)
    for _ in range(5):
        await ring.authenticate(f"Bearer {printed}")
    assert pool.asked == 1
    clock.advance(timedelta(seconds=1))
    await ring.authenticate(f"Bearer {printed}")
    assert pool.asked == 2


async def test_concurrent_questions_share_one_query_and_one_that_leaves_spoils_nothing(
    store: Store, clock: ManualClock
) -> None:
    watched, pool = counting(store)
    printed, key = await create_key(store, clock, "Hats", Mode.TEST)
    ring = KeyRing(watched, clock)
    pool.gate.clear()
    questions = [asyncio.create_task(ring.authenticate(f"Bearer {printed}")) for _ in range(20)]
    await asyncio.sleep(0)
    questions[0].cancel()  # the one that asked first
    await asyncio.sleep(0)
    pool.gate.set()
    callers = await asyncio.gather(*questions, return_exceptions=True)
    assert isinstance(callers[0], asyncio.CancelledError)
    assert {caller.key_id for caller in callers[1:] if isinstance(caller, Caller)} == {key.key_id}
    assert not any(isinstance(caller, BaseException) for caller in callers[1:])
    assert pool.asked == 1


async def test_a_database_that_fails_is_not_an_answer(store: Store, clock: ManualClock) -> None:
    class Broken:
        async def fetchrow(self, *_: Any) -> Any:
            raise OSError("gone")

    printed, _ = await create_key(store, clock, "Hats", Mode.TEST)
    ring = KeyRing(Store(Broken(), store.queries, store.invariants), clock)  # type: ignore[arg-type]
    for _ in range(2):
        with pytest.raises(OSError, match="gone"):
            await ring.authenticate(f"Bearer {printed}")
    ring._store = store  # it comes back: nothing was remembered
    await ring.authenticate(f"Bearer {printed}")


async def test_what_is_remembered_is_bounded_and_guesses_push_no_key_out(
    store: Store, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coatcheck.shops._REMEMBERED", 3)
    watched, pool = counting(store)
    printed, _ = await create_key(store, clock, "Hats", Mode.TEST)
    ring = KeyRing(watched, clock)
    await ring.authenticate(f"Bearer {printed}")
    for _ in range(10):
        await refusal(ring.authenticate(f"Bearer {make_key(Mode.TEST)}"))
    assert len(ring._unknown) == 3
    asked = pool.asked
    await ring.authenticate(f"Bearer {printed}")
    assert pool.asked == asked


async def test_a_key_is_revoked_by_id_prefix_last_four_or_itself(store: Store, clock: ManualClock) -> None:
    for way in range(4):
        printed, key = await create_key(store, clock, "Hats", Mode.TEST)
        named = (key.printed_id, key.prefix, key.last_four, printed)[way]
        revoked = await revoke_key(store, clock, f" {named} ")
        assert (revoked.key_id, revoked.revoked_at) == (key.key_id, START)


async def test_a_key_that_is_not_there_or_not_the_only_one_is_not_revoked(
    store: Store, clock: ManualClock, owner: asyncpg.Connection
) -> None:
    with pytest.raises(CoatcheckError, match="keys list"):
        await revoke_key(store, clock, "nope")
    keys = [(await create_key(store, clock, name, Mode.TEST))[1] for name in ("Hats", "Coats")]
    await owner.execute("UPDATE api_key SET last_four = 'same'")
    with pytest.raises(CoatcheckError, match="More than one") as caught:
        await revoke_key(store, clock, "same")
    assert all(key.printed_id in caught.value.detail for key in keys)
    assert [key.revoked_at for key in await list_keys(store)] == [None, None]
    await revoke_key(store, clock, keys[0].printed_id)
    assert (await revoke_key(store, clock, "same")).key_id == keys[1].key_id  # only one of them is still in use


async def test_the_application_cannot_change_a_key_s_owner_or_take_a_key_away(store: Store, clock: ManualClock) -> None:
    await create_key(store, clock, "Hats", Mode.TEST)
    for statement in (
        "UPDATE api_key SET mode = 'live'",
        "UPDATE api_key SET shop_id = gen_random_uuid()",
        "UPDATE shop SET name = 'Mine'",
        "DELETE FROM api_key",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await store.pool.execute(statement)


async def test_a_known_key_asks_the_database_once(store: Store, clock: ManualClock) -> None:
    printed, _ = await create_key(store, clock, "Hats", Mode.TEST)
    ring, header = KeyRing(store, clock), f"Bearer {printed}".encode()
    first = await ring.authenticate(header)
    await store.pool.close()  # whoever asks again would fail
    assert [await ring.authenticate(header) for _ in range(3)] == [first] * 3


def test_keys_are_random_and_check_themselves() -> None:
    keys = {make_key(Mode.LIVE) for _ in range(1000)}
    assert len(keys) == 1000
    assert all(is_well_formed(key) for key in keys)
    key = keys.pop()
    for index in range(len(key)):
        swapped = "x" if key[index] != "x" else "y"
        assert not is_well_formed(key[:index] + swapped + key[index + 1 :])
    for letter in "_-é٣ ":
        assert not is_well_formed(key[:-7] + letter + key[-6:])


def coatcheck(database_url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "DATABASE_URL": database_url}
    command = [sys.executable, "-c", "from coatcheck.cli import main; main()", *arguments]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603


def test_the_command_line_creates_lists_and_revokes(database_url: str) -> None:
    assert "keys create" in coatcheck(database_url, "keys", "list").stdout
    created = coatcheck(database_url, "keys", "create", "--shop", "[b]Hats[/b]", "--live")
    assert (created.returncode, is_well_formed(created.stdout.strip())) == (0, True)
    assert created.stdout.strip() not in created.stderr
    last_four = created.stdout.strip()[-4:]
    listed = coatcheck(database_url, "keys", "list").stdout
    assert "[b]Hats[/b]" in listed
    assert f"...{last_four}" in listed
    assert "in use" in listed
    assert coatcheck(database_url, "keys", "revoke", last_four).returncode == 0
    assert "revoked 20" in coatcheck(database_url, "keys", "list").stdout


def test_the_command_line_says_in_one_line_what_is_wrong(database_url: str) -> None:
    for address, arguments, words in (
        (database_url, ["keys", "revoke", "nope"], "keys list"),
        (database_url, ["keys", "create", "--shop", " "], "printable"),
        ("postgresql://me:hunter2@127.0.0.1:1/db", ["keys", "list"], "cannot connect to PostgreSQL"),
    ):
        done = coatcheck(address, *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith("coatcheck: ")
        assert words in line
        assert "hunter2" not in line


async def test_the_command_line_audits_in_words(database_url: str, owner: asyncpg.Connection) -> None:
    clean = await asyncio.to_thread(coatcheck, database_url, "audit")
    assert (clean.returncode, "invariants hold." in clean.stdout, "VIOLATED" in clean.stdout) == (0, True, False)
    await owner.execute(
        """INSERT INTO account (account_id, shop_id, mode, name, kind, currency, debits_posted_minor, opened_at)
           VALUES (gen_random_uuid(), gen_random_uuid(), 'test', 'bank:x', 'bank', 'EUR', 7, now())"""
    )
    broken = await asyncio.to_thread(coatcheck, database_url, "audit")
    assert broken.returncode == 1
    assert "VIOLATED  ledger_counters_equal_transfers: " in broken.stdout
    assert "invariants do not hold: " in broken.stdout
