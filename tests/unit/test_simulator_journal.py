"""The simulated PSP's books on disk."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from coatcheck.simulator.bank import Entry, KeysForgotten, Reset, Settled
from coatcheck.simulator.journal import Journal, JournalError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "books.jsonl"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    opened = Journal(path)
    yield opened
    opened.close()


def test_what_was_appended_is_read_back_in_order(journal: Journal) -> None:
    entries: list[Entry] = [KeysForgotten(), Settled("ch_1", "declined", "card_declined"), Reset()]
    for entry in entries:
        journal.append(entry)
    assert list(journal.entries()) == entries


def test_a_torn_last_line_is_cut_off_and_writing_goes_on(journal: Journal, path: Path) -> None:
    journal.append(KeysForgotten())
    sound = path.read_bytes()
    path.write_bytes(sound + b'{"entry":"settle","id":"ch')
    assert list(journal.entries()) == [KeysForgotten()]
    assert path.read_bytes() == sound
    journal.append(Reset())
    assert list(journal.entries()) == [KeysForgotten(), Reset()]


@pytest.mark.parametrize("damage", [b"{}\n", b'{"entry":"unheard_of"}\n', b"\xff\n"])
def test_damage_before_the_end_is_refused_with_its_place(journal: Journal, path: Path, damage: bytes) -> None:
    journal.append(KeysForgotten())
    path.write_bytes(path.read_bytes() + damage)
    journal.append(Reset())
    with pytest.raises(JournalError, match="line 2"):
        list(journal.entries())


def test_the_file_is_readable_by_its_owner_only(journal: Journal, path: Path) -> None:
    journal.append(Reset())
    assert path.stat().st_mode & 0o077 == 0
