"""The chain: what each seal says, as the anchor and the database have it, and which of them is to be believed.

The anchor is believed first. A seal that it has not got is believed when its signature and its place in the chain are
right. Both are read from the first seal to the last, and of a seal that is as it should be only its digest is kept.
"""

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from coatcheck.audit.sealing.verifier.findings import Fault, Finding

_FORMAT = 1
_FIELDS = ("format", "seal", "previous", "sealed_at", "complete_to", "key", "event", "transfer")
_NO_SEAL = "0" * 64
_DIGEST_BYTES = 32
_UNKNOWN = bytes(_DIGEST_BYTES)


class UnreadableError(Exception):
    """Nothing can be verified; the text says what is missing."""


@dataclass(frozen=True, slots=True)
class Statement:
    """A seal: the bytes that were signed, the signature, and what they say."""

    content: bytes
    signature: bytes
    said: Mapping[str, Any]

    @property
    def number(self) -> int:
        """Its place in the chain, from 1."""
        return int(self.said["seal"])

    @property
    def digest(self) -> str:
        """How the next seal names it."""
        return hashlib.sha256(self.content).hexdigest()


def read_public_keys(paths: Sequence[Path]) -> frozenset[str]:
    """Read ed25519 public keys in PEM form, as seals name them. Raises UnreadableError."""
    keys = set()
    for path in paths:
        try:
            key = load_pem_public_key(path.read_bytes())
        except OSError as error:
            raise UnreadableError(f"the public key {path} cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise UnreadableError(f"{path} is no public key in PEM form") from error
        if not isinstance(key, Ed25519PublicKey):
            raise UnreadableError(f"{path} is not an ed25519 key")
        keys.add(key.public_bytes(Encoding.Raw, PublicFormat.Raw).hex())
    return frozenset(keys)


def fault_of(statement: Statement, keys: Collection[str]) -> str | None:
    """Say what is wrong with a seal by itself; None when a key that is known has signed it."""
    said = statement.said
    if said.get("format") != _FORMAT:
        return f"has the format {said.get('format')!r}, which is unknown here"
    if said.get("key") not in keys:
        return "was signed with a key that was not given"
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(said["key"])).verify(statement.signature, statement.content)
    except (InvalidSignature, ValueError):
        return "has a signature that does not fit"
    return None


def _statement_of(content: bytes, signature: bytes) -> Statement | None:
    try:
        said = json.loads(content)
    except ValueError:
        return None
    is_seal = isinstance(said, dict) and set(_FIELDS) <= said.keys() and type(said["seal"]) is int
    return Statement(content, signature, said) if is_seal else None


def read_anchor(path: Path, keys: Collection[str], findings: list[Finding]) -> Iterator[Statement]:
    """Read the anchor's seals in order, as far as it goes now; a line that is not to be believed becomes a finding.

    Raises UnreadableError.
    """
    before: Statement | None = None
    last = 0
    try:
        with path.open("rb") as file:
            left = os.fstat(file.fileno()).st_size
            for place, line in enumerate(file, 1):
                left -= len(line)
                if left < 0 or not line.endswith(b"\n"):
                    return  # written since, or torn by a crash: the database has it
                statement, fault = _read_line(line[:-1], before, last, keys)
                if statement is None or fault is not None:
                    findings.append(Finding(Fault.ANCHOR, "anchor", f"line {place}", fault or "is no seal"))
                    before = None
                    continue
                before, last = statement, statement.number
                yield statement
    except OSError as error:
        raise UnreadableError(f"the anchor {path} cannot be read ({error.strerror})") from error


def _read_line(
    line: bytes, before: Statement | None, last: int, keys: Collection[str]
) -> tuple[Statement | None, str | None]:
    signature, _, content = line.partition(b" ")
    try:
        statement = _statement_of(content, bytes.fromhex(signature.decode("ascii")))
    except ValueError:
        return None, None
    if statement is None:
        return None, None
    fault = fault_of(statement, keys)
    number = statement.number
    if fault is None and (number <= last or (before is not None and number != last + 1)):
        fault = f"is seal {number}, after seal {last}"
    previous = _NO_SEAL if number == 1 else None if before is None else before.digest
    if fault is None and previous is not None and statement.said["previous"] != previous:
        fault = "does not continue the line before it"
    return statement, fault


@dataclass(frozen=True, slots=True)
class StoredSeal:
    """A seal as a row of the database has it."""

    number: int
    content: bytes
    signature: bytes


