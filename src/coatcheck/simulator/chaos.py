"""The chaos dial: which sendings go wrong, and how. Seeded, so the same keys meet the same faults again.

What happens to a sending depends only on (seed, key, which sending of that key it is), never on the order in which
concurrent requests arrive.
"""

import hashlib
from enum import StrEnum
from typing import Annotated

import msgspec

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=600_000)]

_RANGE = 1 << 32  # a draw is 32 bits of a digest


class Dial(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How bad the weather is. A share is a probability from 0 to 1 per sending; the four fault shares add up to <= 1.

    `rate_limit_share`: 429 with Retry-After, nothing done. `error_before_share`: 500, nothing done.
    `error_after_share`: 500 after charging. `drop_after_charge_share`: charged, then the connection is closed without
    an answer. `max_faults_per_key`: after so many of these a key is left in peace, so that retries get through;
    0 means never. `decline_share`: declined although the token says otherwise. `latency_ms` (+ up to
    `latency_jitter_ms`) is added to every answer, `slow_ms` to a share of charges. `search_lag_ms`: how long a charge
    stays invisible to the search by reference. `look_up_error_share`: 500 to a GET. `refund_settle_ms`,
    `refund_fails_later_ms`: when a refund of tok_refund_pending succeeds and one of tok_refund_fails_later comes back;
    `payout_settle_ms`, `payout_returns_later_ms`: when a payout to dest_pending is paid and one to dest_returns comes
    back; 0 leaves each to an admin.

    The webhook shares are probabilities per event: never sent, sent twice, sent `webhook_late_ms` late, held back
    behind the next event; and what comes besides it: a forgery with a wrong signature, an authentic event with a wrong
    amount.
    """

    seed: int = 1
    latency_ms: Milliseconds = 0
    latency_jitter_ms: Milliseconds = 0
    slow_share: Share = 0
    slow_ms: Milliseconds = 2_000
    drop_after_charge_share: Share = 0
    error_before_share: Share = 0
    error_after_share: Share = 0
    rate_limit_share: Share = 0
    retry_after_s: Annotated[int, msgspec.Meta(ge=0, le=86_400)] = 1
    max_faults_per_key: Annotated[int, msgspec.Meta(ge=0, le=1_000)] = 3
    decline_share: Share = 0
    look_up_error_share: Share = 0
    search_lag_ms: Milliseconds = 0
    refund_settle_ms: Milliseconds = 0
    refund_fails_later_ms: Milliseconds = 0
    payout_settle_ms: Milliseconds = 0
    payout_returns_later_ms: Milliseconds = 0
    webhook_lost_share: Share = 0
    webhook_duplicate_share: Share = 0
    webhook_late_share: Share = 0
    webhook_late_ms: Milliseconds = 2_000
    webhook_reorder_share: Share = 0
    webhook_forged_share: Share = 0
    webhook_wrong_amount_share: Share = 0

    def __post_init__(self) -> None:
        shares = self.rate_limit_share + self.error_before_share + self.error_after_share + self.drop_after_charge_share
        if shares > 1:
            message = "rate_limit_share, error_before_share, error_after_share and drop_after_charge_share exceed 1"
            raise ValueError(message)


class Fault(StrEnum):
    """What goes wrong with one sending; the names are the counters in the books."""

    NONE = "none"
    RATE_LIMIT = "rate_limited"
    ERROR_BEFORE = "error_before"
    ERROR_AFTER = "error_after"
    DROP = "dropped_after_charge"


class Weather(msgspec.Struct, frozen=True, gc=False):
    """What one sending meets."""

    fault: Fault = Fault.NONE
    delay_s: float = 0.0
    is_slow: bool = False
    declines: bool = False


class Fate(msgspec.Struct, frozen=True, gc=False):
    """What one event meets on its way to the merchant."""

    is_lost: bool = False
    is_duplicated: bool = False
    is_late: bool = False
    is_held_back: bool = False
    has_forgery: bool = False
    has_wrong_amount: bool = False


_CALM = Weather()
_SAFE = Fate()


class Chaos:
    """Draws the weather of every sending from the dial."""

    def __init__(self, dial: Dial) -> None:
        self._sends: dict[str, int] = {}
        self._faults: dict[str, int] = {}
        self._events: dict[str, int] = {}
        self._look_ups = 0
        self.set(dial)

    def set(self, dial: Dial) -> None:
        """Turn the dial; counts of earlier sendings start again."""
        self.dial = dial
        self._seed = str(dial.seed).encode()[:64]
        # What touches a sending; the rest of the dial is for look-ups, refunds and webhooks.
        self._is_calm = not (
            dial.latency_ms
            or dial.latency_jitter_ms
            or dial.slow_share
            or dial.drop_after_charge_share
            or dial.error_before_share
            or dial.error_after_share
            or dial.rate_limit_share
            or dial.decline_share
        )
        self._tells_safely = not (
            dial.webhook_lost_share
            or dial.webhook_duplicate_share
            or dial.webhook_late_share
            or dial.webhook_reorder_share
            or dial.webhook_forged_share
            or dial.webhook_wrong_amount_share
        )
        self._sends.clear()
        self._events.clear()
        self._faults.clear()
        self._look_ups = 0

    def of_sending(self, key: str) -> Weather:
        """Draw what this sending of a charge meets."""
        if self._is_calm:
            return _CALM
        ordinal = self._sends[key] = self._sends.get(key, 0) + 1
        fault_draw, slow_draw, jitter_draw, _ = self._draws(f"{key}/{ordinal}")
        _, _, _, decline_draw = self._draws(key)
        dial = self.dial
        is_slow = slow_draw < dial.slow_share
        delay_ms = dial.latency_ms + dial.latency_jitter_ms * jitter_draw + (dial.slow_ms if is_slow else 0)
        fault = self._allow(key, self._fault_of(fault_draw))
        return Weather(fault, delay_ms / 1000, is_slow, decline_draw < dial.decline_share)

    def of_look_up(self) -> tuple[bool, float]:
        """Draw what a GET meets: whether it fails, and its latency in seconds."""
        dial = self.dial
        if not (dial.look_up_error_share or dial.latency_ms or dial.latency_jitter_ms):
            return False, 0.0
        self._look_ups += 1
        error_draw, _, jitter_draw, _ = self._draws(f"/look-up/{self._look_ups}")
        return error_draw < dial.look_up_error_share, (dial.latency_ms + dial.latency_jitter_ms * jitter_draw) / 1000

    def declines(self, reference: str) -> bool:
        """Draw whether a payout is refused although its destination says otherwise; the same for each sending of it."""
        return bool(self.dial.decline_share) and self._draws(f"/payout/{reference}")[0] < self.dial.decline_share

    def of_event(self, kind: str, reference: str) -> Fate:
        """Draw what an event about a reference meets; the second of one kind about it draws anew."""
        if self._tells_safely:
            return _SAFE
        name = f"{kind}/{reference}"
        ordinal = self._events[name] = self._events.get(name, 0) + 1
        lost, duplicate, late, reorder = self._draws(f"/event/{name}/{ordinal}")
        forged, wrong_amount, _, _ = self._draws(f"/extra/{name}/{ordinal}")
        dial = self.dial
        return Fate(
            lost < dial.webhook_lost_share,
            duplicate < dial.webhook_duplicate_share,
            late < dial.webhook_late_share,
            reorder < dial.webhook_reorder_share,
            forged < dial.webhook_forged_share,
            wrong_amount < dial.webhook_wrong_amount_share,
        )

    def _draws(self, text: str) -> tuple[float, float, float, float]:
        """Make four even draws from [0, 1) out of what names the event."""
        digest = hashlib.blake2b(text.encode(), digest_size=16, key=self._seed).digest()
        number = int.from_bytes(digest, "big")
        mask = _RANGE - 1
        first, second, third, fourth = number >> 96, number >> 64 & mask, number >> 32 & mask, number & mask
        return first / _RANGE, second / _RANGE, third / _RANGE, fourth / _RANGE

    def _fault_of(self, draw: float) -> Fault:
        dial = self.dial
        for fault, share in (
            (Fault.RATE_LIMIT, dial.rate_limit_share),
            (Fault.ERROR_BEFORE, dial.error_before_share),
            (Fault.ERROR_AFTER, dial.error_after_share),
            (Fault.DROP, dial.drop_after_charge_share),
        ):
            if draw < share:
                return fault
            draw -= share
        return Fault.NONE

    def _allow(self, key: str, fault: Fault) -> Fault:
        """Count a fault against its key, or let the sending through when the key has had its share."""
        if fault is Fault.NONE:
            return fault
        count = self._faults.get(key, 0)
        if self.dial.max_faults_per_key and count >= self.dial.max_faults_per_key:
            return Fault.NONE
        self._faults[key] = count + 1
        return fault
