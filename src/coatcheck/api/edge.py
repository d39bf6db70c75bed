"""What every request passes: who is calling, the body within its limits, and errors as RFC 9457 problems."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any
from uuid import uuid4

import asyncpg
import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException
from litestar.types import Receive, Scope, Send
from msgspec import Meta

from coatcheck.api.limits import within
from coatcheck.errors import CoatcheckError, ErrorCode, Problem
from coatcheck.loops import log_trouble
from coatcheck.pan import contains_card_number_in
from coatcheck.store import is_away

JSON = "application/json"
PROBLEM_JSON = "application/problem+json"
TYPE = "urn:coatcheck:error:"
REPLAYED = {"Idempotent-Replayed": "true"}

log = structlog.get_logger("coatcheck.api")
encode = msgspec.json.Encoder().encode
_LONGEST_WAIT_S = 120  # a preference, not a claim on a connection for hours
_WAIT = re.compile(rb"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,4})\"?", re.IGNORECASE)


class ProblemPlace(msgspec.Struct, frozen=True):
    """One fault of a request: where (a JSON pointer into the body, or / and a query parameter), and what to do."""

    pointer: str
    detail: str


class ProblemBody(msgspec.Struct, omit_defaults=True):
    """An RFC 9457 problem: `code` is stable, `detail` says what to do, `problems` lists every fault of the request."""

    type: Annotated[str, Meta(examples=["urn:coatcheck:error:invalid_request"])]
    title: str
    status: int
    code: Annotated[str, Meta(extra_json_schema={"enum": [each.code for each in ErrorCode]})]
    detail: str
    problems: list[ProblemPlace] | None = None
    instance: Annotated[str | None, Meta(description="Names this failure in the gateway's log.")] = None


class Answer(msgspec.Struct, frozen=True):
    """An answer in the form in which it is sent: an ASGI application, which the framework passes on as it is."""

    status: int
    body: bytes
    media_type: str = JSON
    headers: Mapping[str, str] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - as ASGI has it
        """Send it."""
        headers = [(b"content-type", self.media_type.encode()), (b"content-length", b"%d" % len(self.body))]
        headers += [(name.lower().encode(), value.encode("latin-1")) for name, value in self.headers.items()]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": False})

    def as_response(self) -> Response[bytes]:
        """Put it into the framework's form, which it wants from whoever handles an error."""
        return Response(self.body, status_code=self.status, media_type=self.media_type, headers=dict(self.headers))


def headers_of(scope: Mapping[str, Any], *names: bytes) -> tuple[bytes | None, ...]:
    """Pick headers in one pass; a header sent twice with different values counts as its last."""
    found: dict[bytes, bytes] = {name: value for name, value in scope["headers"] if name in names}
    return tuple(found.get(name) for name in names)


async def read_body(receive: Receive, *, limit_bytes: int, deadline_s: int) -> bytes:
    """Read a body within its size and time. Raises CoatcheckError BODY_TOO_LARGE or BODY_TOO_SLOW (hazard C17)."""
    try:
        message: Any = await within(deadline_s, receive())
        body: bytes = message.get("body", b"")
        if message.get("more_body", False):
            async with asyncio.timeout(deadline_s):
                body = await _read_rest(receive, body, limit_bytes)
    except TimeoutError:
        raise _too_slow(deadline_s) from None
    if len(body) > limit_bytes:
        raise _too_large(limit_bytes)
    return body


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
    return min(int(found.group(1)), _LONGEST_WAIT_S) if found else None


def refuse_card_numbers(scope: Mapping[str, Any], key: bytes | None) -> None:
    """Refuse a card number in an address or an Idempotency-Key before anything is kept (hazards: PAN guard)."""
    address = (key or b"") + b" " + scope["raw_path"] + b"?" + scope.get("query_string", b"")
    if contains_card_number_in(address):
        raise CoatcheckError(ErrorCode.CARD_NUMBER_REFUSED, "Never send card numbers; send the provider's token.")


def problem(error: ErrorCode, detail: str, problems: Sequence[Problem] = (), instance: str | None = None) -> bytes:
    """Write a problem body."""
    listed = [ProblemPlace(found.pointer, found.detail) for found in problems] or None
    return encode(ProblemBody(TYPE + error.code, error.title, error.status, error.code, detail, listed, instance))


def refusal_of(error: CoatcheckError) -> Answer:
    """Put a refusal of ours into words."""
    body = problem(error.error, error.detail, error.problems)
    return Answer(error.error.status, body, PROBLEM_JSON, error.headers)


def answer_coatcheck_error(_: Request[Any, Any, Any], error: CoatcheckError) -> Response[bytes]:
    """Answer with a refusal of ours."""
    return refusal_of(error).as_response()


def answer_http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """Put the framework's own refusals (no such address, wrong method) into the same words."""
    try:
        # before the address is repeated
        refuse_card_numbers(request.scope, *headers_of(request.scope, b"idempotency-key"))
    except CoatcheckError as refusal:
        return answer_coatcheck_error(request, refusal)
    if isinstance(error, NotFoundException):
        code, detail = ErrorCode.NOT_FOUND, f"There is nothing at {request.url.path}; /schema lists what there is."
    elif isinstance(error, MethodNotAllowedException):
        code, detail = ErrorCode.METHOD_NOT_ALLOWED, f"{request.method} is not taken here; /schema lists what is."
    else:
        code, detail = ErrorCode.INVALID_REQUEST, str(error.detail)
    headers = {name: value for name, value in (error.headers or {}).items() if name.lower() == "allow"}
    return Response(problem(code, detail), status_code=code.status, media_type=PROBLEM_JSON, headers=headers)


def _recovering() -> CoatcheckError:
    return CoatcheckError(
        ErrorCode.RECOVERING,
        "The books were restored from a backup and are being compared with the provider; nothing is charged meanwhile. "
        "Send the same request with the same key again in a minute.",
        headers={"Retry-After": "60"},
    )


def failure_of(path: str, error: Exception) -> Answer:
    """Put a fault of ours into words: nothing is guessed, and the same request may be sent again with the same key."""
    if isinstance(error, asyncpg.ObjectNotInPrerequisiteStateError):  # refuse_while_recovering
        return refusal_of(_recovering())
    instance = uuid4().urn
    log_trouble(log, "request_failed", error, instance=instance, path=path)
    code, headers = ErrorCode.INTERNAL, {}
    detail = "The gateway failed. Send the same request with the same key again: it cannot be charged twice."
    if is_away(error):
        code, headers = ErrorCode.OVERLOADED, {"Retry-After": "1"}
        detail = "The gateway's database is away or busy. Send the same request with the same key again in a second."
    return Answer(code.status, problem(code, detail, instance=instance), PROBLEM_JSON, headers)


def answer_unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Answer for a fault of ours."""
    return failure_of(request.url.path, error).as_response()
