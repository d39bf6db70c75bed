"""The chain as the verifier weighs it: the anchor against the database, seal by seal."""

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coatcheck.audit.sealing.keys import SealingKey, sealing_key_of
from coatcheck.audit.sealing.seals import Sealing, make_seal
from coatcheck.audit.sealing.verifier.chain import Chain, StoredSeal, UnreadableError, read_anchor, read_public_keys

if TYPE_CHECKING:
    from coatcheck.audit.sealing.verifier import Finding

AT = datetime(2026, 11, 20, 18, 0, tzinfo=UTC)
KEY, FOREIGN = (SealingKey(Ed25519PrivateKey.from_private_bytes(bytes([n] * 32))) for n in (1, 2))
KEYS = frozenset({KEY.public_hex})
Stored = list[StoredSeal]


def a_chain(length: int, key: SealingKey = KEY) -> Stored:
    seals: Stored = []
    for number in range(1, length + 1):
        found = {"event": Sealing([bytes([number]) * 64]), "transfer": Sealing()}
        previous = seals[-1].content if seals else None
        seal = make_seal(found, key, number=number, previous=previous, sealed_at=AT, complete_to=AT)
        seals.append(StoredSeal(seal.number, seal.content, seal.signature))
    return seals


CHAIN = a_chain(6)


def anchor_of(path: Path, seals: Stored) -> Path:
    anchor = path / "anchor"
    anchor.write_bytes(b"".join(seal.signature.hex().encode() + b" " + seal.content + b"\n" for seal in seals))
    return anchor


def weigh(path: Path, anchored: Stored, stored: Stored) -> tuple[Chain, list[str]]:
    findings: list[Finding] = []
    chain = Chain(read_anchor(anchor_of(path, anchored), KEYS, findings), KEYS)
    for _, rows in groupby(sorted(stored, key=attrgetter("number")), key=attrgetter("number")):
        chain.take(list(rows))
    chain.finish()
    return chain, [f"{finding.place} {finding.name} {finding.text}" for finding in (*findings, *chain.findings)]


def test_a_chain_that_is_whole_is_believed(tmp_path: Path) -> None:
    for anchored in (6, 4, 0):
        chain, told = weigh(tmp_path, CHAIN[:anchored], CHAIN)
        assert (told, chain.unanchored, chain.believed) == ([], 6 - anchored, 6)
        assert all(chain.believes(seal.number, seal.content) for seal in CHAIN)


def test_an_anchor_that_was_begun_later_vouches_for_what_it_continues(tmp_path: Path) -> None:
    chain, told = weigh(tmp_path, CHAIN[3:], CHAIN)
    assert (told, chain.unanchored) == ([], 3)
    forged = dataclasses.replace(CHAIN[2], content=CHAIN[2].content.replace(b"18:00", b"18:01"))
    forged = dataclasses.replace(forged, signature=KEY.sign(forged.content))  # even with the key
    chain, told = weigh(tmp_path, CHAIN[3:], [*CHAIN[:2], forged, *CHAIN[3:]])
    assert told == ["seal 3 is not what seal 4 continues"]
    assert (chain.unanchored, chain.believed) == (2, 5)
    assert not chain.believes(3, forged.content)
    _, told = weigh(tmp_path, CHAIN[3:], [CHAIN[0], *CHAIN[2:]])
    assert told == ["seal 2 is missing in the database"]


CUT = [f"seal {number} is missing in the database: the tail was cut" for number in (5, 6)]


@pytest.mark.parametrize(
    ("tamper", "expected"),
    [
        (lambda seals: seals[:4], CUT),
        (lambda _: [], [f"seal {n} is missing in the database: the tail was cut" for n in range(1, 7)]),
        (lambda seals: [*seals[:2], *seals[3:]], ["seal 3 is missing in the database"]),
        (lambda seals: [*seals, seals[2]], ["seal 3 stands 2 times in the database"]),
        (
            lambda seals: [*seals[:2], StoredSeal(3, seals[3].content, seals[3].signature), *seals[3:]],
            ["seal 3 was rewritten: not as in the anchor (seal, previous, event)"],
        ),
        (
            lambda seals: [*seals[:5], StoredSeal(6, seals[5].content, bytes(64))],
            ["seal 6 was rewritten: its signature is not as in the anchor"],
        ),
        (
            lambda seals: [*seals[:5], StoredSeal(6, seals[5].content + b" ", seals[5].signature)],
            ["seal 6 was rewritten: not as in the anchor (its letters)"],
        ),
        (
            lambda seals: [StoredSeal(-1, b"", b""), *seals, StoredSeal(10**15, b"", b"")],
            [f"seal {number} has a number that no seal has" for number in (-1, 10**15)],
        ),
    ],
    ids=["tail", "all", "gap", "twice", "another", "signature", "space", "no number"],
)
def test_G19_what_the_anchor_has_is_the_measure(
    tmp_path: Path, tamper: Callable[[Stored], Stored], expected: list[str]
) -> None:
    chain, told = weigh(tmp_path, CHAIN, tamper(CHAIN))
    assert sorted(told) == sorted(expected)
    assert all(chain.believes(seal.number, seal.content) for seal in CHAIN)
    assert chain.last is not None
    assert chain.last.number == 6


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (StoredSeal(6, b"{}", bytes(64)), "seal 6 says nothing that a seal says"),
        (StoredSeal(6, CHAIN[5].content, bytes(64)), "seal 6 has a signature that does not fit"),
        (StoredSeal(6, CHAIN[4].content, CHAIN[4].signature), "seal 6 says that it is seal 5"),
        (a_chain(6, FOREIGN)[5], "seal 6 was signed with a key that was not given"),
    ],
)
def test_G19_beyond_the_anchor_the_signature_and_the_chain_are_the_measure(
    tmp_path: Path, last: StoredSeal, expected: str
) -> None:
    _, told = weigh(tmp_path, CHAIN[:5], [*CHAIN[:5], last])
    assert told == [expected]


