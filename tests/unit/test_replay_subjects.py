"""Subjects of the replay beside the money path: one file makes one, and what their events leave open is said."""

from datetime import UTC, datetime
from itertools import permutations
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest

from coatcheck.audit.replay import subjects
from coatcheck.audit.replay.bodies import Event, Said
from coatcheck.audit.replay.books import PLACE_OF, SUMS, TABLES, values_of
from coatcheck.audit.replay.fold import Told, fold
from coatcheck.audit.replay.subject import Heard, Subject, of_whole_rows
from coatcheck.audit.replay.subjects.api_keys import ApiKeyRow, ShopTold
from coatcheck.events import EventKind

SHOP, KEY, ONE, OTHER = (UUID(int=number) for number in range(1, 5))
START = datetime(2026, 3, 1, 12, tzinfo=UTC)
_ids = iter(range(1000, 10**9))


def event(kind: str, subject_id: UUID = KEY, /, **body: Any) -> Event:
    text = msgspec.json.encode(body).decode()
    return Event(subject_id, UUID(int=next(_ids)), kind, SHOP, "test", START, text)


def created() -> Event:
    body = {"key_id": KEY, "shop_id": SHOP, "shop_name": "hats", "mode": "test", "key_digest": "00ff"}
    return event(EventKind.API_KEY_CREATED, **body, prefix="cck_", last_four="abcd")


def revoked() -> Event:
    return event(EventKind.API_KEY_REVOKED, key_id=KEY, shop_id=SHOP, mode="test")


def told(*events: Event) -> Told:
    """Fold events in every order; it must not matter."""
    results = [fold(order) for order in permutations(events)]
    for result in results:
        assert sorted(map(repr, result.rows)) == sorted(map(repr, results[0].rows))
        assert len(result.findings) == len(results[0].findings)
    return results[0]


def test_a_key_and_its_shop_are_what_their_event_says() -> None:
    result = told(created(), revoked())
    (key,) = [row for row in result.rows if isinstance(row, ApiKeyRow)]
    assert (key.key_id, key.key_digest, key.created_at, key.revoked_at) == (KEY, b"\x00\xff", START, START)
    assert ShopTold(SHOP, "hats", START) in result.rows
    assert result.findings == []


def test_a_key_that_was_made_twice_or_never_is_a_finding() -> None:
    assert [finding.why for finding in told(revoked()).findings] == ["no event says that the key was made"]
    assert [finding.why for finding in told(created(), created()).findings] == ["the key was made before"]
    assert [finding.why for finding in told(created(), revoked(), revoked()).findings] == ["the key had ended before"]


# A subject whose events tell the whole row


class Payout(Said, frozen=True, kw_only=True):
    """As a module of `subjects` would have it."""

    payout_id: UUID
    seller: str
    status: str
    revision: int


WAY = ("REQUESTED", "SENT", "PAID", "RETURNED")
PAYOUTS = of_whole_rows("payout", Payout, ["payout.requested", "payout.sent"], rank=lambda row: WAY.index(row.status))


def heard(subject: Subject, *events: Event) -> tuple[list[Any], list[str]]:
    found: list[str] = []
    read = [Heard(each, msgspec.json.decode(each.body, type=subject.bodies[each.kind])) for each in events]
    rows = {tuple(map(repr, subject.fold(order, lambda _, why: found.append(why)))) for order in permutations(read)}
    assert len(rows) == 1, "the order of events must not matter"
    found.clear()
    return list(subject.fold(read, lambda _, why: found.append(why))), found


def payout(payout_id: UUID, status: str, **more: Any) -> Event:
    body = {"payout_id": payout_id, "seller": "acme", "status": status, "revision": 1, "transfers": []}
    return event("payout.sent", **body | more)


def test_of_whole_rows_the_one_that_ranks_highest_stands_whatever_the_order() -> None:
    rows, found = heard(
        PAYOUTS, payout(ONE, "REQUESTED"), payout(ONE, "PAID"), payout(ONE, "SENT"), payout(OTHER, "SENT")
    )
    assert sorted((row.payout_id, row.status) for row in rows) == [(ONE, "PAID"), (OTHER, "SENT")]
    assert found == []


def test_two_words_of_one_rank_are_a_finding_unless_they_are_the_same() -> None:
    assert heard(PAYOUTS, payout(ONE, "SENT"), payout(ONE, "SENT"))[1] == []
    assert heard(PAYOUTS, payout(ONE, "SENT"), payout(ONE, "SENT", seller="evil"))[1] == [
        "another event tells of the same change, and says something else"
    ]


def test_a_row_may_stand_inside_the_body_alone_or_with_others() -> None:
    class Run(msgspec.Struct, frozen=True):
        run_id: UUID
        revision: int

    runs = of_whole_rows("run", Run, ["run.made"], rank=lambda row: row.revision, inside="run")
    one, other = {"run_id": ONE, "revision": 1}, {"run_id": OTHER, "revision": 1}
    rows, found = heard(runs, event("run.made", run=one), event("run.made", run=[one | {"revision": 2}, other]))
    assert sorted((row.run_id, row.revision) for row in rows) == [(ONE, 2), (OTHER, 1)]
    assert found == []
    (table,) = runs.tables
    assert (table.key, table.columns) == (("run_id",), ("revision",))


def test_a_whole_row_is_compared_without_the_transfers_of_its_event() -> None:
    (table,) = PAYOUTS.tables
    assert table.every_column == ("payout_id", "seller", "status", "revision")


def test_a_row_that_is_the_body_may_tell_of_transfers() -> None:
    class Bare(msgspec.Struct, frozen=True):
        id: UUID

    with pytest.raises(TypeError, match="no Said"):
        of_whole_rows("bare", Bare, ["x"], rank=lambda _: 0)


def test_json_is_taken_as_it_was_written() -> None:
    class Alert(Said, frozen=True, kw_only=True):
        alert_id: UUID
        detail: msgspec.Raw

    alerts = of_whole_rows("alert", Alert, ["alert.told"], rank=lambda _: 0, as_text=["detail"])
    body = f'{{"alert_id": "{ONE}", "detail": {{"b":  1.0}}}}'
    (row,) = heard(alerts, Event(KEY, UUID(int=1), "alert.told", SHOP, "test", START, body))[0]
    assert values_of(Alert)(row) == (ONE, '{"b":  1.0}')
    nothing = msgspec.json.decode(body.replace('{"b":  1.0}', "null"), type=Alert)
    assert values_of(Alert)(nothing) == (ONE, None)
    assert "detail::text" in alerts.tables[0].stored


def test_every_module_of_subjects_is_one_and_nothing_is_compared_or_filled_twice() -> None:
    folder = Path(subjects.__file__).parent
    assert len(subjects.SUBJECTS) == len([path for path in folder.glob("*.py") if path.name != "__init__.py"]) >= 1
    assert len({table.name for table in TABLES}) == len(TABLES)
    assert {table.name for subject in subjects.SUBJECTS for table in subject.tables} <= {table.name for table in TABLES}
    for subject in subjects.SUBJECTS:
        assert set(subject.sums) <= set(SUMS)
        for body in subject.bodies.values():
            others = [other for other in subjects.SUBJECTS if other is not subject]
            assert not any(body in other.bodies.values() for other in others)
    assert len({place.name for place in PLACE_OF.values()}) == len(PLACE_OF)
