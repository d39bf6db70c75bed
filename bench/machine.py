"""The machine a benchmark runs on: real processes on two cores, a real PostgreSQL, all of it gone afterwards."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import psutil

from coatcheck.store.embedded import EmbeddedServer, start_embedded

CORES = 2
OTHERS = "everything else"
_ROOT = Path(__file__).resolve().parents[1]
_START_S = 60.0
_STOP_S = 40.0
_PSP_KEY = "sk_sim_test_bench"


class BenchError(Exception):
    """The figures would mean nothing; the text says why."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What each part has used so far: CPU seconds by part, at a moment of the wall clock (Unix seconds)."""

    at: float
    cpu_s: Mapping[str, float]


@dataclass(slots=True)
class Process:
    """One process of ours."""

    name: str
    popen: "subprocess.Popen[bytes]"
    log: Path

    def cpu_s(self) -> float:
        """Return the processor time used so far, its children's included; 0 when it has gone."""
        return _cpu_s_of(self.popen.pid)

    def rss_mib(self) -> float:
        """Return the memory it holds now."""
        return float(psutil.Process(self.popen.pid).memory_info().rss) / 2**20

    def check(self) -> None:
        """Raise BenchError when it has ended before it should."""
        if self.popen.poll() is not None:
            raise BenchError(f"the {self.name} ended with status {self.popen.returncode}:\n{_tail(self.log)}")

    async def stop(self) -> int:
        """End it as a supervisor would; returns its exit status."""
        if self.popen.poll() is None:
            self.popen.terminate()
        try:
            return await asyncio.to_thread(self.popen.wait, _STOP_S)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            return await asyncio.to_thread(self.popen.wait)


def _tail(log: Path) -> str:
    return "\n".join(log.read_text("utf-8", "replace").splitlines()[-15:])


