"""The files of sealing: the key is made once and is nobody else's; the anchor only grows, and is never put right."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_public_key

from coatcheck.audit.sealing.anchor import AnchorEndpoint, AnchorError, AnchorFile
from coatcheck.audit.sealing.keys import sealing_key_of
from coatcheck.audit.sealing.places import places_of
from coatcheck.config import Settings, SettingsError


def a_line(number: int, text: str = "") -> tuple[int, bytes]:
    return number, b'aabb {"format":1,"seal":%d,"text":"%s"}\n' % (number, text.encode())


@pytest.fixture
def anchor(tmp_path: Path) -> AnchorFile:
    return AnchorFile(tmp_path / "seals" / "anchor")


def test_the_key_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "seal.key"
    key = sealing_key_of(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert sealing_key_of(path).public_hex == key.public_hex
    public = load_pem_public_key((tmp_path / "deep" / "seal.pub").read_bytes())
    public.verify(key.sign(b"content"), b"content")  # type: ignore[union-attr, call-arg]
    assert sorted(each.name for each in path.parent.iterdir()) == ["seal.key", "seal.pub"]


def test_processes_that_start_together_use_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as several:
        keys = list(several.map(sealing_key_of, [tmp_path / "seal.key"] * 16))
    assert len({key.public_hex for key in keys}) == 1


def test_a_key_that_cannot_be_one_is_said_to_be_so(tmp_path: Path) -> None:
    path = tmp_path / "seal.key"
    path.write_text("no key")
    with pytest.raises(SettingsError, match="not a private key"):
        sealing_key_of(path)
    other = generate_private_key(SECP256R1())
    path.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(SettingsError, match="not an ed25519 key"):
        sealing_key_of(path)


def test_a_lost_key_is_not_replaced_behind_the_public_one(tmp_path: Path) -> None:
    path = tmp_path / "seal.key"
    sealing_key_of(path)
    path.unlink()
    with pytest.raises(SettingsError, match=r"restore it, or move .*seal\.pub away"):
        sealing_key_of(path)
    sealing_key_of(tmp_path / "other.key")
    (tmp_path / "other.key").rename(path)
    with pytest.raises(SettingsError, match="not the public half"):
        sealing_key_of(path)


def test_the_files_lie_in_the_data_directory_and_not_in_the_database(tmp_path: Path) -> None:
    places = places_of(Settings(data_dir=tmp_path))
    assert {place.parent for place in places} == {tmp_path / "seals"}
    assert places.public_key == places.key.with_suffix(".pub")
    elsewhere = places_of(Settings(data_dir=tmp_path, seal_dir=tmp_path / "a", seal_anchor_dir=tmp_path / "b"))
    assert (elsewhere.key.parent, elsewhere.anchor) == (tmp_path / "a", tmp_path / "b" / "anchor")


def test_a_place_that_cannot_be_written_is_said_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    with pytest.raises(SettingsError, match="COATCHECK_SEAL_DIR"):
        sealing_key_of(tmp_path / "file" / "seal.key")
    with pytest.raises(SettingsError, match="the anchor cannot be written"):
        AnchorFile(tmp_path / "file" / "anchor").prepare()


def test_an_anchor_gets_what_it_has_not_got(anchor: AnchorFile, tmp_path: Path) -> None:
    assert anchor.last_number() == 0
    anchor.keep([], 0)
    anchor.keep([a_line(1), a_line(2)], 0)
    assert anchor.last_number() == 2
    anchor.keep([a_line(2), a_line(3)], 2)
    anchor.keep([a_line(2)], 2)  # read before the third was made, by a process that comes too late
    assert (tmp_path / "seals" / "anchor").read_bytes() == b"".join(a_line(n)[1] for n in (1, 2, 3))


def test_a_torn_line_is_cut_off_and_written_again(anchor: AnchorFile, tmp_path: Path) -> None:
    path = tmp_path / "seals" / "anchor"
    long = "x" * 200_000
    anchor.keep([a_line(1, long), a_line(2, long)], 0)
    path.write_bytes(path.read_bytes()[:-100_000])
    assert anchor.last_number() == 1
    anchor.keep([a_line(1, long), a_line(2, long)], 1)
    assert path.read_bytes() == a_line(1, long)[1] + a_line(2, long)[1]
    path.write_bytes(b"aa")
    assert anchor.last_number() == 0


@pytest.mark.parametrize(
    ("lines", "after"),
    [
        ([a_line(2, "another")], 2),
        ([a_line(2, "another"), a_line(3)], 2),
        ([a_line(3)], 2),
        ([], 2),
        ([a_line(2), a_line(4)], 2),
    ],
    ids=["rewritten", "rewritten and longer", "gone, and longer", "gone", "with a gap"],
)
def test_G19_an_anchor_is_never_brought_in_line_with_the_database(
    anchor: AnchorFile, tmp_path: Path, lines: list[tuple[int, bytes]], after: int
) -> None:
    anchor.keep([a_line(1), a_line(2)], 0)
    with pytest.raises(AnchorError):
        anchor.keep(lines, after)
    assert (tmp_path / "seals" / "anchor").read_bytes() == a_line(1)[1] + a_line(2)[1]


def test_an_anchor_that_is_something_else_is_left_alone(anchor: AnchorFile, tmp_path: Path) -> None:
    (tmp_path / "seals").mkdir()
    (tmp_path / "seals" / "anchor").write_bytes(b"a diary\n")
    with pytest.raises(AnchorError, match="is no seal"):
        anchor.keep([a_line(1)], 0)


def test_an_endpoint_begins_at_the_first_seal(tmp_path: Path) -> None:
    posted = tmp_path / "anchor.posted"
    assert AnchorEndpoint("http://nobody", posted).last_number() == 0
    posted.write_text("17")
    assert AnchorEndpoint("http://nobody", posted).last_number() == 17
    posted.write_text("seventeen")
    assert AnchorEndpoint("http://nobody", posted).last_number() == 0
