"""Damaged files for every format: a refusal is the only way out, and where the pieces end makes no difference.

    python -m tests.fuzz.fuzz_formats --runs 20000 --seed 7
    python -m tests.fuzz.fuzz_formats --atheris -max_total_time=600
    python -m tests.fuzz.fuzz_formats --each 60

The first mutates the seeds at random, and the same seed gives the same files. The second is guided by coverage, needs
atheris (tests/fuzz/requirements.txt: it has wheels for few platforms, so the lock is without it), and takes libFuzzer's
options. The third, `make fuzz`, gives every format so many seconds, guided where atheris is installed.
"""

import argparse
import hashlib
import importlib
import importlib.util
import pkgutil
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Final, NamedTuple

import click

SEEDS: Final = Path(__file__).parent / "seeds"
_PACKAGE: Final = "coatcheck.reconciliation"
_FORMAT: Final = ("name", "provider", "recognises", "read")
_TOKENS: Final = (
    *(b"\n", b"\r", b"\r\n", b"\x0b", b"\x85", "\u2028".encode(), b"\xef\xbb\xbf", b"\xff\xfe", b"\0", b"\xff"),
    *(b",", b";", b'"', b"'", b"-", b"+", b".", b"/", b":", b"0", b"9" * 30, b"1e9", b"NaN", b"EUR", b"JPY", b"QQQ"),
    *(b":20:", b":61:", b":86:", b":62F:", b"-}", b"{1:", b"?20", b"88,", b"16,", b"49,", b"03,", b"99,"),
    *(b"<", b">", b"</", b"&amp;", b"&x;", b"<!DOCTYPE x>", b"<!--", b"]]>", b"<![CDATA[", b"<Ntry>", b"</Ntry>"),
)
_MOST_CHANGES: Final = 4
_RUNS_A_SECOND: Final = 300  # about, of one format


class Read(NamedTuple):
    """What became of a file: what was read, or why nothing is taken of it."""

    items: list[object]
    refusal: str | None


class Formats:
    """Every format that there is, and how its bytes become text."""

    def __init__(self, importing: AbstractContextManager[object], only: str | None = None) -> None:
        with importing:  # atheris sees what is imported in here
            self._decoded = importlib.import_module(f"{_PACKAGE}.reading").decoded
            self._refused = importlib.import_module(f"{_PACKAGE}.lines").FileRefusedError
            found = _formats_in(importlib.import_module(f"{_PACKAGE}.formats"))
            self.all = [form for form in found if only in (None, form.name)]

    def try_all(self, raw: bytes) -> None:
        """Give bytes to every format, whole and in pieces. Raises whatever is not a refusal."""
        try:
            text = "".join(self._decoded([raw]))
        except self._refused:
            return
        cuts = random.Random(hashlib.sha256(raw).digest())
        for form in self.all:
            form.recognises(text[:4096])
            whole, cut = self._read(form, iter([text])), self._read(form, _pieces_of(text, cuts))
            # Of two things that are wrong in one place, the other may be seen first.
            if (whole.items, whole.refusal is None) != (cut.items, cut.refusal is None):
                raise AssertionError(f"{form.name}: {_ending(whole)!r} as a whole, {_ending(cut)!r} in pieces")

    def _read(self, form: Any, pieces: Iterator[str]) -> Read:
        try:
            return Read(list(form.read(pieces)), None)
        except self._refused as refusal:
            return Read([], str(refusal))


def _formats_in(package: Any) -> Iterator[Any]:
    for found in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{found.name}")
        for name, thing in vars(module).items():
            is_ours = isinstance(thing, type) and thing.__module__ == module.__name__ and not name.startswith("_")
            if is_ours and all(hasattr(thing, each) for each in _FORMAT):
                yield thing()


def _pieces_of(text: str, cuts: random.Random) -> Iterator[str]:
    longest = cuts.choice((1, 3, 64, 4096))
    at = 0
    while at < len(text):
        end = at + cuts.randint(0, longest)
        yield text[at:end]
        at = end


def _ending(outcome: Read) -> object:
    return outcome.refusal if outcome.refusal is not None else outcome.items[-1:]


def mutations(seeds: list[bytes], chance: random.Random) -> Iterator[bytes]:
    """Make files out of the seeds for ever, each damaged in a few places."""
    while True:
        raw = chance.choice(seeds)
        for _ in range(chance.randint(1, _MOST_CHANGES)):
            raw = chance.choice(_CHANGES)(raw, seeds, chance)
        yield raw


def _span(raw: bytes, chance: random.Random, longest: int = 200) -> tuple[int, int]:
    start = chance.randint(0, len(raw))
    return start, min(len(raw), start + chance.randint(0, longest))


def _leave_out(raw: bytes, _: list[bytes], chance: random.Random) -> bytes:
    start, end = _span(raw, chance)
    return raw[:start] + raw[end:]


def _repeat(raw: bytes, _: list[bytes], chance: random.Random) -> bytes:
    start, end = _span(raw, chance)
    return raw[:end] + raw[start:]


