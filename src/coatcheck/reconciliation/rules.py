"""What becomes of a break by itself: a rule for each kind, of the settings or the usual one. No input or output."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from coatcheck.config import Settings


class Rule(StrEnum):
    """What the gateway does about a break when it finds it."""

    CORRECT = "correct"  # what the file proves is booked, without a person; LEFT_OVER is for what it does not prove
    QUEUE = "queue"  # it waits for a person
    ESCALATE = "escalate"  # it waits for a person, and an alert says so


DEFAULT_RULES: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        "status": Rule.CORRECT,  # the third step of the ladder: what nobody else could decide
        "missing_here": Rule.CORRECT,  # taken over from the PSP's own word, as unrecorded_charge says
        "duplicate_charge": Rule.ESCALATE,  # a buyer has paid twice
        "missing_at_psp": Rule.QUEUE,
        "amount": Rule.QUEUE,
        "currency": Rule.QUEUE,
        "duplicate_line": Rule.QUEUE,
        "unexplained": Rule.QUEUE,
        "control_total": Rule.QUEUE,
        "fee": Rule.QUEUE,
        "late": Rule.QUEUE,  # of a record; a file that is late is an alert in any case
    }
)

# What becomes of a kind's breaks that could not be corrected. Only these kinds may be (config.CORRECTABLE_KINDS).
LEFT_OVER: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        "status": Rule.QUEUE,
        "missing_here": Rule.ESCALATE,  # a buyer may have paid for what nobody knows of
        "fee": Rule.QUEUE,
    }
)


def rules_of(settings: Settings) -> Mapping[str, Rule]:
    """Give every kind of break its rule: that of the settings, else the usual one."""
    return {**DEFAULT_RULES, **{kind: Rule(rule) for kind, rule in settings.break_rules.items()}}


def kinds_with(rules: Mapping[str, Rule], rule: Rule) -> frozenset[str]:
    """Say which kinds of breaks a rule is for."""
    return frozenset(kind for kind, each in rules.items() if each is rule)


def escalated_kinds(rules: Mapping[str, Rule]) -> frozenset[str]:
    """Say of which kinds an open break calls somebody: by its rule, or because it could not be corrected."""
    left_over = {kind for kind in kinds_with(rules, Rule.CORRECT) if LEFT_OVER[kind] is Rule.ESCALATE}
    return kinds_with(rules, Rule.ESCALATE) | left_over
