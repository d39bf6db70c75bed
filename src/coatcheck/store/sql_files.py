"""The .sql files: reviewed, named by what they answer, read once."""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType


@cache
def sql_files(folder: str) -> Mapping[str, str]:
    """Return the statements of one folder of `coatcheck/sql`, by file name without `.sql`, in name order."""
    found = sorted(files("coatcheck").joinpath("sql", folder).iterdir(), key=lambda entry: entry.name)
    return MappingProxyType(
        {entry.name.removesuffix(".sql"): entry.read_text("utf-8") for entry in found if entry.name.endswith(".sql")}
    )
