"""The settings: read once at start from a TOML file and the environment, checked together, then frozen.

The environment wins over the file, flags of the command line over both. Nothing else reads the environment.
docs/settings.md describes every setting; a test holds the two together.
"""

import difflib
import json
import os
import re
import secrets
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, get_type_hints
from urllib.parse import urlsplit

from coatcheck.money import parse_share

DEFAULT_FILE = Path("coatcheck.toml")
_PREFIX = "COATCHECK_"
_CONFIG_VARIABLE = "COATCHECK_CONFIG"
_DIGEST_SECRET_BYTES = 32
_MANY = 10**9  # far beyond any sensible setting, and safe in every unit


class SettingsError(Exception):
    """The settings cannot be used; one line per thing wrong, each naming the setting and what it should be."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class _ReasonError(ValueError):
    """A value that breaks its rule for a reason worth telling."""


class Rule(Protocol):
    """What a setting's value must be. `expects` completes the sentence "... is not ..."."""

    @property
    def expects(self) -> str:
        """The values allowed, in words."""
        ...

    def from_text(self, text: str) -> Any:
        """Read an environment variable. Raises ValueError."""
        ...

    def from_value(self, value: Any) -> Any:
        """Read a value of a TOML file. Raises ValueError."""
        ...


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number between two bounds."""

    low: int
    high: int

    @property
    def expects(self) -> str:
        """The values allowed, in words."""
        return f"a whole number between {self.low} and {self.high}"

    def from_text(self, text: str) -> int:
        """Read decimal digits; int() alone would take "1_000" and Arabic digits."""
        if not re.fullmatch(r"-?[0-9]{1,18}", text.strip()):
            raise ValueError(text)
        return self.from_value(int(text))

    def from_value(self, value: Any) -> int:
        """Check the bounds; true is not a number."""
        if type(value) is not int or not self.low <= value <= self.high:
            raise ValueError(value)
        return value


@dataclass(frozen=True, slots=True)
class Text:
    """Text of a certain form."""

    expects: str
    is_right: Callable[[str], object]

    def from_text(self, text: str) -> str:
        """Check the form."""
        return self.from_value(text)

    def from_value(self, value: Any) -> str:
        """Check the form."""
        if not isinstance(value, str) or not self.is_right(value):
            raise ValueError(value)
        return value


@dataclass(frozen=True, slots=True)
class Folder:
    """A directory, made when it does not exist."""

    expects: str = "the path of a directory"

    def from_text(self, text: str) -> Path:
        """Read a path; ~ is the home directory."""
        return self.from_value(text)

    def from_value(self, value: Any) -> Path:
        """Read a path; ~ is the home directory."""
        if not isinstance(value, str) or not value or "\0" in value:
            raise ValueError(value)
        return Path(value).expanduser()


@dataclass(frozen=True, slots=True)
class Switch:
    """True or false."""

    expects: str = "true or false"

    def from_text(self, text: str) -> bool:
        """Read true or false, in any case."""
        return self.from_value({"true": True, "false": False}.get(text.strip().lower()))

    def from_value(self, value: Any) -> bool:
        """Only a boolean will do: 0, "no" and the like are too easily meant otherwise."""
        if not isinstance(value, bool):
            raise ValueError(value)  # noqa: TRY004  one kind of error for every wrong setting
        return value


@dataclass(frozen=True, slots=True)
class Countries:
    """A list of ISO 3166 two-letter country codes."""

    expects: str = 'a list of two-letter country codes, such as "IR,KP" or ["IR", "KP"]'

    def from_text(self, text: str) -> tuple[str, ...]:
        """Read codes separated by commas, or a JSON list; nothing is the empty list."""
        if text.lstrip().startswith("["):
            return self.from_value(json.loads(text))
        return self.from_value([code.strip() for code in text.split(",") if code.strip()])

    def from_value(self, value: Any) -> tuple[str, ...]:
        """Check every code."""
        if not isinstance(value, list | tuple):
            raise ValueError(value)  # noqa: TRY004  one kind of error for every wrong setting
        if not all(isinstance(code, str) and re.fullmatch("[A-Z]{2}", code) for code in value):
            raise ValueError(value)
        return tuple(value)


@dataclass(frozen=True, slots=True)
class Amounts:
    """An amount per currency, as decimal text: a number of JSON or TOML would pass through a float."""

    expects: str = 'a table of amounts as text by currency code, such as {"USD": "500.00", "JPY": "80000"}'

    def from_text(self, text: str) -> dict[str, str]:
        """Read a JSON object; nothing is the empty table."""
        return self.from_value(json.loads(text) if text.strip() else {})

    def from_value(self, value: Any) -> dict[str, str]:
        """Check every currency code and amount."""
        if not isinstance(value, Mapping) or not all(isinstance(amount, str) for amount in value.values()):
            raise ValueError(value)
        for currency, amount in value.items():
            try:
                parse_share(amount, currency)
            except ValueError as error:
                raise _ReasonError(f"{currency}: {error}") from error
        return dict(value)


@dataclass(frozen=True, slots=True)
class Words:
    """A list of texts without commas or spaces."""

    expects: str = 'a list, such as "one,two" or ["one", "two"]'

    def from_text(self, text: str) -> tuple[str, ...]:
        """Read texts separated by commas; nothing is the empty list."""
        return self.from_value([word.strip() for word in text.split(",") if word.strip()])

    def from_value(self, value: Any) -> tuple[str, ...]:
        """Check every text."""
        if not isinstance(value, list | tuple):
            raise ValueError(value)  # noqa: TRY004  one kind of error for every wrong setting
        if not all(isinstance(word, str) and re.fullmatch(r"[^\s,]+", word) for word in value):
            raise ValueError(value)
        return tuple(value)


@dataclass(frozen=True, slots=True)
class ByName:
    """A text of a certain form for each of some names, such as providers."""

    expects: str
    names: tuple[str, ...]
    is_right: Callable[[str], object]

    def from_text(self, text: str) -> dict[str, str]:
        """Read a JSON object; nothing is the empty table."""
        return self.from_value(json.loads(text) if text.strip() else {})

    def from_value(self, value: Any) -> dict[str, str]:
        """Check every name and text."""
        if not isinstance(value, Mapping):
            raise ValueError(value)  # noqa: TRY004  one kind of error for every wrong setting
        for name, text in value.items():
            if name not in self.names:
                raise _ReasonError(f"{name}: there are {', '.join(self.names)}")
            if not isinstance(text, str) or not self.is_right(text):
                raise _ReasonError(f"{name}: {text!r} is not of that form")
        return dict(value)


@dataclass(frozen=True, slots=True)
class BreakRules(ByName):
    """A rule for each of some kinds of breaks; `correct` only for those of which something can be corrected."""

    def from_value(self, value: Any) -> dict[str, str]:
        """Check every kind and its rule."""
        rules = ByName.from_value(self, value)  # slots make a new class, which super() would not find
        for kind, rule in rules.items():
            if rule == "correct" and kind not in CORRECTABLE_KINDS:
                raise _ReasonError(
                    f"{kind}: nothing of it can be corrected without a person: write queue or escalate; "
                    f"correct is for {', '.join(CORRECTABLE_KINDS)}"
                )
        return rules


def _one_of(*words: str) -> Text:
    return Text("one of " + ", ".join(words), words.__contains__)


def _is_web_address(text: str) -> bool:
    parts = urlsplit(text)
    return parts.scheme in {"http", "https"} and bool(parts.hostname) and not parts.query and not parts.fragment


def _is_database_address(text: str) -> bool:
    return urlsplit(text).scheme in {"postgresql", "postgres"}


# The forms of settings that reconciliation reads; it finds their parts by these.
SCHEDULE = re.compile(r"(daily|weekday) ([01][0-9]|2[0-3]):([0-5][0-9])(?: \+([1-9]|1[0-4]))?")
KNOWN_SECRETS = ("whsec_simulator",)  # of the simulator's webhooks, as both are delivered
DAYS = re.compile(r"([1-9][0-9]{0,2}) days?")
FEE = re.compile(r"([0-9]{1,2})(?:\.([0-9]{1,4}))?%(?: ?\+ ?([0-9]+(?:\.[0-9]+)?))? ([A-Z]{3})")
TIME_OF_DAY = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")
FEES_APART = ", "
PSPS = ("adyen", "checkout", "paypal", "simulator", "stripe")  # whose settlement files are read
BREAK_KINDS = (
    *("missing_here", "missing_at_psp", "amount", "currency", "status", "duplicate_line", "duplicate_charge"),
    *("unexplained", "control_total", "fee", "late"),
)
CORRECTABLE_KINDS = ("missing_here", "status", "fee")  # of the others a file proves that they differ, not who is right


def _are_fees(text: str) -> bool:
    found = [FEE.fullmatch(term) for term in text.split(FEES_APART)]
    for each in found:
        if each is not None:
            parse_share(each[3] or "0", each[4])
    currencies = [each[4] for each in found if each is not None]
    return len(currencies) == len(found) == len(set(currencies))


_WEB_ADDRESS = Text("an http:// or https:// address without a query", _is_web_address)
_DATABASE_ADDRESS = Text("an address such as postgresql://user:password@host:5432/database", _is_database_address)
_STRIPE_KEY = Text(
    "a Stripe secret or restricted key (sk_test_, sk_live_, rk_test_ or rk_live_ and letters)",
    re.compile("(sk|rk)_(test|live)_[0-9A-Za-z_]+").fullmatch,
)
_DIGEST_SECRET = Text("at least 32 characters, such as `openssl rand -hex 32` prints", re.compile(r"\S{32,}").fullmatch)
_ANY_TEXT = Text("text that is not empty", str.strip)
_COUNT = Whole(1, _MANY)
_TIME_OF_DAY = Text('a time of the day in UTC, such as "04:30"', TIME_OF_DAY.fullmatch)
_SCHEDULES = ByName(
    'a table of when files are due, such as {"stripe": "daily 09:00", "bank": "weekday 07:30 +2"}',
    (*PSPS, "bank"),
    SCHEDULE.fullmatch,
)
_DELAYS = ByName('a table of days, such as {"stripe": "3 days", "adyen": "2 days"}', PSPS, DAYS.fullmatch)
_FEES = ByName(
    'a table of fees by currency, such as {"stripe": "1.4%+0.25 EUR, 2.9%+0.30 USD"}',
    PSPS,
    _are_fees,
)
_RULES = BreakRules(
    'a table of correct, queue or escalate by kind of break, such as {"late": "escalate"}',
    BREAK_KINDS,
    ("correct", "queue", "escalate").__contains__,
)


def _secret(default: str | None = None) -> Any:
    """Give a setting that is never printed: out of the repr is what makes it secret everywhere else, too."""
    return field(default=default, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a gateway process may be told. Each field carries its rule and its meaning; units are last in the name."""

    data_dir: Annotated[Path, Folder(), "Where the embedded PostgreSQL and the digest key are kept."] = Path(
        "coatcheck-data"
    )
    database_url: Annotated[
        str | None,
        _DATABASE_ADDRESS,
        "A PostgreSQL of your own (16 or later); without it the embedded one is started. DATABASE_URL works as well.",
    ] = _secret()
    database_pool_size: Annotated[int, Whole(3, 500), "Connections to PostgreSQL of this process."] = 10
    host: Annotated[str, _ANY_TEXT, "The address to listen on."] = "127.0.0.1"
    port: Annotated[int, Whole(0, 65535), "The port to listen on; 0 takes a free one."] = 8080

    provider: Annotated[
        Literal["simulator", "stripe"], _one_of("simulator", "stripe"), "The PSP that charges new payment orders."
    ] = "simulator"
    simulator_url: Annotated[str, _WEB_ADDRESS, "Where `coatcheck simulator` listens."] = "http://127.0.0.1:8090"
    simulator_api_key: Annotated[str, _ANY_TEXT, "The key the simulator expects."] = _secret("sk_sim_test_coatcheck")
    simulator_window_s: Annotated[
        int, Whole(0, _MANY), "How long the simulator remembers an idempotency key; the same as its --window-s."
    ] = 86_400
    stripe_api_key: Annotated[str | None, _STRIPE_KEY, "The Stripe key; needed when the provider is stripe."] = (
        _secret()
    )
    stripe_base_url: Annotated[
        str | None, _WEB_ADDRESS, "Another address in place of api.stripe.com, for a test server."
    ] = None

    stripe_window_s: Annotated[
        int,
        Whole(0, _MANY),
        "How long Stripe remembers an idempotency key; 0 for a test server without keys, such as localstripe.",
    ] = 86_400

    simulator_webhook_secrets: Annotated[
        tuple[str, ...],
        Words(),
        "Secrets of the simulator's webhooks, the old and the new one while they change. The usual one is known to "
        "everybody and counts only where `provider` is the simulator.",
    ] = field(default=KNOWN_SECRETS, repr=False)
    stripe_webhook_secrets: Annotated[
        tuple[str, ...], Words(), "Signing secrets (whsec_...) of Stripe's webhook endpoint, several while they change."
    ] = field(default=(), repr=False)
    adyen_hmac_keys: Annotated[
        tuple[str, ...], Words(), "HMAC keys (hexadecimal) of Adyen's webhooks, several while they change."
    ] = field(default=(), repr=False)
    adyen_merchant_account: Annotated[
        str | None, _ANY_TEXT, "Adyen's merchant account whose webhooks are taken; needed with adyen_hmac_keys."
    ] = None
    adyen_mode: Annotated[
        Literal["test", "live"], _one_of("test", "live"), "Which of Adyen's two worlds that account is in."
    ] = "test"
    webhooks_shop: Annotated[
        str | None,
        _ANY_TEXT,
        "The shop whose API keys look after PSPs' events that wait for a person; without it only the command line.",
    ] = None

    call_deadline_s: Annotated[int, Whole(1, 600), "How long one call to the PSP may take in all."] = 10
    connect_deadline_s: Annotated[int, Whole(1, 600), "How long connecting to the PSP may take."] = 3
    lease_s: Annotated[
        int, Whole(1, 3600), "How long an operation belongs to the process working on it; over twice call_deadline_s."
    ] = 30
    response_wait_s: Annotated[
        int, Whole(0, 600), "How long a request waits for its payment before it is answered with what is known (202)."
    ] = 30
    retry_budget_attempts: Annotated[
        int, Whole(1, 1000), "How often an operation is sent or looked up before it waits as unresolved."
    ] = 12
    replay_alone_most: Annotated[
        int,
        Whole(0, 100),
        "The most dead letters that one person may have asked again at once; more of them take a second person.",
    ] = 20
    retry_base_ms: Annotated[int, _COUNT, "The first retry's longest delay; it doubles with each attempt."] = 200
    retry_cap_s: Annotated[int, Whole(1, 86_400), "The longest delay between two attempts."] = 60
    breaker_threshold: Annotated[
        int, Whole(0, 100_000), "Silences of a PSP in a row after which nothing new is sent to it; 0 for never."
    ] = 50
    breaker_pause_s: Annotated[int, Whole(1, 3600), "How often one sending tries whether a silent PSP is back."] = 5
    upkeep_interval_ms: Annotated[
        int,
        Whole(10, 3_600_000),
        "How often this process looks for authorizations to ask about, refunds it owes and payouts that are due.",
    ] = 1_000
    recovery_interval_ms: Annotated[
        int, Whole(10, 3_600_000), "How often this process looks for operations whose time has come."
    ] = 200
    recovery_in_flight: Annotated[
        int, Whole(1, 10_000), "The most operations of one provider that this process takes up again at once."
    ] = 200
    batch_size: Annotated[
        int, Whole(1, 10_000), "The most items in one database transaction; 1 is the unbatched baseline."
    ] = 512

    late_success: Annotated[
        Literal["honour", "refund"],
        _one_of("honour", "refund"),
        "What becomes of a charge or authorization that succeeds after its order was given up: kept, or given back at "
        "once.",
    ] = "honour"
    refund_commission: Annotated[
        Literal["return", "keep"],
        _one_of("return", "keep"),
        "Whether the platform gives back its share of the commission with a refund, or keeps it.",
    ] = "return"
    unrecorded_charge: Annotated[
        Literal["adopt", "refund", "queue"],
        _one_of("adopt", "refund", "queue"),
        "How a charge that a settlement file shows and the books never had is corrected (the rule for missing_here): "
        "taken over, taken over and refunded, or left to a person.",
    ] = "adopt"

    wallet_hold_days: Annotated[
        int, Whole(0, 730), "Days from the settlement of a charge until its seller can be paid, without other terms."
    ] = 7
    wallet_reserve_basis_points: Annotated[
        int, Whole(0, 10_000), "Hundredths of a percent of each release that are kept in reserve, without other terms."
    ] = 0
    wallet_reserve_days: Annotated[
        int, Whole(0, 730), "Days that a reserve is kept after its charge was due, without other terms."
    ] = 90
    maturing_interval_s: Annotated[
        int, Whole(1, 86_400), "How often this process looks for sellers' money that has become due."
    ] = 60

    payout_destination_cooldown_s: Annotated[
        int, Whole(0, _MANY), "How long nothing is paid to a destination that replaced another one."
    ] = 172_800
    payout_run_factor: Annotated[
        int,
        Whole(1, 1_000_000),
        "A run of payouts waits for a second person when its total is so many times the usual, or so small a part.",
    ] = 3
    payout_run_history: Annotated[
        int, Whole(1, 1_000), "The usual total of a run is the median of so many runs of its schedule before it."
    ] = 8

    body_limit_bytes: Annotated[int, Whole(1024, 64 * 1024 * 1024), "The largest request body taken."] = 262_144
    evidence_limit_bytes: Annotated[
        int, Whole(1024, 64 * 1024 * 1024), "The largest body of an answer to a dispute; its files are in it as base64."
    ] = 8_388_608
    webhook_limit_bytes: Annotated[
        int, Whole(1024, 64 * 1024 * 1024), "The largest webhook of a provider that is taken."
    ] = 1_048_576
    body_deadline_s: Annotated[int, Whole(1, 600), "How long a request body may take to arrive."] = 10
    body_depth: Annotated[int, Whole(4, 200), "How deeply the JSON of a body may be nested."] = 16
    orders_limit: Annotated[int, Whole(1, 100), "The most payment orders in one payment."] = 100
    idempotency_key_life_s: Annotated[
        int, Whole(60, _MANY), "How long an idempotency key is remembered; ids of payments and orders last for ever."
    ] = 86_400
    shutdown_grace_s: Annotated[int, Whole(0, 3600), "How long SIGTERM waits for what is in flight."] = 25

    watch_interval_s: Annotated[int, Whole(1, 86_400), "How often this process looks for what somebody should see."] = (
        30
    )
    invariants_interval_s: Annotated[
        int,
        Whole(1, _MANY),
        "How often one of the processes runs every invariant; they read whole tables.",
    ] = 3_600
    watch_stuck_s: Annotated[int, Whole(1, _MANY), "An order that is EXECUTING for longer than this is an alert."] = 900
    watch_overdue_s: Annotated[
        int, Whole(1, _MANY), "Work that is due for longer than this, and nobody takes it, is an alert."
    ] = 300
    watch_expiring_s: Annotated[
        int, Whole(0, _MANY), "An authorization that ends within this time, with money not captured, is an alert."
    ] = 86_400
    watch_evidence_due_s: Annotated[
        int, Whole(0, _MANY), "A dispute that must be answered within this time, and is not, is an alert."
    ] = 259_200
    watch_transaction_s: Annotated[
        int, Whole(1, _MANY), "A database transaction that is open for longer than this is an alert."
    ] = 900

    seal_interval_ms: Annotated[
        int,
        Whole(0, 3_600_000),
        "How often this process seals what was written, or each minute where it is little; 0 for never.",
    ] = 5_000
    seal_dir: Annotated[
        Path | None, Folder(), "Where the sealing key and the anchor are kept; without it in seals of data_dir."
    ] = None
    seal_anchor_dir: Annotated[
        Path | None,
        Folder(),
        "Another place for the anchor, where nobody administers the database; without it seal_dir.",
    ] = None
    seal_endpoint: Annotated[
        str | None, _WEB_ADDRESS, "An address that gets every seal by POST, beside the anchor: somebody else's memory."
    ] = None

    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        _one_of("debug", "info", "warning", "error"),
        "The least serious log lines written.",
    ] = "info"
    log_format: Annotated[
        Literal["json", "console"], _one_of("json", "console"), "JSON lines for machines, or console for people."
    ] = "json"

    settlement_shop: Annotated[
        str | None, _ANY_TEXT, "The shop whose files the gateway takes by itself and waits for; by its name."
    ] = None
    settlement_mode: Annotated[
        Literal["test", "live"], _one_of("test", "live"), "The mode that those files are about."
    ] = "test"
    settlement_nightly_at: Annotated[
        str | None, _TIME_OF_DAY, "When one of the gateways takes what has come, once a day; without it, none does."
    ] = None
    settlement_dir: Annotated[
        Path | None, Folder(), "Where settlement files and bank statements are put for the nightly reconciliation."
    ] = None
    settlement_from_simulator: Annotated[
        bool, Switch(), "Whether the nightly reconciliation fetches the simulator's settlement files."
    ] = False
    settlement_expected: Annotated[
        Mapping[str, str],
        _SCHEDULES,
        "Until when the file of a day must be here (UTC), on the next day or so many later; what is late is an alert.",
    ] = field(default_factory=dict)
    settlement_delay: Annotated[
        Mapping[str, str], _DELAYS, "How long a PSP may take to settle something; what took longer is a break."
    ] = field(default_factory=dict)
    settlement_limit_bytes: Annotated[
        int, Whole(1024, 2**36), "The largest settlement file or bank statement taken through the API."
    ] = 1_073_741_824
    settlement_deadline_s: Annotated[int, Whole(1, 86_400), "How long such a file may take to arrive."] = 600
    psp_fees: Annotated[
        Mapping[str, str],
        _FEES,
        "What a PSP keeps of each charge, by currency; another fee is a break. Left out: fees are not compared.",
    ] = field(default_factory=dict)
    psp_fee_tolerance_minor: Annotated[
        int,
        Whole(0, 1_000_000),
        "By how many minor units a fee may differ from psp_fees: PSPs round in their own ways.",
    ] = 1
    break_rules: Annotated[
        Mapping[str, str], _RULES, "What becomes of a kind of break, where it is to be otherwise than usual."
    ] = field(default_factory=dict)

    risk_enabled: Annotated[bool, Switch(), "Whether the risk rules are asked before a charge."] = True
    risk_max_amount: Annotated[
        Mapping[str, str],
        Amounts(),
        "A payment above this, summed per currency, is blocked; currencies left out have no limit.",
    ] = field(default_factory=dict)
    risk_review_amount: Annotated[
        Mapping[str, str], Amounts(), "A payment above this, summed per currency, is marked for review."
    ] = field(default_factory=dict)
    risk_blocked_countries: Annotated[
        tuple[str, ...], Countries(), "Payments of buyers from these countries are blocked."
    ] = ()
    risk_high_risk_countries: Annotated[
        tuple[str, ...], Countries(), "Buyers from these countries have the limits of risk_high_risk_max_amount."
    ] = ()
    risk_high_risk_max_amount: Annotated[
        Mapping[str, str], Amounts(), "As risk_max_amount, for buyers from high-risk countries."
    ] = field(default_factory=dict)
    risk_velocity_window_s: Annotated[int, Whole(1, 2_592_000), "The time in which failed attempts are counted."] = 3600
    risk_velocity_card: Annotated[int, _COUNT, "Failed attempts of one card in that time that block the next."] = 10
    risk_velocity_buyer: Annotated[int, _COUNT, "Failed attempts of one buyer in that time that block the next."] = 20
    risk_velocity_ip: Annotated[
        int, _COUNT, "Failed attempts from one IP address in that time that block the next."
    ] = 50
    digest_secret: Annotated[
        str | None,
        _DIGEST_SECRET,
        "Keys the digests of personal data and card tokens; without it one is made once, in digest.key of data_dir.",
    ] = _secret()


