"""Fetches the simulator's settlement files: which there are, and one of them into a file of ours."""

import asyncio
import re
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec
from yarl import URL

from coatcheck.providers.transport import TRANSPORT_ERRORS, outcome_of_exception

_LIST_MOST_BYTES: Final = 16 * 1024 * 1024
_CHUNK: Final = 1 << 20
_OK: Final = 200
_NAME: Final = re.compile("[A-Za-z0-9_-]{1,100}").fullmatch  # nothing that would lead elsewhere in an address or a path


class SettlementsUnavailableError(Exception):
    """The provider's settlements could not be fetched; the text says why. Nothing is lost: they are there tomorrow."""


class _Batch(msgspec.Struct):
    id: str


class _Batches(msgspec.Struct):
    data: list[_Batch]


class SimulatedSettlements:
    """The settlements of the account and mode of an API key.

    Every request goes to `base_url`: redirects are refused and no proxy is asked.
    """

    name = "simulator"

    def __init__(self, base_url: str, api_key: str, *, deadline_s: int, limit_bytes: int) -> None:
        self._url = URL(base_url) / "v1" / "settlements"
        self._authorization = f"Bearer {api_key}"
        self._deadline_s = deadline_s
        self._limit_bytes = limit_bytes

    async def batches(self) -> list[str]:
        """Name the settlements that there are, oldest first. Raises SettlementsUnavailableError."""
        parts: list[bytes] = []
        await self._get(self._url, _LIST_MOST_BYTES, parts.append)
        try:
            found = msgspec.json.decode(b"".join(parts), type=_Batches)
        except msgspec.MsgspecError as error:
            raise SettlementsUnavailableError(f"the simulator's list of settlements cannot be read: {error}") from error
        wrong = [each.id for each in found.data if _NAME(each.id) is None]
        if wrong:
            raise SettlementsUnavailableError(f"the simulator names a settlement {wrong[0][:40]!r}, which is no name")
        return [each.id for each in found.data]

    async def save(self, batch: str, path: Path) -> None:
        """Fetch one settlement's file, piece by piece. Raises SettlementsUnavailableError, and leaves a part of it."""
        with path.open("wb") as file:
            await self._get(self._url / batch / "file", self._limit_bytes, file.write)

    async def _get(self, url: URL, limit_bytes: int, take: Any) -> None:
        size = 0
        try:
            async with self._session() as session, session.get(url, allow_redirects=False) as response:
                if response.status != _OK:
                    raise SettlementsUnavailableError(f"the simulator answered {response.status} for {url.path}")
                async for chunk in response.content.iter_chunked(_CHUNK):
                    size += len(chunk)
                    if size > limit_bytes:
                        raise SettlementsUnavailableError(f"{url.path} is longer than {limit_bytes} bytes")
                    await asyncio.to_thread(take, chunk)
        except TRANSPORT_ERRORS as error:
            cause = outcome_of_exception(error).cause
            raise SettlementsUnavailableError(f"the simulator's settlements cannot be fetched: {cause}") from error

    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Authorization": self._authorization, "Accept-Encoding": "identity", "User-Agent": "coatcheck"},
            timeout=aiohttp.ClientTimeout(total=self._deadline_s),
            trust_env=False,
        )
