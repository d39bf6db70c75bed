"""What every POST passes: who asks, the body within its limits and read strictly, the request's key, and its answer."""

from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from litestar import Request
from litestar.types import Receive, Scope

from coatcheck.api.edge import (
    REPLAYED,
    Answer,
    encode,
    headers_of,
    read_body,
    refuse_card_numbers,
    require_json,
    wait_of,
)
from coatcheck.api.gateway import Gateway, gateway_of
from coatcheck.shops import Caller
from coatcheck.validation import parse_idempotency_key


class Keyed(Protocol):
    """A body that may hold its request's key."""

    @property
    def idempotency_key(self) -> str | None:
        """The key, unless the header has it."""
        ...


_Body = TypeVar("_Body", bound=Keyed)
_Plain = TypeVar("_Plain")
_Plain_co = TypeVar("_Plain_co", covariant=True)
_Read_co = TypeVar("_Read_co", bound=Keyed, covariant=True)


class Parse(Protocol[_Read_co]):
    """Reads one kind of body; see validation.py."""

    def __call__(self, raw: bytes, *, body_depth: int, orders_limit: int) -> _Read_co:
        """Raise CoatcheckError with everything that is wrong."""
        ...


class Asked(NamedTuple, Generic[_Body]):
    """A request that may be worked on: who sent it, what it says, its key; `wait_s` None without a preference."""

    gateway: Gateway
    caller: Caller
    body: _Body
    key: str
    wait_s: int | None

    @property
    def patience_s(self) -> int:
        """How long to wait for an outcome before answering with what is known."""
        return self.gateway.settings.response_wait_s if self.wait_s is None else self.wait_s


async def take(request: Request[Any, Any, Any], parse: Parse[_Body]) -> Asked[_Body]:
    """Take a request in, as `take_in` does."""
    return await take_in(gateway_of(request), request.scope, request.receive, parse)


async def take_in(gateway: Gateway, scope: Scope, receive: Receive, parse: Parse[_Body]) -> Asked[_Body]:
    """Take a request in, in the order in which it may be refused.

    Raises CoatcheckError: UNAUTHENTICATED, UNSUPPORTED_MEDIA_TYPE, CARD_NUMBER_REFUSED, BODY_TOO_LARGE, BODY_TOO_SLOW,
    MALFORMED_BODY, INVALID_REQUEST, and of the key IDEMPOTENCY_KEY_MISSING, _MISMATCH, _INVALID.
    """
    authorization, content_type, header_key, prefer = headers_of(
        scope, b"authorization", b"content-type", b"idempotency-key", b"prefer"
    )
    caller = await gateway.keys.authenticate(authorization)
    settings = gateway.settings
    require_json(content_type)
    refuse_card_numbers(scope, header_key)
    raw = await read_body(receive, limit_bytes=settings.body_limit_bytes, deadline_s=settings.body_deadline_s)
    body = parse(raw, body_depth=settings.body_depth, orders_limit=settings.orders_limit)
    return Asked(gateway, caller, body, parse_idempotency_key(header_key, body.idempotency_key), wait_of(prefer))


class ParsePlain(Protocol[_Plain_co]):
    """Reads one kind of body that holds no key; see validation.py."""

    def __call__(self, raw: bytes, *, body_depth: int, orders_limit: int) -> _Plain_co:
        """Raise CoatcheckError with everything that is wrong."""
        ...


async def take_unkeyed(request: Request[Any, Any, Any], parse: ParsePlain[_Plain]) -> tuple[Gateway, Caller, _Plain]:
    """Take in a request that needs no key: what it asks for is so once, however often it is asked for.

    Raises as `take` does, but for the key.
    """
    gateway = gateway_of(request)
    authorization, content_type, key = headers_of(request.scope, b"authorization", b"content-type", b"idempotency-key")
    caller = await gateway.keys.authenticate(authorization)
    settings = gateway.settings
    require_json(content_type)
    refuse_card_numbers(request.scope, key)
    raw = await read_body(request.receive, limit_bytes=settings.body_limit_bytes, deadline_s=settings.body_deadline_s)
    return gateway, caller, parse(raw, body_depth=settings.body_depth, orders_limit=settings.orders_limit)


def answer_post(gateway: Gateway, body: object, *, is_decided: bool, is_replay: bool, done: int = 201) -> Answer:
    """Answer a POST: what it asked for is decided, or (202) still under way. One that is given again says so."""
    if is_replay:
        gateway.metrics.idempotent_replays.inc()
    headers = REPLAYED if is_replay and is_decided else {}
    return Answer(done if is_decided else 202, encode(body), headers=headers)