@dataclass(frozen=True, slots=True)
class Described:
    """One setting as documentation shows it."""

    name: str
    variable: str
    meaning: str
    rule: Rule
    default: Any
    is_secret: bool


def _describe() -> dict[str, Described]:
    annotations: dict[str, Any] = get_type_hints(Settings, include_extras=True)
    defaults = Settings()
    described = {}
    for each in fields(Settings):
        rule, meaning = annotations[each.name].__metadata__
        described[each.name] = Described(
            name=each.name,
            variable=_PREFIX + each.name.upper(),
            meaning=meaning,
            rule=rule,
            default=getattr(defaults, each.name),
            is_secret=not each.repr,
        )
    return described


SETTINGS: Mapping[str, Described] = _describe()


@dataclass(frozen=True, slots=True)
class Given:
    """A value somebody gave for a setting, and where: `source` is what an error message names."""

    name: str
    source: str
    value: Any
    is_text: bool


def show(value: Any, *, is_secret: bool = False) -> str:
    """Print a setting's value as the table of settings does; a secret only as being there."""
    if value is None or value in ((), {}):
        return "-"
    if is_secret:
        return "(hidden)"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(value)
    return json.dumps(value) if isinstance(value, Mapping) else str(value)


def load_settings(
    environ: Mapping[str, str], toml_path: Path | None = None, flags: Mapping[str, Any] | None = None
) -> Settings:
    """Read the settings; `flags` (by setting) are the command line's, and win.

    `toml_path` must exist when given; else COATCHECK_CONFIG names the file, else `coatcheck.toml` is read if it is
    there. Raises SettingsError with everything that is wrong, at once.
    """
    return read_settings(environ, toml_path, flags)[0]


