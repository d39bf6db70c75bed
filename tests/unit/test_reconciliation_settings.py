"""What the settings say of reconciliation, as the program reads it: rules, fees, delays, and when files are due."""

import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from coatcheck.config import BREAK_KINDS, CORRECTABLE_KINDS, PSPS, Settings, SettingsError, load_settings
from coatcheck.reconciliation.expected import schedule_of
from coatcheck.reconciliation.files import BANK
from coatcheck.reconciliation.formats import FORMATS
from coatcheck.reconciliation.nightly import nightly_plan_of
from coatcheck.reconciliation.rules import DEFAULT_RULES, LEFT_OVER, Rule, escalated_kinds, kinds_with, rules_of
from coatcheck.reconciliation.usual import FeeSchedule, usual_of
from coatcheck.store.sql_files import sql_files

SHOP = {"COATCHECK_SETTLEMENT_SHOP": "hats"}


def problems_of(**environ: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load_settings({f"COATCHECK_{name.upper()}": text for name, text in environ.items()})
    return caught.value.problems


def test_every_kind_of_break_has_a_rule_and_is_known_to_the_database() -> None:
    assert set(BREAK_KINDS) == DEFAULT_RULES.keys()
    (checked,) = re.findall(r"break_kind_is_known CHECK \(kind IN \(([^)]*)\)", "".join(sql_files("schema").values()))
    assert set(re.findall(r"'(\w+)'", checked)) == DEFAULT_RULES.keys()


def test_every_psp_whose_files_are_read_may_be_named() -> None:
    assert {*PSPS, BANK} == {each.provider or BANK for each in FORMATS}


def test_a_rule_of_the_settings_goes_before_the_usual_one() -> None:
    usual = rules_of(Settings())
    assert usual == DEFAULT_RULES
    rules = rules_of(load_settings({"COATCHECK_BREAK_RULES": '{"status": "queue", "fee": "escalate"}'}))
    assert {kind: rule for kind, rule in rules.items() if usual[kind] is not rule} == {
        "status": Rule.QUEUE,
        "fee": Rule.ESCALATE,
    }
    assert kinds_with(usual, Rule.CORRECT) == {"status", "missing_here"}
    assert kinds_with(usual, Rule.ESCALATE) == {"duplicate_charge"}


def test_H6_what_could_not_be_corrected_calls_somebody_where_a_buyer_may_have_paid_for_nothing() -> None:
    assert escalated_kinds(rules_of(Settings())) == {"missing_here", "duplicate_charge"}
    assert escalated_kinds(rules_of(Settings(break_rules={"missing_here": "queue"}))) == {"duplicate_charge"}
    assert set(LEFT_OVER) == set(CORRECTABLE_KINDS)


def test_fees_are_read_exactly() -> None:
    settings = load_settings(
        {
            "COATCHECK_PSP_FEES": '{"stripe": "1.4%+0.25 EUR, 2.9% + 0.30 USD", "adyen": "0.6755% JPY"}',
            "COATCHECK_SETTLEMENT_DELAY": '{"stripe": "3 days", "adyen": "1 day"}',
        }
    )
    usual = usual_of(settings)
    assert usual.fees == {
        "stripe": [
            FeeSchedule(currency="EUR", rate_ppm=14_000, fixed_minor=25),
            FeeSchedule(currency="USD", rate_ppm=29_000, fixed_minor=30),
        ],
        "adyen": [FeeSchedule(currency="JPY", rate_ppm=6_755, fixed_minor=0)],
    }
    assert usual.delays == {"stripe": timedelta(days=3), "adyen": timedelta(days=1)}
    assert usual.fee_tolerance_minor == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("psp_fees", '{"stripe": "1,4%+0.25 EUR"}'),
        ("psp_fees", '{"stripe": "1.4%+0.255 EUR"}'),
        ("psp_fees", '{"stripe": "1.4%+0.25 QQQ"}'),
        ("psp_fees", '{"stripe": "1.4% EUR, 1.5% EUR"}'),
        ("psp_fees", '{"bank": "1.4% EUR"}'),
        ("settlement_delay", '{"stripe": "0 days"}'),
        ("settlement_delay", '{"stripe": 3}'),
        ("settlement_expected", '{"stripe": "hourly 09:00"}'),
        ("settlement_expected", '{"stripe": "daily 24:00"}'),
        ("settlement_expected", '{"nobody": "daily 09:00"}'),
        ("settlement_expected", "[]"),
        ("settlement_nightly_at", "4:30"),
        ("break_rules", '{"late": "ignore"}'),
        ("break_rules", '{"lost": "queue"}'),
    ],
)
def test_what_cannot_be_read_is_refused_at_start(name: str, text: str) -> None:
    (problem,) = problems_of(settlement_shop="hats", **{name: text})
    assert problem.startswith(f"COATCHECK_{name.upper()}: ")


