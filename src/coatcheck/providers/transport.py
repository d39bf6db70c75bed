"""What every way of not getting an answer means for money.

The one question is whether a byte of the request may have reached the PSP. Name resolution, the TCP connection and
the TLS handshake come before the first byte: what fails there was NOT_SENT. Whatever fails later, or at a moment that
cannot be told, is UNKNOWN. Classes are matched exactly: a class that a new release of the HTTP client adds is UNKNOWN
until it has its own row, and a test asks for that row.
"""

import io
import socket
import ssl
from typing import Final

import aiohttp
from aiohttp import client_exceptions

from coatcheck.providers.outcome import Outcome, OutcomeKind

_LARGE: Final = 2**20
_NOT_SENT, _UNKNOWN = OutcomeKind.NOT_SENT, OutcomeKind.UNKNOWN

TRANSPORT_ERRORS: Final = (aiohttp.ClientError, OSError)
"""What a call may raise because of the outside world; TimeoutError and the ssl errors are OSErrors."""

MEANINGS: Final[dict[type[BaseException], tuple[OutcomeKind, str]]] = {
    # before the first byte
    aiohttp.ClientConnectorError: (_NOT_SENT, "could not connect"),
    aiohttp.ClientConnectorDNSError: (_NOT_SENT, "the host name could not be resolved"),
    aiohttp.ClientProxyConnectionError: (_NOT_SENT, "could not connect to the proxy"),
    client_exceptions.UnixClientConnectorError: (_NOT_SENT, "could not connect to the socket file"),
    aiohttp.ClientSSLError: (_NOT_SENT, "the TLS handshake failed"),
    aiohttp.ClientConnectorSSLError: (_NOT_SENT, "the TLS handshake failed"),
    aiohttp.ClientConnectorCertificateError: (_NOT_SENT, "the TLS certificate was not accepted"),
    aiohttp.ServerFingerprintMismatch: (_NOT_SENT, "the TLS certificate is not the pinned one"),
    aiohttp.ConnectionTimeoutError: (_NOT_SENT, "connecting took too long"),
    aiohttp.ClientHttpProxyError: (_NOT_SENT, "the proxy refused to connect"),
    aiohttp.InvalidURL: (_NOT_SENT, "the address is not a URL"),
    aiohttp.InvalidUrlClientError: (_NOT_SENT, "the address is not a URL"),
    aiohttp.NonHttpUrlClientError: (_NOT_SENT, "the address is not an HTTP URL"),
    ConnectionRefusedError: (_NOT_SENT, "the connection was refused"),
    socket.gaierror: (_NOT_SENT, "the host name could not be resolved"),
    ssl.SSLCertVerificationError: (_NOT_SENT, "the TLS certificate was not accepted"),
    # after it, or who knows when
    aiohttp.ClientError: (_UNKNOWN, "the HTTP client failed"),
    aiohttp.ClientConnectionError: (_UNKNOWN, "the connection failed"),
    aiohttp.ClientConnectionResetError: (_UNKNOWN, "the connection was closed while sending"),
    aiohttp.ClientOSError: (_UNKNOWN, "the connection broke"),
    aiohttp.ServerConnectionError: (_UNKNOWN, "the connection failed"),
    aiohttp.ServerDisconnectedError: (_UNKNOWN, "the connection was closed without an answer"),
    aiohttp.ServerTimeoutError: (_UNKNOWN, "no answer in time"),
    aiohttp.SocketTimeoutError: (_UNKNOWN, "no answer in time"),
    aiohttp.ClientPayloadError: (_UNKNOWN, "the answer broke off"),
    aiohttp.UploadAbortedError: (_UNKNOWN, "sending broke off"),
    aiohttp.ClientResponseError: (_UNKNOWN, "the answer is not HTTP that can be read"),
    aiohttp.ContentTypeError: (_UNKNOWN, "the answer has another content type"),
    aiohttp.WSServerHandshakeError: (_UNKNOWN, "the answer is not HTTP that can be read"),
    aiohttp.TooManyRedirects: (_UNKNOWN, "the answer was a redirect"),
    aiohttp.RedirectClientError: (_UNKNOWN, "the answer was a redirect"),
    aiohttp.InvalidUrlRedirectClientError: (_UNKNOWN, "the answer was a redirect"),
    aiohttp.NonHttpUrlRedirectClientError: (_UNKNOWN, "the answer was a redirect"),
    TimeoutError: (_UNKNOWN, "no answer in time"),
    OSError: (_UNKNOWN, "the operating system reported an error"),
    BrokenPipeError: (_UNKNOWN, "the connection broke while sending"),
    ConnectionError: (_UNKNOWN, "the connection broke"),
    ConnectionAbortedError: (_UNKNOWN, "the connection was aborted"),
    ConnectionResetError: (_UNKNOWN, "the connection was reset"),
    ssl.SSLError: (_UNKNOWN, "the TLS connection broke"),
    ssl.SSLEOFError: (_UNKNOWN, "the TLS connection broke off"),
    ssl.SSLZeroReturnError: (_UNKNOWN, "the TLS connection was closed"),
    ssl.SSLSyscallError: (_UNKNOWN, "the TLS connection broke"),
    ssl.SSLWantReadError: (_UNKNOWN, "the TLS connection broke"),
    ssl.SSLWantWriteError: (_UNKNOWN, "the TLS connection broke"),
}

_UNLISTED = (_UNKNOWN, "an error that is not in the table")


def sendable(body: bytes) -> bytes | io.BytesIO:
    """Give a body to aiohttp as it wants it: a large one as a file, or it would hold up everything while it is sent."""
    return io.BytesIO(body) if len(body) > _LARGE else body


def outcome_of_exception(error: BaseException) -> Outcome:
    """Say what an exception of the HTTP client means for money: NOT_SENT or UNKNOWN, with the cause in words.

    A cancelled call, an interrupt or an exit is nobody's answer: those are raised again. The text of the exception is
    left out of the evidence, since it may quote what was sent.
    """
    if not isinstance(error, Exception):
        raise error
    kind, cause = MEANINGS.get(type(error), _UNLISTED)
    number = error.errno if isinstance(error, OSError) else None
    name = type(error).__name__
    return Outcome(kind=kind, cause=cause, evidence=name if number is None else f"{name} errno={number}")
