"""The simulated PSP's answers: what is written to the wire, and when."""

import msgspec

from coatcheck.simulator.records import Refusal

JSON = b"content-type: application/json\r\n"
CSV = b"content-type: text/csv; charset=utf-8\r\n"
REPLAYED = JSON + b"idempotent-replayed: true\r\n"

encode = msgspec.json.Encoder().encode


class Reply(msgspec.Struct, gc=False):
    """An answer, ready to be written: after `delay_s`, or never where `is_dropped` (the connection is closed)."""

    status: int
    body: bytes
    headers: bytes = JSON
    delay_s: float = 0.0
    is_dropped: bool = False


def problem(status: int, code: str, message: str, headers: bytes = JSON) -> Reply:
    """Refuse, with a stable code and what to change."""
    return Reply(status, encode({"code": code, "message": message}), headers)


def refused(refusal: Refusal) -> Reply:
    """Put a refusal into an answer."""
    return problem(refusal.status, refusal.code, refusal.message)


def server_error(headers: bytes = JSON) -> Reply:
    """Fail, without a word about what was done."""
    return problem(500, "internal_error", "Something went wrong on our side.", headers)
