"""All that a replay compares: the tables of the money path, and those of every subject."""

from collections.abc import Callable, Mapping
from operator import attrgetter
from types import MappingProxyType
from typing import Any

import msgspec

from coatcheck.audit.replay.subjects import SUBJECTS
from coatcheck.audit.replay.tables import MONEY_PATH, OPENED, Place, Table, columns_of
from coatcheck.audit.replay.tables import SUMS as MONEY_SUMS

TABLES: tuple[Table, ...] = (*MONEY_PATH, *(table for subject in SUBJECTS for table in subject.tables))
PLACES: tuple[Place, ...] = (
    *(table.place for table in TABLES if table.place is not None),
    *(OPENED, *(place for subject in SUBJECTS for place in subject.places)),
)
SUMS: tuple[str, ...] = (*MONEY_SUMS, *(statement for subject in SUBJECTS for statement in subject.sums))

# Where each kind of row that the fold makes is written.
PLACE_OF: Mapping[type[msgspec.Struct], Place] = MappingProxyType(
    {place.row: place for place in PLACES if place.row is not None}
)


def values_of(row: type[msgspec.Struct]) -> Callable[[Any], tuple[Any, ...]]:
    """Make what takes the values out of a row of this kind, in the order of its columns.

    JSON is the text that was written, and null is NULL.
    """
    take = attrgetter(*columns_of(row))
    if not any(field.type is msgspec.Raw for field in msgspec.structs.fields(row)):
        return take
    return lambda told: tuple(_text_of(value) if isinstance(value, msgspec.Raw) else value for value in take(told))


def _text_of(value: msgspec.Raw) -> str | None:
    text = bytes(value).decode()
    return None if text == "null" else text