def read_settings(
    environ: Mapping[str, str], toml_path: Path | None = None, flags: Mapping[str, Any] | None = None
) -> tuple[Settings, dict[str, str]]:
    """As load_settings, and say for each setting that was given where it came from."""
    problems: list[str] = []
    given = [
        *_given_by_file(environ, toml_path, problems),
        *_given_by_environment(environ, problems),
        *(Given(name, "--" + name.replace("_", "-"), value, False) for name, value in (flags or {}).items()),
    ]
    values = {one.name: value for one in given if (value := _checked(one, problems)) is not None}  # the later wins
    settings = Settings(**values)
    if not problems:
        problems += _contradictions(settings)
    if problems:
        raise SettingsError(problems)
    return settings, {one.name: one.source for one in given}


def _given_by_file(environ: Mapping[str, str], toml_path: Path | None, problems: list[str]) -> list[Given]:
    path, asked_by = toml_path, "--config"
    if path is None and environ.get(_CONFIG_VARIABLE):
        path, asked_by = Path(environ[_CONFIG_VARIABLE]), _CONFIG_VARIABLE
    if path is None:
        if not DEFAULT_FILE.is_file():
            return []
        path = DEFAULT_FILE
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        problems.append(f"{path}: not a TOML file: {error}")
        return []
    except OSError as error:
        problems.append(f"{asked_by}: {path} cannot be read ({error.strerror}); give the path of a TOML file")
        return []
    unknown = sorted(table.keys() - SETTINGS.keys())
    problems += [f"{key} in {path}: no such setting{_nearest(key.lower(), SETTINGS)}" for key in unknown]
    return [Given(key, f"{key} in {path}", value, False) for key, value in table.items() if key in SETTINGS]