def test_files_that_are_waited_for_are_some_shop_s() -> None:
    assert "COATCHECK_SETTLEMENT_SHOP: not set" in problems_of(settlement_nightly_at="04:30")[0]
    assert "COATCHECK_SETTLEMENT_SHOP: not set" in problems_of(settlement_expected='{"bank": "daily 07:00"}')[0]


def test_I2_the_simulator_s_files_are_of_its_key_s_mode() -> None:
    (problem,) = problems_of(settlement_shop="hats", settlement_mode="live", settlement_from_simulator="true")
    assert "simulator_api_key is of the other mode" in problem


def test_the_plan_of_the_night_is_whose_when_and_where() -> None:
    assert nightly_plan_of(Settings()) is None
    by_hand = nightly_plan_of(load_settings(SHOP))
    assert by_hand is not None
    assert (by_hand.at, by_hand.directory) == (None, None)
    plan = nightly_plan_of(load_settings(SHOP | {"COATCHECK_SETTLEMENT_NIGHTLY_AT": "04:30"}))
    assert plan is not None
    assert plan.at is not None
    assert f"{plan.at:%H:%M}" == "04:30"


@pytest.mark.parametrize(
    ("text", "day", "due"),
    [
        ("daily 09:00", date(2026, 11, 20), datetime(2026, 11, 21, 9, tzinfo=UTC)),  # a Friday's, on Saturday
        ("weekday 09:00", date(2026, 11, 19), datetime(2026, 11, 20, 9, tzinfo=UTC)),
        ("weekday 09:00", date(2026, 11, 20), datetime(2026, 11, 23, 9, tzinfo=UTC)),  # a Friday's, on Monday
        ("weekday 07:30 +2", date(2026, 11, 18), datetime(2026, 11, 20, 7, 30, tzinfo=UTC)),
        ("daily 23:59 +14", date(2026, 12, 31), datetime(2027, 1, 14, 23, 59, tzinfo=UTC)),
    ],
)
def test_H3_a_day_s_file_is_due_on_a_later_day(text: str, day: date, due: datetime) -> None:
    assert schedule_of(text).due_of(day) == due


def test_H3_weekends_have_no_files_where_weekdays_have() -> None:
    days = [date(2026, 11, 16) + timedelta(days=n) for n in range(7)]
    assert [schedule_of("weekday 09:00").is_of(day) for day in days] == [True] * 5 + [False] * 2
    assert all(schedule_of("daily 09:00").is_of(day) for day in days)


@pytest.mark.parametrize("kind", BREAK_KINDS)
def test_every_rule_may_be_given_that_means_something(kind: str) -> None:
    for rule in Rule:
        given = f'{{"{kind}": "{rule}"}}'
        if rule is Rule.CORRECT and kind not in CORRECTABLE_KINDS:
            (problem,) = problems_of(break_rules=given)
            assert f"{kind}: nothing of it can be corrected without a person: write queue or escalate" in problem
        else:
            assert rules_of(load_settings({"COATCHECK_BREAK_RULES": given}))[kind] is rule


def test_what_is_to_be_corrected_and_left_to_a_person_is_a_contradiction() -> None:
    (problem,) = problems_of(break_rules='{"missing_here": "correct"}', unrecorded_charge="queue")
    assert problem.startswith("COATCHECK_BREAK_RULES: missing_here is to be corrected, and unrecorded_charge is queue")
    assert rules_of(load_settings({"COATCHECK_UNRECORDED_CHARGE": "queue"}))["missing_here"] is Rule.CORRECT


def test_the_page_names_the_usual_rule_of_each_kind() -> None:
    page = (Path(__file__).parents[2] / "docs/reconciliation.md").read_text("utf-8")
    table = page.partition("| kinds | usual rule |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (.+) \| `(\w+)` \|$", table, re.MULTILINE)
    told = {rule: set(re.findall(r"`(\w+)`", kinds)) for kinds, rule in rows}
    for rule in (Rule.CORRECT, Rule.ESCALATE):
        assert told[rule] == kinds_with(DEFAULT_RULES, rule)
    assert told[Rule.QUEUE] == set()  # every other