def _cpu_s_of(process_id: int) -> float:
    """Add up a process, the children it has and the children it had."""
    total = 0.0
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(process_id)
        for process in (parent, *parent.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
    return total


def _busy_s() -> float:
    """Return the processor time of our cores that was not idle: what others use is missing in our figures."""
    cores = psutil.cpu_times(percpu=True)
    mine = [cores[number] for number in os.sched_getaffinity(0)]
    return float(sum(sum(core) - core.idle - core.iowait - core.guest - core.guest_nice for core in mine))


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def take_two_cores() -> list[int]:
    """Confine this process and all it starts to two cores; returns their numbers."""
    cores = sorted(os.sched_getaffinity(0))[:CORES]
    os.sched_setaffinity(0, cores)
    return cores


def quiet_environment(**settings: str) -> dict[str, str]:
    """Give the environment without anybody's settings of Coatcheck, but with these."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("COATCHECK_") and name != "DATABASE_URL"
    }
    return {**kept, **settings}


def get(url: str) -> bytes:
    """Fetch a page of a process of ours."""
    with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 - http, to ourselves
        return bytes(answer.read())


def read_metrics(text: str) -> dict[str, float]:
    """Read the Prometheus text format: the value by name and labels, as written."""
    found = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            series, _, value = line.rpartition(" ")
            found[series] = float(value)
    return found


def sum_of(metrics: Mapping[str, float], name: str, **labels: str) -> float:
    """Add up the series of a metric that have all these labels."""
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    return sum(
        value
        for series, value in metrics.items()
        if series.partition("{")[0] == name and all(label in series for label in wanted)
    )


@dataclass(slots=True)
class Rig:
    """A gateway with its database and its simulated PSP, ready for load."""

    database_url: str
    api_key: str
    gateway: Process
    gateway_url: str
    simulator: Process
    simulator_url: str
    postmaster_pid: int
    environment: Mapping[str, str]
    directory: Path
    loads: list[Process] = field(default_factory=list)

    def start_load(self, command: list[str]) -> Process:
        """Start a load generator; its standard output is its result."""
        process = _start("load generator", command, self.directory, dict(self.environment), _ROOT)
        self.loads.append(process)
        return process

    def usage(self) -> Usage:
        """Read what everything has used so far."""
        ours = {
            "gateway": self.gateway.cpu_s(),
            "simulator": self.simulator.cpu_s(),
            "PostgreSQL": _cpu_s_of(self.postmaster_pid),
            "load generator": sum(load.cpu_s() for load in self.loads),
        }
        return Usage(time.time(), {**ours, OTHERS: _busy_s() - sum(ours.values())})

    def metrics(self) -> dict[str, float]:
        """Read the gateway's own figures."""
        return read_metrics(get(self.gateway_url + "/metrics").decode())

    def books(self) -> dict[str, Any]:
        """Ask the simulated PSP what it really charged."""
        books: dict[str, Any] = json.loads(get(self.simulator_url + "/admin/books"))
        return books

    async def audit(self) -> str:
        """Run `coatcheck audit`; returns its last line. Raises BenchError when an invariant does not hold."""
        answer = await asyncio.to_thread(_run_coatcheck, ["audit"], dict(self.environment), self.directory)
        return answer.strip().splitlines()[-1]


def shares_of(before: Usage, after: Usage) -> dict[str, float]:
    """Say how many cores each part kept busy between two moments (1.0 is one core)."""
    seconds = max(after.at - before.at, 1e-9)
    return {part: (after.cpu_s[part] - before.cpu_s[part]) / seconds for part in before.cpu_s}


def _command(*arguments: str) -> list[str]:
    return [str(Path(sys.executable).with_name("coatcheck")), *arguments]


def _run_coatcheck(arguments: list[str], environment: dict[str, str], directory: Path) -> str:
    done = subprocess.run(  # noqa: S603 - our own program
        _command(*arguments), env=environment, cwd=directory, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        told = f"{done.stdout}{done.stderr}".strip()
        raise BenchError(f"coatcheck {' '.join(arguments)} ended with status {done.returncode}:\n{told}")
    return done.stdout


def _start(name: str, command: list[str], directory: Path, environment: dict[str, str], cwd: Path) -> Process:
    log = directory / f"{name.replace(' ', '-')}-{time.time_ns()}.log"
    with log.open("wb") as out:
        popen = subprocess.Popen(  # noqa: S603 - our own programs
            command, env=environment, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
        )
    return Process(name, popen, log)


async def _until_answers(process: Process, url: str) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until:
        process.check()
        try:
            await asyncio.to_thread(get, url)
        except OSError:
            await asyncio.sleep(0.1)
        else:
            return
    raise BenchError(f"the {process.name} does not answer at {url}:\n{_tail(process.log)}")


@dataclass(slots=True)
class Machine:
    """PostgreSQL in a directory of its own, and the directory."""

    directory: Path
    server: EmbeddedServer
    databases: int = 0

    @property
    def postmaster_pid(self) -> int:
        """The process all of PostgreSQL's others belong to."""
        return int(self.server.server.get_pid() or 0)

    async def new_database(self) -> str:
        """Make an empty database, as the gateway makes its own, and give its address."""
        self.databases += 1
        name = f"bench_{self.databases}"
        await self._maintain(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'")
        return self.server.url(name)

    async def checkpoint(self) -> None:
        """Write what is dirty, so that no measurement pays for the one before it."""
        await self._maintain("CHECKPOINT")

    async def put_off_chores(self) -> None:
        """Have PostgreSQL make no checkpoint and no vacuum from now on: whoever is measured then pays for them."""
        for setting, value in (("autovacuum", "off"), ("checkpoint_timeout", "1d"), ("max_wal_size", "64GB")):
            await self._maintain(f"ALTER SYSTEM SET {setting} = '{value}'")
        await self._maintain("SELECT pg_reload_conf()")

    async def _maintain(self, statement: str) -> None:
        maintenance = await asyncpg.connect(self.server.url("postgres"))
        try:
            await maintenance.execute(statement, timeout=600)
        finally:
            await maintenance.close()

    def make_key(self, database_url: str) -> str:
        """Make the database's schema, if it has none, and a key of the shop `bench`; returns the key."""
        environment = self._environment(database_url)
        return _run_coatcheck(["keys", "create", "--shop", "bench"], environment, self.directory).strip()

    def _environment(self, database_url: str, **settings: str) -> dict[str, str]:
        # An anchor belongs to one database; the digest key may be everybody's.
        seals = self.directory / "seals" / urlsplit(database_url).path.strip("/")
        told = {"COATCHECK_DATA_DIR": str(self.directory / "gateway"), "COATCHECK_SEAL_DIR": str(seals)}
        return quiet_environment(**{**told, **settings, "COATCHECK_DATABASE_URL": database_url})

    @asynccontextmanager
    async def open_rig(
        self, database_url: str, *, latency_ms: int = 0, settings: Mapping[str, str] | None = None
    ) -> AsyncIterator[Rig]:
        """Start a simulator and a gateway on a database; on the way out both must end with status 0.

        `settings` are the gateway's, as COATCHECK_* variables.
        """
        api_key = await asyncio.to_thread(self.make_key, database_url)
        ports = free_port(), free_port()
        simulator_url, gateway_url = (f"http://127.0.0.1:{port}" for port in ports)
        environment = self._environment(
            database_url,
            COATCHECK_SIMULATOR_URL=simulator_url,
            COATCHECK_SIMULATOR_API_KEY=_PSP_KEY,
            **(settings or {}),
        )
        psp = _command("simulator", "--port", str(ports[0]), "--latency-ms", str(latency_ms))
        simulator = _start("simulator", psp, self.directory, environment, self.directory)
        gateway = _start(
            "gateway", _command("serve", "--port", str(ports[1])), self.directory, environment, self.directory
        )
        rig = Rig(
            database_url,
            api_key,
            gateway,
            gateway_url,
            simulator,
            simulator_url,
            self.postmaster_pid,
            environment,
            self.directory,
        )
        statuses: dict[str, int] = {}
        try:
            await _until_answers(simulator, simulator_url + "/health")
            await _until_answers(gateway, gateway_url + "/health/ready")
            await self.checkpoint()
            yield rig
        finally:
            for process in (*rig.loads, gateway, simulator):
                statuses[process.name] = await process.stop()
        for process in (gateway, simulator):
            if statuses[process.name] != 0:
                raise BenchError(
                    f"the {process.name} ended with status {statuses[process.name]}:\n{_tail(process.log)}"
                )


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM unwind like Ctrl-C, so that nothing we started outlives us."""

    def stop(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _temporary_directory(parent: Path | None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="coatcheck-bench-", dir=parent, ignore_cleanup_errors=True) as name:
        directory = Path(name)
        directory.chmod(0o755)  # as root, PostgreSQL runs as a user of its own
        yield directory


@asynccontextmanager
async def open_machine(data_dir: Path | None = None) -> AsyncIterator[Machine]:
    """Start an embedded PostgreSQL in a temporary directory (below `data_dir` when given); stop and delete it after."""
    with _ended_by_signals(), _temporary_directory(data_dir) as directory:
        server = await start_embedded(directory)
        try:
            yield Machine(directory, server)
        finally:
            await server.stop()


def file_system_of(directory: Path) -> str:
    """Name the kind of file system a directory is on; fsync means nothing on tmpfs."""
    best = max(
        (disk for disk in psutil.disk_partitions(all=True) if directory.is_relative_to(disk.mountpoint)),
        key=lambda disk: len(disk.mountpoint),
        default=None,
    )
    return best.fstype if best else "unknown"


def fsync_ms(directory: Path, times: int = 50) -> float:
    """Measure the disk: the median time to append 8 KiB and have it on disk."""
    took = []
    with (directory / "fsync-probe").open("wb", buffering=0) as probe:
        for _ in range(times):
            started = time.perf_counter()
            probe.write(bytes(8192))
            os.fdatasync(probe.fileno())
            took.append(time.perf_counter() - started)
    return sorted(took)[times // 2] * 1e3


async def describe(machine: Machine, cores: list[int]) -> str:
    """Say in words what this machine is and that PostgreSQL keeps what it acknowledges."""
    connection = await asyncpg.connect(machine.server.url("postgres"))
    try:
        version, *switches = [
            await connection.fetchval("SELECT current_setting($1)", name)
            for name in ("server_version", "fsync", "synchronous_commit", "full_page_writes")
        ]
    finally:
        await connection.close()
    if switches != ["on", "on", "on"]:
        raise BenchError("PostgreSQL runs without fsync, synchronous_commit or full_page_writes: no figure would count")
    kind = file_system_of(machine.directory)
    probe = fsync_ms(machine.directory)
    told = (
        f"{_processor()}, everything on cores {', '.join(map(str, cores))} of {os.cpu_count()}\n"
        f"PostgreSQL {version} embedded, fsync=on synchronous_commit=on full_page_writes=on; "
        f"data on {kind}, one 8 KiB fdatasync takes {probe:.2f} ms"
    )
    if kind == "tmpfs":
        told += "\nWARNING: tmpfs is memory, fsync costs nothing there; give --data-dir on a disk"
    return told


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return "processor unknown"
