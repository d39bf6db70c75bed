"""Where the sealing key and the anchor lie: outside the database."""

from pathlib import Path
from typing import NamedTuple

from coatcheck.config import Settings


class Places(NamedTuple):
    """The files of sealing. `posted`: how far an endpoint has been told."""

    key: Path
    public_key: Path
    anchor: Path
    posted: Path


def places_of(settings: Settings) -> Places:
    """Name the files that these settings mean; none of them need exist."""
    directory = settings.seal_dir or settings.data_dir / "seals"
    anchor_directory = settings.seal_anchor_dir or directory
    return Places(
        key=directory / "seal.key",
        public_key=directory / "seal.pub",
        anchor=anchor_directory / "anchor",
        posted=directory / "anchor.posted",
    )
