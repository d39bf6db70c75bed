"""The documented format: the example of docs/audit.md, made by the sealer and read by the verifier."""

import hashlib
import json
import re
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coatcheck.audit.sealing import tree
from coatcheck.audit.sealing.keys import SealingKey
from coatcheck.audit.sealing.rows import TABLES
from coatcheck.audit.sealing.seals import Sealing, make_seal
from coatcheck.audit.sealing.verifier import Finding, tables
from coatcheck.audit.sealing.verifier.chain import read_anchor
from coatcheck.audit.sealing.verifier.tables import LAYOUTS, CopyStream, Matching, TornError

PAGE = Path(__file__).parents[2] / "docs" / "audit.md"
HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
AT = datetime(2026, 11, 20, 18, 0, 5, tzinfo=UTC)


def example() -> dict[str, str]:
    table = PAGE.read_text("utf-8").partition("### An example")[2]
    found = re.findall(r"^\| ([\w ]+) \| `([^`]+)` \|$", table, flags=re.MULTILINE)
    digests = {f"{before} digest": value for (before, _), (what, value) in pairwise(found) if what == "its digest"}
    return dict(found) | digests


def test_the_sealer_makes_the_example() -> None:
    """Of the digests that the database makes: tests/integration/test_sealing_rows.py."""
    shown = example()
    found = {}
    for table in TABLES:
        row = bytes.fromhex(shown[table.name])
        row_key = b"".join(row[6 + 20 * n : 22 + 20 * n] for n in range(table.keys))
        found[table.name] = Sealing([row_key + bytes.fromhex(shown[f"{table.name} digest"])])
    key = SealingKey(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
    seal = make_seal(found, key, number=1, previous=None, sealed_at=AT, complete_to=AT)
    assert seal.content.decode() == shown["content"]
    assert seal.signature.hex() == shown["signature"]
    after = make_seal(found, key, number=2, previous=seal.content, sealed_at=AT, complete_to=None)
    assert json.loads(after.content)["previous"] == shown["seal 2 names it"]


async def test_the_verifier_reads_the_example(tmp_path: Path) -> None:
    shown = example()
    said = json.loads(shown["content"])
    anchor = tmp_path / "anchor"
    anchor.write_text(f"{shown['signature']} {shown['content']}\n")
    findings: list[Finding] = []
    known = list(read_anchor(anchor, {said["key"]}, findings))
    assert ([statement.number for statement in known], findings) == ([1], [])
    assert known[0].digest == shown["seal 2 names it"]
    for layout in LAYOUTS:
        row = bytes.fromhex(shown[layout.name])
        key = b"".join(row[6 + 20 * n : 22 + 20 * n] for n in range(layout.keys))
        matching = Matching(layout)
        matching.expect(1, key + bytes.fromhex(shown[f"{layout.name} digest"]), said[layout.name])
        assert matching.doubts == []
        stream = CopyStream(matching)
        await stream.take(HEADER + row + b"\xff\xff")
        stream.finish()
        assert (matching.rows, matching.awaited, matching.strangers) == (1, {}, {})


@pytest.mark.parametrize("table", ["event", "transfer"])
async def test_a_row_may_be_torn_anywhere(table: str) -> None:
    layout = next(each for each in LAYOUTS if each.name == table)
    shown = example()
    row = bytes.fromhex(shown[table])
    key = b"".join(row[6 + 20 * n : 22 + 20 * n] for n in range(layout.keys))
    whole = [key + bytes.fromhex(shown[f"{table} digest"])]
    sent = HEADER + 3 * row + b"\xff\xff"
    for place in range(len(sent)):
        matching = Matching(layout)
        stream = CopyStream(matching)
        for piece in (sent[:place], sent[place:]):
            await stream.take(piece)
        stream.finish()
        assert (matching.rows, list(matching.strangers), matching.copies) == (3, whole, whole * 2)
    for last in range(20, len(row) - 1, 7):
        stream = CopyStream(Matching(layout))
        await stream.take(HEADER + row[:last])
        with pytest.raises(TornError):
            stream.finish()


async def test_a_row_with_an_id_or_time_missing_is_digested_like_any_other() -> None:
    """No schema allows it; whoever is not held up by the schema must not blind the verifier either."""
    row = bytes.fromhex(example()["event"])
    shop = row[:42] + b"\xff\xff\xff\xff" + row[62:]
    timeless = row[:62] + b"\xff\xff\xff\xff" + row[74:]
    for odd in (shop, timeless):
        expected = row[6:22] + row[26:42] + hashlib.sha256(odd).digest()
        matching = Matching(LAYOUTS[0])
        stream = CopyStream(matching)
        await stream.take(HEADER + row + odd + row + b"\xff\xff")
        stream.finish()
        assert matching.rows == 3
        assert expected in matching.strangers


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 4096, 4097, 10_000])
def test_both_programs_climb_the_same_tree(count: int) -> None:
    roster = b"".join(hashlib.sha256(b"%d" % n).digest() + bytes(16) for n in range(count))
    branches = tree.branches_of(roster, 48)
    assert len(branches) == -(-count // 64)
    assert branches == [tables.branch_of(roster[start : start + 48 * 64]) for start in range(0, len(roster), 48 * 64)]
    assert tree.root_of(branches) == tables.root_of(branches)
    if count:
        changed = bytes((roster[0] ^ 1,)) + roster[1:]
        assert tree.root_of(tree.branches_of(changed, 48)) != tree.root_of(branches)


def test_no_hash_can_pass_for_one_of_another_level() -> None:
    """A row begins with 00, a branch with 01, a node with 02."""
    assert max(len(layout.columns) for layout in LAYOUTS) < 256
    leaf = b"\0" + bytes(63)
    assert len({tables.branch_of(leaf), hashlib.sha256(leaf).digest(), tables.root_of([leaf[:32], leaf[32:]])}) == 3
