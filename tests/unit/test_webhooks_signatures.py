"""A signature in a header, as Stripe and the simulator make it: what proves, and what is found inside."""

import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta

import pytest
import stripe

from coatcheck.providers.protocol import ReceivedEvent, WebhookRefusedError
from coatcheck.providers.signatures import TOLERANCE_S, SignedEvents
from coatcheck.states import Mode

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
AT = int(NOW.timestamp())
SECRET = "whsec_test_secret"
EVENT = {"id": "evt_1", "type": "charge.succeeded", "livemode": False, "account": "acct_1", "data": {"object": {}}}
BODY = json.dumps(EVENT).encode()


def events(*secrets: str, account: str | None = "acct_1", mode: Mode = Mode.TEST) -> SignedEvents:
    return SignedEvents("a-signature", secrets or (SECRET,), account=account, mode=mode)


def hex_of(body: bytes = BODY, secret: str = SECRET, at: int | str = AT) -> str:
    return hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()


def received(
    body: bytes = BODY, header: str | None = None, *, reader: SignedEvents | None = None, at: datetime = NOW
) -> list[ReceivedEvent]:
    header = f"t={AT},v1={hex_of(body)}" if header is None else header
    return (reader or events()).receive({"a-signature": header}, body, at)


def test_a_proven_event_is_stored_as_its_raw_bytes_under_its_id() -> None:
    assert received() == [ReceivedEvent(account="acct_1", event_id="evt_1", raw=BODY)]


def test_an_event_of_no_account_is_stored_under_the_platforms_name() -> None:
    body = BODY.replace(b"acct_1", b"").replace(b'""', b"null")
    assert received(body, reader=events(account=None)) == [
        ReceivedEvent(account="platform", event_id="evt_1", raw=body)
    ]


def test_the_scheme_is_the_one_of_stripes_own_package() -> None:
    # Both ways: what the package signs is proven here, and what this file signs is proven there.
    signed = stripe.WebhookSignature._compute_signature(f"{AT}.{BODY.decode()}", SECRET)
    assert received(header=f"t={AT},v1={signed}")
    assert stripe.WebhookSignature.verify_header(BODY.decode(), f"t={AT},v1={hex_of()}", SECRET)


def test_the_scheme_gives_the_digest_that_openssl_gives() -> None:
    # printf '%s' '1700000000.{}' | openssl dgst -sha256 -hmac whsec_test_secret
    header = "t=1700000000,v1=ceb8863f7208fa249a6cd8f951e993c7563412aca65866f6272283debe143ab3"
    (event,) = received(b"{}", header, at=datetime.fromtimestamp(1_700_000_000, UTC))
    assert event.raw == b"{}"


@pytest.mark.parametrize(
    "header",
    [
        "",
        f"t={AT}",
        f"v1={hex_of()}",
        f"t={AT},v0={hex_of()}",
        f"t={AT},v1={hex_of(secret='whsec_other')}",
        f"t={AT},v1={hex_of(BODY + b' ')}",
        f"t={AT + 1},v1={hex_of()}",
    ],
)
def test_C5_what_is_not_signed_with_the_secret_is_refused(header: str) -> None:
    with pytest.raises(WebhookRefusedError):
        received(header=header)


def test_C5_a_webhook_without_the_header_is_refused() -> None:
    with pytest.raises(WebhookRefusedError, match="no signature header"):
        events().receive({"another-signature": f"t={AT},v1={hex_of()}"}, BODY, NOW)


@pytest.mark.parametrize(
    "header",
    [
        f"t={AT}, v1={hex_of()}",
        f"t={AT};v1={hex_of()}",
        f"t={AT},v1={hex_of()},",
        f"t={AT},v1={hex_of().upper()}",
        f"t={AT},v1={hex_of()[:-1]}",
        f"t={AT},v1={hex_of()},v1=short",
        f"t={AT},t={AT},v1={hex_of()}",
        f"t={AT},v1={hex_of()},note",
        f"t=+{AT},v1={hex_of(at=f'+{AT}')}",
        f"t=1_7,v1={hex_of(at='1_7')}",
        f"t={'9' * 12},v1={hex_of(at='9' * 12)}",
        f"t={AT},v1={hex_of()}" + f",v1={'0' * 64}" * 16,
        f"t={AT},v1={hex_of()},v0={'a' * 4096}",
    ],
)
def test_C5_a_header_that_is_not_exactly_of_the_scheme_is_refused(header: str) -> None:
    with pytest.raises(WebhookRefusedError):
        received(header=header)


