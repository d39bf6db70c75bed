"""The risk rules: pure, from the settings. docs/risk.md describes each; a test holds the two together.

Signals are kept with the payment and in its events for ever, so they never hold personal data: a country rule says
that it struck, the buyer's row says which country it was, as long as that row exists.
"""

from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from uuid import UUID

import msgspec

from coatcheck.config import Settings, SettingsError
from coatcheck.money import AmountError, CurrencyError, format_amount, parse_share


class RiskDecision(StrEnum):
    """What becomes of a payment: REVIEW lets it go on and marks it, BLOCK means that no provider is ever called."""

    ALLOW = "ALLOW"
    REVIEW = "REVIEW"
    BLOCK = "BLOCK"


class Signal(msgspec.Struct, frozen=True):
    """One rule that struck: what it saw, in words without personal data, and what it asks for."""

    rule: str
    value: str
    effect: RiskDecision


class Decision(msgspec.Struct, frozen=True):
    """What the rules say of a payment. `subjects` are the keyed digests under which a failure of it is counted."""

    decision: RiskDecision
    signals: tuple[Signal, ...] = ()
    subjects: tuple[UUID, ...] = ()


class RiskSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The limits, ready to compare: amounts in minor units by currency, a currency left out has no limit."""

    enabled: bool = True
    max_amount_minor: dict[str, int] = {}
    review_amount_minor: dict[str, int] = {}
    blocked_countries: frozenset[str] = frozenset()
    high_risk_countries: frozenset[str] = frozenset()
    high_risk_max_amount_minor: dict[str, int] = {}
    velocity_window_s: int = 3600
    velocity_card: int = 10
    velocity_buyer: int = 20
    velocity_ip: int = 50

    @property
    def highest_velocity(self) -> int:
        """Failures beyond this number change nothing, so none beyond it need be counted."""
        return max(self.velocity_card, self.velocity_buyer, self.velocity_ip)


class Failures(msgspec.Struct, frozen=True):
    """How often a payment's card, buyer and IP address failed within the window."""

    card: int = 0
    buyer: int = 0
    ip: int = 0


NO_FAILURES = Failures()


def risk_settings_of(settings: Settings) -> RiskSettings:
    """Read the limits out of the settings. Raises SettingsError naming every amount that is none of its currency."""
    problems: list[str] = []
    read = RiskSettings(
        enabled=settings.risk_enabled,
        max_amount_minor=_minor_of("risk_max_amount", settings.risk_max_amount, problems),
        review_amount_minor=_minor_of("risk_review_amount", settings.risk_review_amount, problems),
        blocked_countries=frozenset(settings.risk_blocked_countries),
        high_risk_countries=frozenset(settings.risk_high_risk_countries),
        high_risk_max_amount_minor=_minor_of("risk_high_risk_max_amount", settings.risk_high_risk_max_amount, problems),
        velocity_window_s=settings.risk_velocity_window_s,
        velocity_card=settings.risk_velocity_card,
        velocity_buyer=settings.risk_velocity_buyer,
        velocity_ip=settings.risk_velocity_ip,
    )
    if problems:
        raise SettingsError(problems)
    return read


def _minor_of(setting: str, amounts: Mapping[str, str], problems: list[str]) -> dict[str, int]:
    limits = {}
    for currency, text in amounts.items():
        try:
            limits[currency] = parse_share(text, currency)
        except (AmountError, CurrencyError) as error:
            problems.append(f"{setting}: {currency} {text}: {error}")
    return limits


def decide(
    settings: RiskSettings, totals_minor: Mapping[str, int], country: str | None, failures: Failures
) -> Decision:
    """Apply every rule to one payment; the strictest signal decides.

    `totals_minor` is the payment summed per currency, so that splitting it over orders does not get around a limit.
    """
    signals = (
        *_country_signals(settings, country),
        *_amount_signals(settings, totals_minor, is_high_risk=country in settings.high_risk_countries),
        *_velocity_signals(settings, failures),
    )
    if not signals:
        return ALLOWED
    return Decision(_strictest(signal.effect for signal in signals), signals)


ALLOWED = Decision(RiskDecision.ALLOW)


def _strictest(effects: Iterable[RiskDecision]) -> RiskDecision:
    return RiskDecision.BLOCK if RiskDecision.BLOCK in effects else RiskDecision.REVIEW


def _country_signals(settings: RiskSettings, country: str | None) -> Iterator[Signal]:
    if country in settings.blocked_countries:
        yield Signal("blocked_country", "the buyer's country is blocked", RiskDecision.BLOCK)
    if country in settings.high_risk_countries:
        yield Signal("high_risk_country", "the buyer's country is of high risk", RiskDecision.REVIEW)


def _amount_signals(settings: RiskSettings, totals_minor: Mapping[str, int], *, is_high_risk: bool) -> Iterator[Signal]:
    for currency, total in totals_minor.items():
        if total > settings.max_amount_minor.get(currency, total):
            yield _above("max_amount", total, settings.max_amount_minor[currency], currency, RiskDecision.BLOCK)
        if is_high_risk and total > settings.high_risk_max_amount_minor.get(currency, total):
            limit = settings.high_risk_max_amount_minor[currency]
            yield _above("high_risk_max_amount", total, limit, currency, RiskDecision.BLOCK)
        if total > settings.review_amount_minor.get(currency, total):
            yield _above("review_amount", total, settings.review_amount_minor[currency], currency, RiskDecision.REVIEW)


def _above(rule: str, total: int, limit: int, currency: str, effect: RiskDecision) -> Signal:
    value = f"{format_amount(total, currency)} is more than {format_amount(limit, currency)} {currency}"
    return Signal(rule, value, effect)


def _velocity_signals(settings: RiskSettings, failures: Failures) -> Iterator[Signal]:
    for rule, count, limit in (
        ("velocity_card", failures.card, settings.velocity_card),
        ("velocity_buyer", failures.buyer, settings.velocity_buyer),
        ("velocity_ip", failures.ip, settings.velocity_ip),
    ):
        if count >= limit:
            value = f"{limit} or more failed attempts in {settings.velocity_window_s} seconds"
            yield Signal(rule, value, RiskDecision.BLOCK)
