"""What keeps a command from its work: in words, and as an exit status."""

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from subprocess import SubprocessError

EXIT_VIOLATION = 1
EXIT_UNUSABLE = 2
EXIT_INTERRUPTED = 130


class UnusableError(Exception):
    """The command cannot do its work; the text says why and what to do."""


@contextmanager
def listening_on(host: str, port: int) -> Iterator[None]:
    """Put what keeps a server from listening into words."""
    reasons: Mapping[int, str] = {
        errno.EADDRINUSE: f"port {port} of {host} is in use; stop the other process, or take another with --port "
        "(0 takes a free one)",
        errno.EACCES: f"port {port} of {host} may not be opened by this user; take one above 1023 with --port",
        errno.EADDRNOTAVAIL: f"{host} is not an address of this machine; take 127.0.0.1 or 0.0.0.0 with --host",
    }
    try:
        yield
    except OSError as error:
        reason = reasons.get(error.errno or 0)
        if reason is None or error.filename is not None:
            raise
        raise UnusableError(reason) from error


def in_words(error: BaseException) -> list[str] | None:
    """Say what went wrong and what to do, a line for each thing; None when it is a fault of the program."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    import asyncpg  # noqa: PLC0415

    from coatcheck.config import SettingsError  # noqa: PLC0415
    from coatcheck.errors import CoatcheckError  # noqa: PLC0415
    from coatcheck.store import StoreError  # noqa: PLC0415

    lines = None
    match error:
        case SettingsError():
            lines = error.problems
        case CoatcheckError():
            lines = [error.detail, *(f"{problem.pointer}: {problem.detail}" for problem in error.problems)]
        case UnusableError() | StoreError():
            lines = [str(error)]
        case asyncpg.PostgresError() | asyncpg.InterfaceError():
            lines = [
                f"the database failed ({error}); check that it runs and that DATABASE_URL is right, then try again"
            ]
        case SubprocessError():
            lines = ["the embedded PostgreSQL did not start; its log in the data directory (postgresql/log) says why"]
        case OSError():
            about = f"{error.filename}: " if error.filename else ""
            what = error.strerror or str(error) or type(error).__name__
            lines = [f"{about}{what}; check the path, its owner and the space left"]
    return lines