def _given_by_environment(environ: Mapping[str, str], problems: list[str]) -> list[Given]:
    variables = {one.variable: name for name, one in SETTINGS.items()}
    given = []
    if environ.get("DATABASE_URL"):
        given.append(Given("database_url", "DATABASE_URL", environ["DATABASE_URL"], True))
    for variable, text in environ.items():
        if not variable.startswith(_PREFIX) or variable == _CONFIG_VARIABLE:
            continue
        name = variables.get(variable)
        if name is None:
            problems.append(f"{variable}: no such setting{_nearest(variable.upper(), variables)}")
        elif text or SETTINGS[name].default is not None:  # an empty variable for an optional setting means "none"
            given.append(Given(name, variable, text, True))
    return given


def _nearest(wrong: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(wrong, known, n=1)
    return f"; did you mean {near[0]}?" if near else "; `coatcheck settings` lists them all"


def _checked(given: Given, problems: list[str]) -> Any:
    """Give the value in its own type, or None with a line added to the problems."""
    about = SETTINGS[given.name]
    try:
        return about.rule.from_text(given.value) if given.is_text else about.rule.from_value(given.value)
    except (ValueError, TypeError, RecursionError) as error:
        what = "the value (not shown: it is a secret)" if about.is_secret else _quoted(given.value)
        reason = f" ({error})" if isinstance(error, _ReasonError) else ""
        problems.append(f"{given.source}: {what} is not {about.rule.expects}{reason}")
        return None


def _quoted(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."  # noqa: PLR2004  a line stays a line


def _contradictions(settings: Settings) -> list[str]:
    """Say which settings are right alone and wrong together."""
    problems = []
    if settings.lease_s <= 2 * settings.call_deadline_s:
        problems.append(
            f"COATCHECK_LEASE_S: {settings.lease_s} is not more than twice call_deadline_s "
            f"({settings.call_deadline_s}); a call could outlive its lease and be sent by two processes: "
            f"give at least {2 * settings.call_deadline_s + 1}, or shorten COATCHECK_CALL_DEADLINE_S"
        )
    if settings.connect_deadline_s > settings.call_deadline_s:
        problems.append(
            f"COATCHECK_CONNECT_DEADLINE_S: {settings.connect_deadline_s} is more than call_deadline_s "
            f"({settings.call_deadline_s}), which includes it"
        )
    if settings.provider == "stripe" and settings.stripe_api_key is None:
        problems.append(
            "COATCHECK_STRIPE_API_KEY: not set, and the provider is stripe; take a secret key (sk_test_...) from "
            "https://dashboard.stripe.com/apikeys and `export COATCHECK_STRIPE_API_KEY=sk_test_...`"
        )
    if settings.stripe_webhook_secrets and settings.stripe_api_key is None:
        problems.append(
            "COATCHECK_STRIPE_WEBHOOK_SECRETS: set without stripe_api_key, whose mode says which events are ours; "
            "set COATCHECK_STRIPE_API_KEY too"
        )
    if settings.adyen_hmac_keys and settings.adyen_merchant_account is None:
        problems.append(
            "COATCHECK_ADYEN_HMAC_KEYS: set without adyen_merchant_account, whose events they prove; "
            "set COATCHECK_ADYEN_MERCHANT_ACCOUNT too"
        )
    if settings.settlement_shop is None and (settings.settlement_nightly_at or settings.settlement_expected):
        problems.append(
            "COATCHECK_SETTLEMENT_SHOP: not set, and files are to be taken or waited for; "
            "give the name of the shop whose they are"
        )
    if settings.settlement_from_simulator and not settings.simulator_api_key.startswith(
        f"sk_sim_{settings.settlement_mode}_"
    ):
        problems.append(
            f"COATCHECK_SETTLEMENT_MODE: {settings.settlement_mode}, and simulator_api_key is of the other mode; "
            "its settlement files would be taken for what they are not"
        )
    if settings.break_rules.get("missing_here") == "correct" and settings.unrecorded_charge == "queue":
        problems.append(
            "COATCHECK_BREAK_RULES: missing_here is to be corrected, and unrecorded_charge is queue, which leaves it "
            "to a person; give COATCHECK_UNRECORDED_CHARGE adopt or refund, or missing_here another rule"
        )
    return problems


def digest_secret_of(settings: Settings) -> bytes:
    """Give the secret that keys digests of personal data; made once as data_dir/digest.key when none is set.

    Whoever loses it can no longer count a card's earlier failures; whoever has it can test guesses. Any number of
    processes may ask at once: the first file wins. Raises SettingsError when the file cannot be used.
    """
    if settings.digest_secret is not None:
        return settings.digest_secret.encode()
    path = settings.data_dir / "digest.key"
    try:
        if not path.exists():
            _make_digest_key(path)
        key = path.read_bytes()
    except OSError as error:
        raise SettingsError([f"COATCHECK_DATA_DIR: {path} cannot be used: {error.strerror}"]) from error
    if len(key) < _DIGEST_SECRET_BYTES:
        raise SettingsError([f"{path}: too short for a key; restore it from a backup, or set COATCHECK_DIGEST_SECRET"])
    return key


def _make_digest_key(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secrets.token_bytes(_DIGEST_SECRET_BYTES))
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)  # a whole file or none, and never over another process's
    except FileExistsError:
        pass
    finally:
        draft.unlink()
