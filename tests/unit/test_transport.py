"""Every way of not getting an answer has its meaning."""

import asyncio
import errno
import inspect
import socket
import ssl
from collections.abc import Iterator

import aiohttp
import pytest

from coatcheck.providers.outcome import OutcomeKind
from coatcheck.providers.transport import MEANINGS, TRANSPORT_ERRORS, outcome_of_exception

# Nothing of the request has left when one of these is raised. Written out here a second time on purpose: a row that
# moves to NOT_SENT by mistake charges somebody twice.
BEFORE_THE_FIRST_BYTE = {
    "ClientConnectorError",
    "ClientConnectorDNSError",
    "ClientProxyConnectionError",
    "UnixClientConnectorError",
    "ClientSSLError",
    "ClientConnectorSSLError",
    "ClientConnectorCertificateError",
    "ServerFingerprintMismatch",
    "ConnectionTimeoutError",
    "ClientHttpProxyError",
    "InvalidURL",
    "InvalidUrlClientError",
    "NonHttpUrlClientError",
    "ConnectionRefusedError",
    "gaierror",
    "SSLCertVerificationError",
}


def tree(root: type[BaseException]) -> Iterator[type[BaseException]]:
    yield root
    for child in root.__subclasses__():
        yield from tree(child)


def of_aiohttp() -> list[type[BaseException]]:
    return sorted(
        {kind for kind in tree(aiohttp.ClientError) if kind.__module__.startswith("aiohttp.")},
        key=lambda kind: kind.__name__,
    )


def of_ssl() -> list[type[BaseException]]:
    return [kind for _, kind in inspect.getmembers(ssl, inspect.isclass) if issubclass(kind, ssl.SSLError)]


def test_the_tree_is_walked_and_not_empty() -> None:
    names = {kind.__name__ for kind in of_aiohttp()}
    assert len(names) > 20
    assert {"ClientConnectorDNSError", "SocketTimeoutError", "NonHttpUrlRedirectClientError"} <= names


@pytest.mark.parametrize("kind", of_aiohttp() + of_ssl())
def test_A12_every_exception_of_the_http_client_has_its_own_row(kind: type[BaseException]) -> None:
    assert kind in MEANINGS, f"{kind.__name__} needs a row in MEANINGS: could a byte have been sent when it is raised?"


@pytest.mark.parametrize("kind", MEANINGS)
def test_A12_only_what_comes_before_the_first_byte_is_not_sent(kind: type[BaseException]) -> None:
    meaning, cause = MEANINGS[kind]
    expected = OutcomeKind.NOT_SENT if kind.__name__ in BEFORE_THE_FIRST_BYTE else OutcomeKind.UNKNOWN
    assert meaning is expected
    assert cause


@pytest.mark.parametrize("kind", MEANINGS)
def test_the_adapters_catch_every_row(kind: type[BaseException]) -> None:
    assert issubclass(kind, TRANSPORT_ERRORS)


@pytest.mark.parametrize(
    ("error", "kind", "evidence"),
    [
        (
            ConnectionRefusedError(errno.ECONNREFUSED, "refused"),
            OutcomeKind.NOT_SENT,
            "ConnectionRefusedError errno=111",
        ),
        (socket.gaierror(socket.EAI_NONAME, "no such name"), OutcomeKind.NOT_SENT, "gaierror errno=-2"),
        (aiohttp.ConnectionTimeoutError("to host"), OutcomeKind.NOT_SENT, "ConnectionTimeoutError"),
        (TimeoutError(), OutcomeKind.UNKNOWN, "TimeoutError"),
        (aiohttp.ServerDisconnectedError(), OutcomeKind.UNKNOWN, "ServerDisconnectedError"),
        (ConnectionResetError(errno.ECONNRESET, "reset"), OutcomeKind.UNKNOWN, "ConnectionResetError errno=104"),
        (PermissionError(errno.EACCES, "no"), OutcomeKind.UNKNOWN, "PermissionError errno=13"),
    ],
)
def test_what_an_exception_means(error: Exception, kind: OutcomeKind, evidence: str) -> None:
    outcome = outcome_of_exception(error)
    assert (outcome.kind, outcome.evidence) == (kind, evidence)
    assert outcome.cause


def test_a_subclass_without_a_row_is_unknown_even_below_one_that_was_not_sent() -> None:
    class NewConnectorError(aiohttp.ConnectionTimeoutError):
        pass

    assert outcome_of_exception(NewConnectorError()).kind is OutcomeKind.UNKNOWN


def test_the_text_of_an_exception_is_not_kept() -> None:
    outcome = outcome_of_exception(aiohttp.ClientPayloadError("Bearer sk_live_secret"))
    assert "secret" not in f"{outcome.cause} {outcome.evidence}"


@pytest.mark.parametrize("error", [asyncio.CancelledError(), KeyboardInterrupt(), SystemExit()])
def test_A17_a_cancelled_call_is_nobody_s_answer(error: BaseException) -> None:
    with pytest.raises(type(error)):
        outcome_of_exception(error)
