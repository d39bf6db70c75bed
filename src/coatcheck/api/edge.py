"""What every request passes: who is calling, the body within its limits, and errors as RFC 9457 problems."""

import asyncio
import re
from collections.abc import Mapping
from typing import Any

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException
from litestar.types import Receive

from coatcheck.errors import CoatcheckError, ErrorCode, Problem
from coatcheck.pan import contains_card_number_in

JSON = "application/json"
PROBLEM_JSON = "application/problem+json"
TYPE = "urn:coatcheck:error:"
REPLAYED = {"Idempotent-Replayed": "true"}

log = structlog.get_logger("coatcheck.api")
encode = msgspec.json.Encoder().encode
_KEY = re.compile(r"[ -~]{1,255}")
_QUOTED = re.compile(r'"((?:[^"\\]|\\["\\])*)"')
_ESCAPED = re.compile(r'\\(["\\])')
_WAIT = re.compile(rb"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,4})\"?", re.IGNORECASE)


class ProblemBody(msgspec.Struct, omit_defaults=True):
    """An RFC 9457 problem: `code` is stable, `detail` says what to do, `problems` lists every fault of the request."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    problems: list[dict[str, str]] | None = None


def headers_of(scope: Mapping[str, Any], *names: bytes) -> tuple[bytes | None, ...]:
    """Pick headers in one pass; a header sent twice with different values counts as its last."""
    found: dict[bytes, bytes] = {name: value for name, value in scope["headers"] if name in names}
    return tuple(found.get(name) for name in names)


async def read_body(receive: Receive, *, limit_bytes: int, deadline_s: int) -> bytes:
    """Read a body within its size and time. Raises CoatcheckError BODY_TOO_LARGE or BODY_TOO_SLOW (hazard C17)."""
    message: Any = await _next_part(receive, deadline_s)
    body: bytes = message.get("body", b"")
    if message.get("more_body", False):
        try:
            async with asyncio.timeout(deadline_s):
                body = await _read_rest(receive, body, limit_bytes)
        except TimeoutError:
            raise _too_slow(deadline_s) from None
    if len(body) > limit_bytes:
        raise _too_large(limit_bytes)
    return body


async def _next_part(receive: Receive, deadline_s: int) -> Any:
    try:
        async with asyncio.timeout(deadline_s):
            return await receive()
    except TimeoutError:
        raise _too_slow(deadline_s) from None


async def _read_rest(receive: Receive, first: bytes, limit_bytes: int) -> bytes:
    parts, size, more = [first], len(first), True
    while more:
        message: Any = await receive()
        if message["type"] == "http.disconnect":
            raise CoatcheckError(ErrorCode.MALFORMED_BODY, "The connection closed before the body was complete.")
        part = message.get("body", b"")
        size += len(part)
        if size > limit_bytes:
            raise _too_large(limit_bytes)
        parts.append(part)
        more = message.get("more_body", False)
    return b"".join(parts)


def _too_large(limit_bytes: int) -> CoatcheckError:
    return CoatcheckError(ErrorCode.BODY_TOO_LARGE, f"Send at most {limit_bytes} bytes in one body.")


def _too_slow(deadline_s: int) -> CoatcheckError:
    return CoatcheckError(ErrorCode.BODY_TOO_SLOW, f"Send the whole body within {deadline_s} seconds.")


def require_json(content_type: bytes | None) -> None:
    """Refuse a body that is not declared as JSON. Raises CoatcheckError UNSUPPORTED_MEDIA_TYPE."""
    if content_type is None or content_type.partition(b";")[0].strip().lower() != b"application/json":
        raise CoatcheckError(
            ErrorCode.UNSUPPORTED_MEDIA_TYPE, "Send the body with the header `Content-Type: application/json`."
        )


def wait_of(prefer: bytes | None) -> int | None:
    """Read `Prefer: wait=N` (RFC 7240), in seconds; None when the caller has no preference."""
    if prefer is None:
        return None
    found = _WAIT.search(prefer)
    return int(found.group(1)) if found else None


def refuse_card_numbers(scope: Mapping[str, Any]) -> None:
    """Refuse a card number in an address or a header before anything of it is kept (hazards: PAN guard)."""
    key = headers_of(scope, b"idempotency-key")[0] or b""
    address = key + b" " + scope["raw_path"] + b"?" + scope.get("query_string", b"")
    if contains_card_number_in(address):
        raise CoatcheckError(ErrorCode.CARD_NUMBER_REFUSED, "Never send card numbers; send the provider's token.")


def problem(error: ErrorCode, detail: str, problems: "list[Problem] | tuple[Problem, ...]" = ()) -> bytes:
    """Write a problem body."""
    listed = [{"pointer": found.pointer, "detail": found.detail} for found in problems] or None
    return encode(ProblemBody(TYPE + error.code, error.title, error.status, error.code, detail, listed))


def answer_coatcheck_error(_: Request[Any, Any, Any], error: CoatcheckError) -> Response[bytes]:
    """Put a refusal of ours into words."""
    body = problem(error.error, error.detail, tuple(error.problems))
    return Response(body, status_code=error.error.status, media_type=PROBLEM_JSON, headers=dict(error.headers))


def answer_http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """Put the framework's own refusals (no such address, wrong method) into the same words."""
    if isinstance(error, NotFoundException):
        code, detail = ErrorCode.NOT_FOUND, f"There is nothing at {request.url.path}; /schema lists what there is."
    elif isinstance(error, MethodNotAllowedException):
        code, detail = ErrorCode.METHOD_NOT_ALLOWED, f"{request.method} is not taken here; /schema lists what is."
    else:
        code, detail = ErrorCode.INVALID_REQUEST, str(error.detail)
    headers = {name: value for name, value in (error.headers or {}).items() if name.lower() == "allow"}
    return Response(problem(code, detail), status_code=code.status, media_type=PROBLEM_JSON, headers=headers)


