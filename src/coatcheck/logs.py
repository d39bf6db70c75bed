"""Structured logs on stderr, from one place: JSON lines for machines or a console format for people.

Whatever is logged, by us or by a library, passes the redaction here last: no card number and no secret comes out.
"""

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from datetime import datetime
from pathlib import PurePath
from types import TracebackType
from typing import Any, TextIO
from uuid import UUID

import structlog

from coatcheck.pan import redact_card_numbers

_HIDDEN = "[hidden]"
_SECRET_NAME = re.compile(r"secret|api_?key$|authorization|password|cookie|database_url|^token$|_token$", re.IGNORECASE)
# Secrets by their own look, wherever they stand: API keys of ours and of Stripe, webhook secrets, bearer tokens.
_SECRET_TEXT = re.compile(
    r"\b(?:cck|sk|rk)_(?:test|live|sim)_\w+|\bwhsec_[\w+/=-]+|(?<=\bBearer )\S+|(?<=\bbearer )\S+", re.ASCII
)
# The password in an address such as postgresql://user:password@host.
_ADDRESS_PASSWORD = re.compile(r"(?<=://)([^/\s:@]*):[^/\s@]*@")
_SHORTEST_CARD_NUMBER = 10**12
_DEEPEST = 12

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
# Libraries that bring handlers and levels of their own; theirs go, ours takes over.
_TALKATIVE = ("uvicorn", "uvicorn.error", "uvicorn.access", "asyncio", "aiohttp", "asyncpg", "stripe", "litestar")


def redact_text(text: str) -> str:
    """Take card numbers and secrets out of a text."""
    if "_" in text or "earer " in text:
        text = _SECRET_TEXT.sub(_HIDDEN, text)
    if "://" in text:
        text = _ADDRESS_PASSWORD.sub(rf"\1:{_HIDDEN}@", text)
    return redact_card_numbers(text)


def redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Structlog processor: redact names and values at every depth, and leave nothing a renderer would print unseen."""
    redacted: MutableMapping[str, Any] = _redacted_container(event, 0)
    return redacted


def _redacted(value: Any, depth: int = 0) -> Any:
    if isinstance(value, Mapping | list | tuple | set | frozenset) and depth < _DEEPEST:
        return _redacted_container(value, depth + 1)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return value if abs(value) < _SHORTEST_CARD_NUMBER else _redacted_number(value)
    is_readable = isinstance(value, str | BaseException | PurePath | UUID | datetime)
    return redact_text(str(value) if is_readable else repr(value))


def _redacted_container(value: Any, depth: int) -> Any:
    if not isinstance(value, Mapping):
        return [_redacted(inner, depth) for inner in value]
    return {
        redact_text(str(name)): (_HIDDEN if _SECRET_NAME.search(str(name)) else _redacted(inner, depth))
        for name, inner in value.items()
    }


def _redacted_number(value: float) -> float | str:
    clean = redact_text(text := str(value))
    return value if clean == text else clean


class _Handler(logging.StreamHandler[TextIO]):
    """Writes the lines of libraries; one that cannot be formatted is told without its arguments: they may be secret."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the standard library's name
        structlog.get_logger().error(
            "log_line_not_formatted", logger=record.name, file=record.pathname, line=record.lineno
        )


def configure_logs(level: str, log_format: str, stream: TextIO | None = None) -> None:
    """Send every log line of this process, the libraries' too, to `stream` (stderr) in one format.

    `level` and `log_format` as the settings have them. May be called again; the last call counts.
    """
    stream = stream if stream is not None else sys.stderr
    before: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    after: list[Any] = [
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        redact,
        _renderer(log_format, stream),
    ]
    structlog.configure(
        processors=[*before, *after],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=False,
    )
    _take_over_libraries(level, before, after, stream)
    sys.excepthook = _log_uncaught


def _renderer(log_format: str, stream: TextIO) -> Any:
    if log_format == "console":
        return structlog.dev.ConsoleRenderer(
            colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback, sort_keys=False
        )
    return structlog.processors.JSONRenderer(sort_keys=False, ensure_ascii=False, default=_as_text)


def _as_text(value: Any) -> str:
    return redact_text(repr(value))


def _take_over_libraries(level: str, before: list[Any], after: list[Any], stream: TextIO) -> None:
    handler = _Handler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*before, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *after],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    # Libraries are a level quieter than we are: their chatter would drown our lines, their debugging holds requests.
    root.setLevel(logging.INFO if level == "debug" else max(_LEVELS[level], logging.WARNING))
    for name in _TALKATIVE:
        library = logging.getLogger(name)
        library.handlers, library.propagate = [], True
        library.setLevel(logging.NOTSET)
    logging.getLogger("uvicorn.access").setLevel(logging.ERROR)  # one line per request; metrics count them
    logging.captureWarnings(True)


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Log the exception that ends the process: the interpreter's own print would not be redacted."""
    if issubclass(kind, KeyboardInterrupt):
        return
    structlog.get_logger().critical("uncaught", exc_info=(kind, error, trace))