def test_G19_a_fork_made_with_the_stolen_key_is_found_by_the_anchor(tmp_path: Path) -> None:
    found = {"event": Sealing(), "transfer": Sealing()}
    forged = [*CHAIN[:3]]
    for number in (4, 5, 6):
        seal = make_seal(found, KEY, number=number, previous=forged[-1].content, sealed_at=AT, complete_to=AT)
        forged.append(StoredSeal(number, seal.content, seal.signature))
    _, told = weigh(tmp_path, [], forged)
    assert told == []  # by itself it is as good as any
    _, told = weigh(tmp_path, CHAIN, forged)
    assert [line[:20] for line in told] == ["seal 4 was rewritten", "seal 5 was rewritten", "seal 6 was rewritten"]


def test_a_broken_anchor_is_told_line_by_line_and_the_rest_of_it_still_counts(tmp_path: Path) -> None:
    lines = anchor_of(tmp_path, CHAIN).read_bytes().splitlines(keepends=True)
    for number, broken, fault in (
        (2, b"no seal\n", "is no seal"),
        (3, lines[2].replace(b"18:00", b"18:01"), "has a signature that does not fit"),
        (4, lines[4], "is seal 5, after seal 3"),
        (1, lines[0][:-1] + b"x\n", "is no seal"),
    ):
        (tmp_path / "broken").write_bytes(b"".join([*lines[: number - 1], broken, *lines[number:]]))
        findings: list[Finding] = []
        known = list(read_anchor(tmp_path / "broken", KEYS, findings))
        assert [(finding.name, finding.text) for finding in findings] == [(f"line {number}", fault)]
        assert len(known) == 5
    (tmp_path / "torn").write_bytes(b"".join(lines)[:-40])
    findings = []
    assert (len(list(read_anchor(tmp_path / "torn", KEYS, findings))), findings) == (5, [])


def test_a_line_of_another_chain_is_no_line_of_this_one(tmp_path: Path) -> None:
    found = {"event": Sealing(), "transfer": Sealing()}
    other = make_seal(found, KEY, number=4, previous=b"another past", sealed_at=AT, complete_to=None)
    forged = [*CHAIN[:3], StoredSeal(4, other.content, other.signature)]
    findings: list[Finding] = []
    assert len(list(read_anchor(anchor_of(tmp_path, forged), KEYS, findings))) == 3
    assert [finding.text for finding in findings] == ["does not continue the line before it"]


def test_keys_are_ed25519_and_public(tmp_path: Path) -> None:
    key = sealing_key_of(tmp_path / "seal.key")
    assert read_public_keys([tmp_path / "seal.pub"]) == {key.public_hex}
    for path in (tmp_path / "seal.key", tmp_path / "nothing.pub"):
        with pytest.raises(UnreadableError):
            read_public_keys([path])
    with pytest.raises(UnreadableError):
        next(read_anchor(tmp_path / "nothing", KEYS, []))


def test_what_is_added_to_the_anchor_meanwhile_does_not_count(tmp_path: Path) -> None:
    """It may be newer than the snapshot of the database: that would look like a tail that was cut."""
    anchor = anchor_of(tmp_path, CHAIN[:3])
    lines = read_anchor(anchor, KEYS, [])
    known = [next(lines)]
    (tmp_path / "newer").mkdir()
    newer = anchor_of(tmp_path / "newer", CHAIN[3:]).read_bytes()
    with anchor.open("ab") as file:
        file.write(newer)
    assert [*known, *lines][-1].number == 3