def answer_unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Answer for a fault of ours: nothing is guessed, and the same request may be sent again with the same key."""
    log.error("request_failed", path=request.url.path, exc_info=error)
    detail = "The gateway failed. Send the same request with the same key again: it cannot be charged twice."
    code = ErrorCode.INTERNAL
    return Response(problem(code, detail), status_code=code.status, media_type=PROBLEM_JSON)


def idempotency_key_of(header: bytes | None, in_body: str | None) -> str:
    """Find the request's idempotency key: in the body, or in the header as a bare word or a quoted string.

    Raises CoatcheckError when there is none, when both are given and differ, or when it is not 1 to 255 characters of
    printable ASCII. Source of the quoted form: draft-ietf-httpapi-idempotency-key-header (a structured-field string).
    """
    in_header = None if header is None else _unquoted(header)
    if in_header is None and in_body is None:
        raise CoatcheckError(
            ErrorCode.IDEMPOTENCY_KEY_MISSING,
            "Send `idempotency_key` in the body or the header `Idempotency-Key`: a value of your own, new for each new "
            "request and the same when you send it again. docs/idempotency.md explains why.",
        )
    if in_header is not None and in_body is not None and in_header != in_body:
        raise CoatcheckError(
            ErrorCode.IDEMPOTENCY_KEY_MISMATCH,
            "The header `Idempotency-Key` and `idempotency_key` in the body differ: send one of them.",
        )
    key = in_body if in_header is None else in_header
    if key is None or not _KEY.fullmatch(key):
        raise CoatcheckError(
            ErrorCode.IDEMPOTENCY_KEY_INVALID, "An idempotency key is 1 to 255 characters of printable ASCII."
        )
    return key


def _unquoted(header: bytes) -> str:
    text = header.decode("latin-1").strip()
    quoted = _QUOTED.fullmatch(text)
    return _ESCAPED.sub(r"\1", quoted.group(1)) if quoted else text
