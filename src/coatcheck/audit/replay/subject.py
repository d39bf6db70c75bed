"""A subject: what is told of one sort of thing, what rows that makes, and the tables they are compared with. Pure.

The money path (payments, their orders, operations and refunds, and the ledger) is folded in `fold`. Everything else
that has a state and tells it in events is a subject: one small module of `subjects`, which no other file names.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any, Generic, NamedTuple, TypeVar, cast

import msgspec

from coatcheck.audit.replay.bodies import Event, Said
from coatcheck.audit.replay.tables import Place, Table, columns_of, table_of

Body = TypeVar("Body", bound=Said)

Find = Callable[[Event, str], None]
"""Takes an event of which no row can be made, and why: that is a difference."""


class Heard(NamedTuple, Generic[Body]):
    """An event that was read."""

    event: Event
    body: Body

    @property
    def at(self) -> datetime:
        """When it was written, by the clock of whoever wrote it."""
        return self.event.at


Fold = Callable[[Sequence[Heard[Any]], Find], Iterable[msgspec.Struct]]
"""Makes rows of all that was heard about one thing (one `subject_id`). The events are in no order, and need none."""


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """One sort of thing.

    `bodies`: what is read of an event, by its kind; a struct that is no other subject's. `fold` makes rows for the
    places of `tables` and `places`. `sums`: SQL that runs when all events are read, for what several things add up to.
    """

    bodies: Mapping[str, type[Said]]
    fold: Fold
    tables: tuple[Table, ...]
    places: tuple[Place, ...] = ()
    sums: tuple[str, ...] = ()


def of_whole_rows(
    name: str,
    row: type[msgspec.Struct],
    kinds: Iterable[str],
    *,
    rank: Callable[[Any], Any],
    inside: str | None = None,
    keys: int = 1,
    as_text: Iterable[str] = (),
) -> Subject:
    """Make a subject of a table of which every event tells the whole row, as it was after that change.

    `row`: a struct with the table's columns, the first `keys` of them its key. It is the event's body (then it is a
    Said), or stands in the body's field `inside`, alone or in a list. `rank`: which of two versions of a row is the
    later one, by what the row says: a number that each change raises, or how far its status is on a way of one
    direction; never a time. Events of one rank that tell different rows are a difference.
    """
    body = row if inside is None else _body_with(inside, row)
    if not issubclass(body, Said):
        raise TypeError(f"{row.__name__} is no Said: an event's body may always tell of transfers")
    key = columns_of(row)[:keys]

    def fold(heard: Sequence[Heard[Any]], find: Find) -> Iterable[msgspec.Struct]:
        told = ((each, row) for each in heard for row in _rows_in(each.body, inside))
        return newest(told, find, key=lambda row: tuple(getattr(row, name) for name in key), rank=rank)

    return Subject(
        bodies=MappingProxyType({str(kind): body for kind in kinds}),
        fold=fold,
        tables=(table_of(name, row, keys=keys, as_text=as_text),),
    )


def newest(
    told: Iterable[tuple[Heard[Any], Any]], find: Find, *, key: Callable[[Any], Any], rank: Callable[[Any], Any]
) -> Iterable[msgspec.Struct]:
    """Keep the latest version of each row, by its rank. Finds fault where two of one rank are not the same."""
    rows: dict[Any, Any] = {}
    for heard, row in sorted(told, key=lambda pair: pair[0].event.event_id):
        known = rows.setdefault(key(row), row)
        if rank(row) > rank(known):
            rows[key(row)] = row
        elif rank(row) == rank(known) and _values_of(row) != _values_of(known):
            find(heard.event, "another event tells of the same change, and says something else")
    return rows.values()


def _values_of(row: msgspec.Struct) -> tuple[Any, ...]:
    return tuple(getattr(row, column) for column in columns_of(type(row)))


def _body_with(inside: str, row: type[msgspec.Struct]) -> type[Said]:
    """Make the struct of a body that has a row, or a list of them, in one field."""
    field = (inside, row | list[row])  # type: ignore[valid-type]  # made while the program runs
    body = msgspec.defstruct(f"{row.__name__}Told", [field], bases=(Said,), frozen=True, kw_only=True)
    return cast("type[Said]", body)


def _rows_in(body: Any, inside: str | None) -> Sequence[Any]:
    told = body if inside is None else getattr(body, inside)
    return told if isinstance(told, list) else (told,)
