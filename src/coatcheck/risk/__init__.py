"""Risk: asked before any charge, answers ALLOW, REVIEW or BLOCK and says why."""

from coatcheck.risk.assessor import Assessor
from coatcheck.risk.rules import Decision, Failures, RiskDecision, RiskSettings, Signal, decide, risk_settings_of
from coatcheck.risk.velocity import Subjects, subjects_of

__all__ = [
    "Assessor",
    "Decision",
    "Failures",
    "RiskDecision",
    "RiskSettings",
    "Signal",
    "Subjects",
    "decide",
    "risk_settings_of",
    "subjects_of",
]
