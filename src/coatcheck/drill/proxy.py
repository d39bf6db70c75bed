"""The fault proxies: every byte between a gateway and its database, its PSP and the PSP's webhooks passes here.

Each counts the faults it has really injected, by kind. A fault is drawn for each exchange (a request and its answer),
from a seed and the number of the exchange on its line.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from coatcheck.drill.ports import free_port
from coatcheck.drill.wire import Answers, Requests, request_size

_CHUNK: Final = 65_536
_LONGEST_REQUEST: Final = 1 << 20
_GONE: Final = (OSError, RuntimeError)  # the latter is uvloop's word for a transport that is closed
_TRIES_TO_LISTEN: Final = 200
_ONE_OF_EACH_EVERY: Final = 20  # exchanges: however short a drill is, each line has done everything once


class Target(NamedTuple):
    """Where a line leads to."""

    host: str
    port: int


class Fault(StrEnum):
    """What a line does to one exchange."""

    NONE = "none"
    CUT_BEFORE = "cut before the bytes"
    CUT_AFTER = "cut after the bytes"
    ANSWER_DROPPED = "answer dropped"
    ANSWER_TORN = "answer torn in half"
    SLOW = "slow"


DATABASE_FAULTS: Final[Mapping[Fault, float]] = {
    Fault.CUT_BEFORE: 0.0005,
    Fault.CUT_AFTER: 0.0005,
    Fault.ANSWER_DROPPED: 0.004,  # of the statements that write: the commit is done and its answer is gone
    Fault.SLOW: 0.002,
}
PSP_FAULTS: Final[Mapping[Fault, float]] = {
    Fault.CUT_BEFORE: 0.004,
    Fault.CUT_AFTER: 0.004,
    Fault.ANSWER_DROPPED: 0.006,
    Fault.ANSWER_TORN: 0.003,
    Fault.SLOW: 0.004,
}
WEBHOOK_FAULTS: Final[Mapping[Fault, float]] = {
    Fault.CUT_BEFORE: 0.01,
    Fault.CUT_AFTER: 0.01,
    Fault.ANSWER_DROPPED: 0.01,
    Fault.SLOW: 0.01,
}


class Line:
    """A port of 127.0.0.1 that leads elsewhere. `leads_to` is asked for each connection; None refuses it."""

    def __init__(
        self, name: str, seed: int, shares: Mapping[Fault, float], leads_to: Callable[[], Target | None], slow_s: float
    ) -> None:
        self.name = name
        self.counts: Counter[Fault] = Counter()
        self.is_calm = True
        self.port = 0
        self._dice = random.Random(f"line {name} {seed}")  # noqa: S311 - a drill that can be run again
        self._shares = shares
        self._first_ones = self._dice.sample(list(shares), len(shares))
        self._exchanges = 0
        self._leads_to = leads_to
        self._slow_s = slow_s
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._carrying: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """The line's address for HTTP."""
        return f"http://127.0.0.1:{self.port}"

    async def listen(self) -> None:
        """Take connections; always on the same port."""
        self.port = self.port or free_port()
        for tries_left in range(_TRIES_TO_LISTEN, -1, -1):
            try:
                self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, reuse_address=True)
            except OSError:  # what was broken off has not let go of the port yet
                if not tries_left:
                    raise
                await asyncio.sleep(0.05)
            else:
                return

    async def refuse(self) -> None:
        """Break what is open and refuse whoever comes, until it listens again."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._open):
            writer.transport.abort()
        await asyncio.sleep(0)

    async def close(self) -> None:
        """End the line."""
        await self.refuse()
        await asyncio.gather(*self._carrying, return_exceptions=True)

    def draw(self, *, is_write: bool = True) -> Fault:
        """Draw the fate of one exchange. A dropped answer is for what changes something."""
        draw = self._dice.random()
        if self.is_calm:
            return Fault.NONE
        self._exchanges += 1
        if self._first_ones and self._exchanges >= _ONE_OF_EACH_EVERY and is_write:
            self._exchanges = 0
            return self._first_ones.pop()
        for fault, share in self._shares.items():
            if draw < share:
                return fault if is_write or fault is not Fault.ANSWER_DROPPED else Fault.NONE
            draw -= share
        return Fault.NONE

    async def pause(self) -> None:
        """Be slow once."""
        self.counts[Fault.SLOW] += 1
        await asyncio.sleep(self._slow_s * (0.5 + self._dice.random()))

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._connect(reader, writer))
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = self._leads_to()
        try:
            if target is None:
                return
            far_reader, far_writer = await asyncio.open_connection(*target)
        except OSError:
            return
        else:
            self._open |= {writer, far_writer}
            try:
                await self._carry(reader, writer, far_reader, far_writer)
            finally:
                self._open -= {writer, far_writer}
                far_writer.transport.abort()
        finally:
            writer.transport.abort()

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        far_reader: asyncio.StreamReader,
        far_writer: asyncio.StreamWriter,
    ) -> None:
        raise NotImplementedError


class DatabaseLine(Line):
    """Between a gateway and PostgreSQL."""

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        far_reader: asyncio.StreamReader,
        far_writer: asyncio.StreamWriter,
    ) -> None:
        session = _Session(self, reader, writer, far_reader, far_writer)
        pumps = {asyncio.create_task(session.ask()), asyncio.create_task(session.answer())}
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            await _let_arrive(far_writer, is_wanted=session.is_cut_after)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)


async def _let_arrive(far_writer: asyncio.StreamWriter, *, is_wanted: bool) -> None:
    """Let what was sent arrive before the connection is broken."""
    if is_wanted:
        far_writer.write_eof()
        await asyncio.sleep(0.05)


class _Session:
    """One connection to PostgreSQL, with the fate of the request under way."""

    def __init__(
        self,
        line: DatabaseLine,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        far_reader: asyncio.StreamReader,
        far_writer: asyncio.StreamWriter,
    ) -> None:
        self._line = line
        self._reader, self._writer = reader, writer
        self._far_reader, self._far_writer = far_reader, far_writer
        self._requests, self._answers = Requests(), Answers()
        self._fate = Fault.NONE
        self.is_cut_after = False

    async def ask(self) -> None:
        """Carry what the gateway asks; ends when the connection is to be broken."""
        try:
            while data := await self._reader.read(_CHUNK):
                request = self._requests.feed(data)
                if request is not None:
                    self._fate = self._line.draw(is_write=request.is_write)
                    self._answers.begin()
                if self._fate is Fault.CUT_BEFORE:
                    self._line.counts[Fault.CUT_BEFORE] += 1
                    return
                self._far_writer.write(data)
                await self._far_writer.drain()
                if self._fate is Fault.CUT_AFTER:
                    self._line.counts[Fault.CUT_AFTER] += 1
                    self.is_cut_after = True
                    return
        except _GONE:
            return

    async def answer(self) -> None:
        """Carry what the database answers; a doomed answer is held until it is known to be committed, then dropped."""
        held = b""
        try:
            while data := await self._far_reader.read(_CHUNK):
                self._answers.feed(data)
                if self._fate is Fault.CUT_AFTER:
                    continue  # nobody is there any more to hear it
                if self._fate is Fault.SLOW:
                    self._fate = Fault.NONE
                    await self._line.pause()
                if self._fate is Fault.ANSWER_DROPPED:
                    held += data
                    if not self._answers.is_over:
                        continue
                    self._fate = Fault.NONE
                    if self._answers.is_committed:
                        self._line.counts[Fault.ANSWER_DROPPED] += 1
                        return
                    data, held = held, b""
                self._writer.write(data)
                await self._writer.drain()
        except _GONE:
            return


class HttpLine(Line):
    """Between a gateway and a PSP, in either direction. One request at a time on a connection, as HTTP/1.1 has it."""

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        far_reader: asyncio.StreamReader,
        far_writer: asyncio.StreamWriter,
    ) -> None:
        try:
            ahead = b""
            while True:
                request, ahead = await _whole_request(reader, ahead)
                if not request:
                    return
                fate = self.draw()
                if fate is Fault.CUT_BEFORE:
                    self.counts[fate] += 1
                    return
                far_writer.write(request)
                await far_writer.drain()
                if fate is Fault.CUT_AFTER:
                    self.counts[fate] += 1
                    await _let_arrive(far_writer, is_wanted=True)
                    return
                ahead += await self._answer(fate, reader, writer, far_reader)
                if writer.is_closing():
                    return
        except (*_GONE, asyncio.IncompleteReadError):
            return

    async def _answer(
        self,
        fate: Fault,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        far_reader: asyncio.StreamReader,
    ) -> bytes:
        """Carry the answer until the other side asks again; returns what it then asks, closes the writer to end."""
        asking = asyncio.create_task(reader.read(_CHUNK))
        answering = asyncio.create_task(far_reader.read(_CHUNK))
        try:
            while True:
                await asyncio.wait({asking, answering}, return_when=asyncio.FIRST_COMPLETED)
                if answering.done():
                    data = answering.result()
                    if not data or not await self._pass_on(fate, data, writer):
                        writer.close()
                        return b""
                    fate = Fault.NONE
                    answering = asyncio.create_task(far_reader.read(_CHUNK))
                    continue
                data = asking.result()
                if not data:
                    writer.close()
                return data
        finally:
            for task in (asking, answering):
                task.cancel()
            await asyncio.gather(asking, answering, return_exceptions=True)

    async def _pass_on(self, fate: Fault, data: bytes, writer: asyncio.StreamWriter) -> bool:
        """Give an answer on, late or torn or not at all; False ends the connection."""
        if fate is Fault.ANSWER_DROPPED:
            self.counts[fate] += 1
            return False
        if fate is Fault.SLOW:
            await self.pause()
        is_torn = fate is Fault.ANSWER_TORN
        writer.write(data[: len(data) // 2] if is_torn else data)
        await writer.drain()
        if is_torn:
            self.counts[fate] += 1
        return not is_torn


async def _whole_request(reader: asyncio.StreamReader, ahead: bytes) -> tuple[bytes, bytes]:
    """Read one request to its end; empty when nobody asks any more. The second value is what came after it."""
    data = ahead
    while (size := request_size(data)) is None or len(data) < size:
        more = await reader.read(_CHUNK)
        if not more or len(data) > _LONGEST_REQUEST:
            return b"", b""
        data += more
    return data[:size], data[size:]
