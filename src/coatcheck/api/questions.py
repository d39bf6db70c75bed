"""What every GET passes: who asks, the names in its address, and its query parameters."""

import re
from datetime import UTC, datetime
from functools import cache
from typing import Annotated, Any, Protocol, TypeVar
from urllib.parse import parse_qsl, unquote
from uuid import UUID

import msgspec
from litestar import Request, Response
from msgspec import Meta

from coatcheck.api.edge import JSON, encode, headers_of, refuse_card_numbers
from coatcheck.api.gateway import Gateway, gateway_of
from coatcheck.errors import CoatcheckError, ErrorCode, Problem
from coatcheck.shops import Caller
from coatcheck.states import Mode
from coatcheck.strict_json import pointer_step

_PARAMETERS_MOST = 100
_NUMBER = re.compile("[0-9]{1,9}")
NAME_PATTERN = "^[!-~]+$"  # what validation lets a shop call its checkouts, orders, sellers and buyers
_NAME = re.compile("[!-~]{1,128}")

_Parameters = TypeVar("_Parameters", bound="Parameters")


class Parameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The query parameters of an address: none, unless a subclass says otherwise."""


class PageParameters(Parameters, frozen=True, kw_only=True):
    """The query parameters of every list."""

    limit: Annotated[int, Meta(ge=1, le=100, description="The most entries on the page.", examples=[20])] = 20
    cursor: (
        Annotated[str, Meta(description="`next_cursor` of the page before, unchanged and with the same filters.")]
        | None
    ) = None


async def caller_of(request: Request[Any, Any, Any]) -> tuple[Gateway, Caller]:
    """Find out who asks. Raises CoatcheckError UNAUTHENTICATED, CARD_NUMBER_REFUSED."""
    gateway = gateway_of(request)
    authorization, key = headers_of(request.scope, b"authorization", b"idempotency-key")
    caller = await gateway.keys.authenticate(authorization)
    refuse_card_numbers(request.scope, key)
    return gateway, caller


class Owned(Protocol):
    """What belongs to a shop, in one of its worlds."""

    @property
    def shop_id(self) -> UUID:
        """Whose it is."""
        ...

    @property
    def mode(self) -> Mode:
        """Of which world."""
        ...


_Owned = TypeVar("_Owned", bound=Owned)


def own(caller: Caller, found: _Owned | None, name: str) -> _Owned:
    """Take what was found, where it is the caller's own. Raises CoatcheckError NOT_FOUND (hazard B7)."""
    if found is None or (found.shop_id, found.mode) != (caller.shop_id, caller.mode):
        raise CoatcheckError(ErrorCode.NOT_FOUND, f"No {name} in shop {caller.shop_name}, {caller.mode} mode.")
    return found


def wrong_parameter(name: str, detail: str) -> CoatcheckError:
    """Say what is wrong with a parameter that looks right by itself."""
    return CoatcheckError(ErrorCode.INVALID_REQUEST, f"query parameter {name}: {detail}", [Problem("/" + name, detail)])


def name_in_path(request: Request[Any, Any, Any], place: int) -> str | None:
    """Read a name of the shop's own from the address: its path's segment number `place`, from 0.

    Read from the raw path, because such a name may contain a slash, sent as %2F. None when no name can look like it.
    """
    segments = [segment for segment in request.scope["raw_path"].split(b"/") if segment]
    name = unquote(segments[place].decode("latin-1"))
    return name if _NAME.fullmatch(name) else None


def parameters_of(request: Request[Any, Any, Any], shape: type[_Parameters]) -> _Parameters:
    """Read the query parameters. Raises CoatcheckError INVALID_REQUEST with every problem."""
    given, problems = _given(request.scope.get("query_string", b""))
    read: dict[str, Any] = {}
    for name, text in given.items():
        if name not in _types_of(shape):
            problems.append(Problem("/" + pointer_step(name), _unknown(shape)))
            continue
        try:
            read[name] = _value_of(name, text, shape)
        except ValueError:
            problems.append(Problem("/" + name, hint_of(shape, name)))
    missing = [name for name in required_of(shape) if name not in given]
    problems += [Problem("/" + name, "Send this parameter: it is required.") for name in missing]
    if problems:
        first = f"query parameter {problems[0].pointer[1:]}: {problems[0].detail}"
        detail = first if len(problems) == 1 else f"{len(problems)} problems, all of them listed. The first: {first}"
        raise CoatcheckError(ErrorCode.INVALID_REQUEST, detail, problems)
    return msgspec.convert(read, shape)


