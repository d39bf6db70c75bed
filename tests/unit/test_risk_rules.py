from pathlib import Path
from uuid import UUID, uuid4

import pytest

import coatcheck.risk.rules as rules_module
from coatcheck.config import Settings, SettingsError
from coatcheck.risk import Decision, Failures, RiskDecision, RiskSettings, decide, risk_settings_of, subjects_of
from coatcheck.risk.velocity import digest_key_of
from coatcheck.states import Mode

LIMITS = RiskSettings(
    max_amount_minor={"EUR": 100_00, "JPY": 5000},
    review_amount_minor={"EUR": 50_00},
    blocked_countries=frozenset({"KP"}),
    high_risk_countries=frozenset({"XX"}),
    high_risk_max_amount_minor={"EUR": 20_00},
    velocity_window_s=600,
    velocity_card=3,
    velocity_buyer=5,
    velocity_ip=7,
)
NONE = Failures()
KEY = digest_key_of(b"a secret of more than thirty-two characters")
SHOP = UUID(int=7)


def struck(decision: Decision) -> list[tuple[str, RiskDecision]]:
    return [(signal.rule, signal.effect) for signal in decision.signals]


def test_a_payment_within_every_limit_is_allowed_without_signals() -> None:
    assert decide(LIMITS, {"EUR": 50_00, "USD": 10**12, "JPY": 5000}, "GB", Failures(2, 4, 6)) == Decision(
        RiskDecision.ALLOW
    )
    assert decide(RiskSettings(), {"EUR": 10**12}, None, NONE).decision is RiskDecision.ALLOW


@pytest.mark.parametrize(
    ("totals", "country", "failures", "rules", "decision"),
    [
        ({"EUR": 50_01}, "GB", NONE, ["review_amount"], RiskDecision.REVIEW),
        ({"EUR": 100_00}, "GB", NONE, ["review_amount"], RiskDecision.REVIEW),
        ({"EUR": 100_01}, "GB", NONE, ["max_amount", "review_amount"], RiskDecision.BLOCK),
        ({"EUR": 1, "JPY": 5001}, "GB", NONE, ["max_amount"], RiskDecision.BLOCK),
        ({"EUR": 1}, "KP", NONE, ["blocked_country"], RiskDecision.BLOCK),
        ({"EUR": 20_00}, "XX", NONE, ["high_risk_country"], RiskDecision.REVIEW),
        ({"EUR": 20_01}, "XX", NONE, ["high_risk_country", "high_risk_max_amount"], RiskDecision.BLOCK),
        ({"EUR": 1}, "GB", Failures(card=3), ["velocity_card"], RiskDecision.BLOCK),
        ({"EUR": 1}, "GB", Failures(buyer=5), ["velocity_buyer"], RiskDecision.BLOCK),
        ({"EUR": 1}, "GB", Failures(ip=7), ["velocity_ip"], RiskDecision.BLOCK),
        (
            {"EUR": 60_00},
            "KP",
            Failures(9, 9, 9),
            ["blocked_country", "review_amount", "velocity_card", "velocity_buyer", "velocity_ip"],
            RiskDecision.BLOCK,
        ),
    ],
)
def test_each_rule_strikes_at_its_limit_and_the_strictest_decides(
    totals: dict[str, int], country: str, failures: Failures, rules: list[str], decision: RiskDecision
) -> None:
    assessed = decide(LIMITS, totals, country, failures)
    assert [rule for rule, _ in struck(assessed)] == rules
    assert assessed.decision is decision


def test_signals_say_what_was_seen_and_nothing_about_the_person() -> None:
    assessed = decide(LIMITS, {"EUR": 100_01}, "KP", Failures(card=3))
    assert [signal.value for signal in assessed.signals] == [
        "the buyer's country is blocked",
        "100.01 is more than 100.00 EUR",
        "100.01 is more than 50.00 EUR",
        "3 or more failed attempts in 600 seconds",
    ]