def _put_in(raw: bytes, _: list[bytes], chance: random.Random) -> bytes:
    start, end = _span(raw, chance, 2)
    return raw[:start] + chance.choice(_TOKENS) + raw[end:]


def _change_a_byte(raw: bytes, _: list[bytes], chance: random.Random) -> bytes:
    start, end = _span(raw, chance, 1)
    return raw[:start] + chance.randbytes(end - start) + raw[end:]


def _cut(raw: bytes, _: list[bytes], chance: random.Random) -> bytes:
    return raw[: chance.randint(0, len(raw))]


def _join_with_another(raw: bytes, seeds: list[bytes], chance: random.Random) -> bytes:
    other = chance.choice(seeds)
    return raw[: chance.randint(0, len(raw))] + other[chance.randint(0, len(other)) :]


def _write_otherwise(raw: bytes, _: list[bytes], chance: random.Random) -> bytes:
    if chance.random() < 0.5:
        return raw.replace(b"\n", chance.choice((b"\r", b"\r\n", b"\n\n")))
    return raw.decode("utf-8", "replace").encode(chance.choice(("utf-8-sig", "utf-16", "cp1252")), "replace")


_CHANGES: Final[tuple[Callable[[bytes, list[bytes], random.Random], bytes], ...]] = (
    *(
        _leave_out,
        _repeat,
        _put_in,
        _put_in,
        _change_a_byte,
        _change_a_byte,
        _cut,
        _join_with_another,
        _write_otherwise,
    ),
)


def play(runs: int, seed: int, only: str | None = None) -> int:
    """Try the seeds and then so many mutations. Gives how many files were tried."""
    formats = Formats(nullcontext(), only)
    seeds = [path.read_bytes() for path in sorted(SEEDS.iterdir())]
    damaged = mutations(seeds, random.Random(seed))
    for number in range(len(seeds) + runs):
        raw = seeds[number] if number < len(seeds) else next(damaged)
        try:
            formats.try_all(raw)
        except BaseException:
            with tempfile.NamedTemporaryFile(prefix="fuzz-formats-", delete=False) as kept:
                kept.write(raw)
            click.echo(f"Run {number} of seed {seed} has found something; the file is {kept.name}", err=True)
            raise
    return len(seeds) + runs


def _guided(options: list[str], only: str | None) -> None:
    atheris = importlib.import_module("atheris")
    formats = Formats(atheris.instrument_imports(include=[_PACKAGE]), only)
    # libFuzzer writes into the first folder, so it may not be that of the seeds.
    written = tempfile.mkdtemp(prefix="fuzz-formats-")
    click.echo(f"New files, and what is found, go into {written}")
    atheris.Setup([sys.argv[0], f"-artifact_prefix={written}/", *options, written, str(SEEDS)], formats.try_all)
    atheris.Fuzz()


def _each(seconds: int, seed: int) -> int:
    """Give every format so many seconds, in a process of its own; returns how many formats broke."""
    is_guided = importlib.util.find_spec("atheris") is not None
    click.echo("guided by coverage" if is_guided else "atheris is not installed here: mutations of the seeds at random")
    broken = 0
    for form in Formats(nullcontext()).all:
        how = ["--atheris", f"-max_total_time={seconds}"] if is_guided else ["--runs", str(seconds * _RUNS_A_SECOND)]
        words = [sys.executable, "-m", "tests.fuzz.fuzz_formats", "--form", form.name, "--seed", str(seed), *how]
        ended = subprocess.run(words, check=False, capture_output=True, text=True)  # noqa: S603 - this very program
        said = (ended.stdout + ended.stderr).strip().splitlines()
        crashes = 0 if ended.returncode == 0 else 1
        click.echo(f"FUZZ format={form.name!r} seconds={seconds} guided={str(is_guided).lower()} crashes={crashes}")
        if crashes:
            click.echo("\n".join(said[-20:]), err=True)
        broken += crashes
    return broken


def main(arguments: list[str]) -> None:
    """Read the options and go on until something is found or the number is reached."""
    parser = argparse.ArgumentParser(description="Feed damaged files to every format.")
    parser.add_argument("--runs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--atheris", action="store_true", help="guided by coverage; more options are libFuzzer's")
    parser.add_argument("--form", help="only this format")
    parser.add_argument("--each", type=int, metavar="SECONDS", help="every format for so long, one after the other")
    chosen, options = parser.parse_known_args(arguments)
    if chosen.each is not None:
        sys.exit(min(_each(chosen.each, chosen.seed), 1))
    if chosen.atheris:
        _guided(options, chosen.form)
    elif options:
        parser.error(f"no option {options[0]}")
    else:
        tried = play(chosen.runs, chosen.seed, chosen.form)
        click.echo(f"{tried} files, each read or refused by every format (seed {chosen.seed})")


if __name__ == "__main__":
    main(sys.argv[1:])