def test_C5_nothing_is_parsed_before_the_proof() -> None:
    with pytest.raises(WebhookRefusedError, match="no signature in the header"):
        received(b"\x00 not JSON", f"t={AT},v1={hex_of()}")


def test_C5_signatures_of_other_schemes_are_passed_over() -> None:
    assert received(header=f"t={AT},v1={hex_of()},v0={'0' * 64},v2=AbC-/+_")


@pytest.mark.parametrize("late_s", [-TOLERANCE_S, 0, TOLERANCE_S])
def test_C4_C9_a_webhook_within_the_tolerance_is_taken(late_s: int) -> None:
    assert received(at=NOW + timedelta(seconds=late_s))


@pytest.mark.parametrize("late_s", [-TOLERANCE_S - 1, TOLERANCE_S + 1])
def test_C4_C9_an_old_webhook_and_one_from_the_future_are_refused(late_s: int) -> None:
    with pytest.raises(WebhookRefusedError, match="more than 300 s"):
        received(at=NOW + timedelta(seconds=late_s))


def test_C4_C9_a_fraction_of_a_second_beyond_the_tolerance_counts() -> None:
    with pytest.raises(WebhookRefusedError, match="more than 300 s"):
        received(at=NOW + timedelta(seconds=TOLERANCE_S, milliseconds=1))


def test_C5_only_who_knows_the_secret_is_told_about_our_clock() -> None:
    with pytest.raises(WebhookRefusedError, match="no signature"):
        received(header=f"t={AT - 1000},v1={'0' * 64}")


@pytest.mark.parametrize("secret", ["whsec_old", "whsec_new"])
def test_C11_either_secret_of_a_rotation_proves(secret: str) -> None:
    header = f"t={AT},v1={'0' * 64},v1={hex_of(secret=secret)}"
    assert received(header=header, reader=events("whsec_new", "whsec_old"))


def test_C11_a_secret_that_was_taken_away_proves_no_more() -> None:
    with pytest.raises(WebhookRefusedError):
        received(header=f"t={AT},v1={hex_of(secret='whsec_old')}", reader=events("whsec_new"))


def test_C10_an_event_of_the_other_mode_is_refused() -> None:
    with pytest.raises(WebhookRefusedError, match="other mode"):
        received(reader=events(mode=Mode.LIVE))
    body = BODY.replace(b"false", b"true")
    with pytest.raises(WebhookRefusedError, match="other mode"):
        received(body)
    assert received(body, reader=events(mode=Mode.LIVE))


@pytest.mark.parametrize("account", ["acct_2", "ACCT_1", None])
def test_C10_an_event_of_another_account_is_refused(account: str | None) -> None:
    with pytest.raises(WebhookRefusedError, match="another account"):
        received(reader=events(account=account))


def test_C10_an_event_that_names_no_account_is_not_of_a_named_one() -> None:
    with pytest.raises(WebhookRefusedError, match="another account"):
        received(BODY.replace(b'"acct_1"', b"null"))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not JSON",
        b"[]",
        b'{"id": "evt_1"',
        b"\xff\xfe",
        BODY.replace(b"evt_1", b"evt_\\u0000"),
        BODY.replace(b"evt_1", b"evt_\\ud800"),
        BODY.replace(b"{}", b'{"amount": NaN}'),
        BODY.replace(b"{}", b'{"amount": 1e400}'),
        BODY.replace(b"{}", b'{"amount": 9007199254740993}'),
        BODY.replace(b"{}", b"[" * 40 + b"]" * 40),
        BODY.replace(b'{"id": "evt_1"', b'{"id": "evt_1", "id": "evt_2"'),
        BODY.replace(b'"livemode": false', b'"livemode": true, "livemode": false'),
        BODY.replace(b'"id": "evt_1", ', b""),
        BODY.replace(b'"evt_1"', b"7"),
        BODY.replace(b'"evt_1"', b'"sha256:abc"'),
        BODY.replace(b'"evt_1"', b'"evt_1\\n"'),
        BODY.replace(b'"livemode": false, ', b""),
        BODY.replace(b"false", b'"false"'),
    ],
)
def test_C16_an_authentic_body_that_nobody_can_read_is_kept_under_its_digest(body: bytes) -> None:
    digest = hashlib.sha256(body).hexdigest()
    assert received(body) == [ReceivedEvent(account="acct_1", event_id=f"sha256:{digest}", raw=body)]


@pytest.mark.parametrize("secrets", [[], [""], ["whsec_1", ""], "whsec_1"])
def test_secrets_that_prove_nothing_are_not_taken(secrets: list[str]) -> None:
    with pytest.raises(ValueError, match="list of secrets"):
        SignedEvents("a-signature", secrets, account=None, mode=Mode.TEST)