class Chain:
    """Goes through the seals of both, in order: `take` every seal of the database, then `finish`.

    `findings` says what is wrong; `departures` are seals that are believed while the database has others or none in
    their place; `strays` are numbers of the database that no seal can have. `last` is the last seal that is believed.
    """

    def __init__(self, anchored: Iterable[Statement], keys: Collection[str]) -> None:
        self.findings: list[Finding] = []
        self.departures: dict[int, Statement] = {}
        self.strays: list[int] = []
        self.unanchored = 0
        self.believed = 0
        self.last: Statement | None = None
        self._anchored = iter(anchored)
        self._next_anchored = next(self._anchored, None)
        self._keys = keys
        self._digests = bytearray()  # of the seals from the first one on; zeros where none is believed
        self._is_last_anchored = True

    @property
    def length(self) -> int:
        """How many numbers have been gone through."""
        return len(self._digests) // _DIGEST_BYTES

    def believes(self, number: int, content: bytes) -> bool:
        """Say whether this is what the seal of that number says."""
        digest = self._digests[_DIGEST_BYTES * (number - 1) : _DIGEST_BYTES * number]
        return bool(digest) and hashlib.sha256(content).digest() == digest

    def take(self, rows: Sequence[StoredSeal]) -> None:
        """Take the database's rows of one number; numbers ascend."""
        number = rows[0].number
        while self._next_anchored is not None and self._next_anchored.number < number:
            self._take_missing(self._next_anchored.number)
        if number < 1 or (self._next_anchored is None and number > self.length + 1):
            self._find(number, "has a number that no seal has")
            self.strays.append(number)
            return
        self._take_missing(number - 1)
        if len(rows) > 1:
            self._find(number, f"stands {len(rows)} times in the database")
        anchored = self._pop(number)
        if anchored is None:
            self._take_unanchored(number, rows[0])
            return
        self._continue_with(anchored)
        faults = [fault for row in rows if (fault := _difference(row, anchored)) is not None]
        for fault in faults:
            self._find(number, fault)
        if len(faults) == len(rows):
            self.departures[number] = anchored

    def finish(self) -> None:
        """Take notice that the database has no more seals."""
        while self._next_anchored is not None:
            self._take_missing(self._next_anchored.number, ": the tail was cut")

    def _find(self, number: int, text: str) -> None:
        self.findings.append(Finding(Fault.SEAL, "seal", str(number), text))

    def _pop(self, number: int) -> Statement | None:
        anchored = self._next_anchored
        if anchored is None or anchored.number != number:
            return None
        self._next_anchored = next(self._anchored, None)
        return anchored

    def _take_missing(self, until: int, why: str = "") -> None:
        for number in range(self.length + 1, until + 1):
            self._find(number, f"is missing in the database{why}")
            anchored = self._pop(number)
            if anchored is None:
                self._digests += _UNKNOWN
            else:
                self.departures[number] = anchored
                self._continue_with(anchored)

    def _take_unanchored(self, number: int, row: StoredSeal) -> None:
        statement = _statement_of(row.content, row.signature)
        fault = "says nothing that a seal says" if statement is None else fault_of(statement, self._keys)
        if statement is not None and fault is None:
            previous = self._previous()
            if statement.number != number:
                fault = f"says that it is seal {statement.number}"
            elif previous is not None and statement.said["previous"] != previous:
                fault = "does not continue the chain"
        if statement is None or fault is not None:
            self._find(number, fault or "")
            self._digests += _UNKNOWN
            return
        self.unanchored += 1
        self._believe(statement, is_anchored=False)

    def _continue_with(self, anchored: Statement) -> None:
        """Believe a seal of the anchor; one before it that is only in the database must be the one it names."""
        if self.length and not self._is_last_anchored and anchored.said["previous"] != self._previous():
            self._find(self.length, f"is not what seal {anchored.number} continues")
            self._digests[-_DIGEST_BYTES:] = _UNKNOWN
            self.unanchored -= 1
            self.believed -= 1
        self._believe(anchored, is_anchored=True)

    def _believe(self, statement: Statement, *, is_anchored: bool) -> None:
        self._digests += hashlib.sha256(statement.content).digest()
        self._is_last_anchored = is_anchored
        self.believed += 1
        self.last = statement

    def _previous(self) -> str | None:
        """Give the digest that the next seal must name; None where it is not known."""
        if not self._digests:
            return _NO_SEAL
        digest = bytes(self._digests[-_DIGEST_BYTES:])
        return None if digest == _UNKNOWN else digest.hex()


def _difference(row: StoredSeal, anchored: Statement) -> str | None:
    if row.content != anchored.content:
        statement = _statement_of(row.content, row.signature)
        said = {} if statement is None else statement.said
        fields = [name for name in _FIELDS if said.get(name) != anchored.said[name]]
        return f"was rewritten: not as in the anchor ({', '.join(fields) or 'its letters'})"
    return None if row.signature == anchored.signature else "was rewritten: its signature is not as in the anchor"