def _given(query: bytes) -> tuple[dict[str, str], list[Problem]]:
    try:
        pairs = parse_qsl(
            query.decode("latin-1"), keep_blank_values=True, errors="strict", max_num_fields=_PARAMETERS_MOST
        )
    except ValueError:
        detail = f"Send at most {_PARAMETERS_MOST} query parameters, percent-encoded as UTF-8."
        raise CoatcheckError(ErrorCode.INVALID_REQUEST, detail) from None
    given: dict[str, str] = {}
    problems: list[Problem] = []
    for name, text in pairs:
        if name in given:
            problems.append(Problem("/" + pointer_step(name), "Send this parameter once."))
        given[name] = text
    return given, problems


def _value_of(name: str, text: str, shape: type[Parameters]) -> Any:
    # Numbers are the only parameters that msgspec would not read from text; anything else is wrong as it stands.
    value = int(text) if _NUMBER.fullmatch(text) and schema_of(shape)[name].get("type") == "integer" else text
    read = msgspec.convert(value, _types_of(shape)[name])
    if isinstance(read, datetime):
        try:
            return read.astimezone(UTC)
        except OverflowError:
            raise ValueError(text) from None
    return read


@cache
def _types_of(shape: type[Parameters]) -> dict[str, Any]:
    return {field.encode_name: field.type for field in msgspec.structs.fields(shape)}


@cache
def required_of(shape: type[Parameters]) -> tuple[str, ...]:
    """Name the parameters that must be sent."""
    return tuple([field.encode_name for field in msgspec.structs.fields(shape) if field.required])


@cache
def schema_of(shape: type[Parameters]) -> dict[str, dict[str, Any]]:
    """Give the JSON Schema of each parameter: what the API publishes, and what the hints are made of."""
    schemas, components = msgspec.json.schema_components([shape])
    del schemas
    described: dict[str, dict[str, Any]] = {}
    for name, part in components[shape.__name__]["properties"].items():
        choices = part.get("anyOf", [part])
        one = next(choice for choice in choices if choice.get("type") != "null")
        reference = one.get("$ref", "").rpartition("/")[2]
        schema = {**one, **{key: value for key, value in part.items() if key not in ("anyOf", "default")}}
        if reference:
            del schema["$ref"]
            schema = {"type": "string", "enum": components[reference]["enum"], **schema}
        if part.get("default") is not None:
            schema["default"] = part["default"]
        described[name] = schema
    return described


def hint_of(shape: type[Parameters], name: str) -> str:
    """Say what a parameter should look like."""
    schema = schema_of(shape)[name]
    if schema["type"] == "integer":
        return f"Write a whole number from {schema['minimum']} to {schema['maximum']}."
    if schema.get("format") == "date-time":
        return "Write a time with its zone (RFC 3339), such as 2026-05-01T12:00:00Z; a + is sent as %2B."
    if schema.get("format") == "date":
        return "Write a day, such as 2026-05-01."
    if "enum" in schema:
        return f"Write one of {', '.join(schema['enum'])}."
    return f"Write {schema.get('minLength', 1)} to {schema.get('maxLength', 255)} printable characters without spaces."


def _unknown(shape: type[Parameters]) -> str:
    known = tuple(_types_of(shape))
    return f"There is no such parameter; there are {', '.join(known)}." if known else "This address takes none."


def answer(body: msgspec.Struct) -> Response[bytes]:
    """Answer a question with 200."""
    return Response(encode(body), media_type=JSON)