def test_the_same_payment_has_the_same_subjects_in_every_process() -> None:
    subjects = subjects_of(KEY, SHOP, Mode.TEST, token="tok_visa", buyer_reference="buyer-7", ip="203.0.113.7")
    assert [str(subject) for subject in subjects.given] == [
        "c8f9aecd-1415-95c0-d340-3e87a58f50e8",
        "8ffac173-e50b-f649-9583-463f7f014b8a",
        "d66b9ea1-e897-b82e-bfd4-5aef84f583d2",
    ]
    assert subjects_of(KEY, SHOP, Mode.TEST, token="t", buyer_reference="b", ip=None).ip is None
    assert len(subjects_of(KEY, SHOP, Mode.TEST, token="t", buyer_reference="b", ip=None).given) == 2


def test_subjects_of_other_keys_shops_modes_and_kinds_differ() -> None:
    def subjects(key: bytes = KEY, shop: UUID = SHOP, mode: Mode = Mode.TEST) -> tuple[UUID, ...]:
        return subjects_of(key, shop, mode, token="same", buyer_reference="same", ip="192.0.2.1").given

    worlds = [subjects(), subjects(key=digest_key_of(b"other")), subjects(shop=uuid4()), subjects(mode=Mode.LIVE)]
    assert len({subject for world in worlds for subject in world}) == 12


def test_an_ipv6_network_counts_as_one_address() -> None:
    def ip(text: str) -> UUID | None:
        return subjects_of(KEY, SHOP, Mode.TEST, token="t", buyer_reference="b", ip=text).ip

    assert ip("2001:db8:0:1::1") == ip("2001:db8:0:1:ffff::2")
    assert ip("2001:db8:0:1::1") != ip("2001:db8:0:2::1")
    assert ip("::ffff:192.0.2.1") == ip("192.0.2.1")
    assert ip("192.0.2.1") != ip("192.0.2.2")


def test_the_settings_become_limits_in_minor_units() -> None:
    settings = Settings(
        risk_max_amount={"EUR": "500.00", "JPY": "80000"},
        risk_review_amount={"KWD": "0.5"},
        risk_blocked_countries=("KP",),
        risk_high_risk_countries=("XX", "YY"),
        risk_high_risk_max_amount={"EUR": "0"},
        risk_velocity_window_s=60,
        risk_velocity_card=2,
        risk_velocity_buyer=3,
        risk_velocity_ip=4,
        risk_enabled=False,
    )
    assert risk_settings_of(settings) == RiskSettings(
        enabled=False,
        max_amount_minor={"EUR": 500_00, "JPY": 80_000},
        review_amount_minor={"KWD": 500},
        blocked_countries=frozenset({"KP"}),
        high_risk_countries=frozenset({"XX", "YY"}),
        high_risk_max_amount_minor={"EUR": 0},
        velocity_window_s=60,
        velocity_card=2,
        velocity_buyer=3,
        velocity_ip=4,
    )


def test_every_wrong_amount_in_the_settings_is_named() -> None:
    settings = Settings(risk_max_amount={"HRK": "5", "JPY": "1.5"}, risk_high_risk_max_amount={"EUR": "1.234"})
    with pytest.raises(SettingsError) as caught:
        risk_settings_of(settings)
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        *("risk_max_amount", "risk_max_amount", "risk_high_risk_max_amount")
    ]
    assert "write EUR" in str(caught.value)


def test_every_rule_and_setting_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "risk.md").read_text("utf-8")
    source = Path(rules_module.__file__).read_text("utf-8")
    rules = {
        *("max_amount", "review_amount", "blocked_country", "high_risk_country", "high_risk_max_amount"),
        *("velocity_card", "velocity_buyer", "velocity_ip"),
    }
    assert all(f'"{rule}"' in source for rule in rules)
    missing = [rule for rule in rules if f"| `{rule}` |" not in page]
    missing += [name for name in Settings.__dataclass_fields__ if name.startswith("risk_") and f"`{name}`" not in page]
    assert missing == []
