"""A file as the body of a request: on disk as it comes, within its size and time, and its name only a name."""

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from coatcheck.api.uploads import file_name_of, plain_name, uploaded
from coatcheck.errors import CoatcheckError, ErrorCode


def receiving(parts: Sequence[bytes], *, ends: bool = True) -> Any:
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    messages.append({"type": "http.request", "body": b"", "more_body": False} if ends else {"type": "http.disconnect"})

    async def receive() -> Any:
        return messages.pop(0)

    return receive


async def test_C17_a_file_is_written_as_it_comes_and_leaves_nothing_even_if_the_process_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    parts = [bytes([n]) * 300_000 for n in range(9)]
    async with uploaded(receiving(parts), limit_bytes=2_700_000, deadline_s=5) as path:
        assert path.read_bytes() == b"".join(parts) == path.read_bytes()  # each reading is from its beginning
        assert list(tmp_path.iterdir()) == []  # noqa: ASYNC240 - nobody else runs in this loop
    assert not path.exists()


async def test_C17_a_file_that_is_too_large_is_refused_before_it_is_whole() -> None:
    receive = receiving([b"x" * 600] * 3)
    with pytest.raises(CoatcheckError) as caught:
        async with uploaded(receive, limit_bytes=1_000, deadline_s=5):
            pass
    assert caught.value.error is ErrorCode.BODY_TOO_LARGE
    assert (await receive())["body"] == b"x" * 600  # the third part was never asked for


async def test_H2_a_connection_that_closes_makes_no_shorter_file() -> None:
    with pytest.raises(CoatcheckError) as caught:
        async with uploaded(receiving([b"half"], ends=False), limit_bytes=1_000, deadline_s=5):
            pass
    assert caught.value.error is ErrorCode.MALFORMED_BODY


async def test_C17_a_file_that_does_not_come_is_not_waited_for() -> None:
    async def receive() -> Any:
        await asyncio.Event().wait()

    with pytest.raises(CoatcheckError) as caught:
        async with uploaded(receive, limit_bytes=1_000, deadline_s=0):
            pass
    assert caught.value.error is ErrorCode.BODY_TOO_SLOW


@pytest.mark.parametrize(
    ("header", "name"),
    [
        (b'attachment; filename="st 1.csv"', "st 1.csv"),
        (b"attachment; filename*=UTF-8''Z%C3%BCrich.csv", "Z\u00fcrich.csv"),
        (b'attachment; filename="../../etc/passwd"', "passwd"),
        (b'attachment; filename="C:\\\\files\\\\st.csv"', "st.csv"),
        (b"attachment", None),
        (None, None),
        (b"\xff;;;=", None),
    ],
)
def test_a_name_is_read_from_its_header(header: bytes | None, name: str | None) -> None:
    assert file_name_of(header) == name


@pytest.mark.parametrize(
    ("given", "name"), [("a\x00b\n.csv", "ab.csv"), ("  ", None), ("x" * 500, "x" * 200), (None, None), ("/", None)]
)
def test_a_name_keeps_what_people_can_read(given: str | None, name: str | None) -> None:
    assert plain_name(given) == name
