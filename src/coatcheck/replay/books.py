"""All that a replay compares: the tables of the money path, and those of every subject."""

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from coatcheck.replay.subjects import SUBJECTS
from coatcheck.replay.tables import MONEY_PATH, OPENED, Place, Table
from coatcheck.replay.tables import SUMS as MONEY_SUMS

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
