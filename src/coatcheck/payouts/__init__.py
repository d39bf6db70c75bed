"""Payouts: money to sellers, asked for, by schedule or from a threshold on; out of the balance with the request."""

from coatcheck.payouts.commits import PayoutAnswer, PayoutRequest, Payouts, PayoutVerdict
from coatcheck.payouts.payees import ArrangementVerdict, Destination, Payees, Schedule
from coatcheck.payouts.runs import Decision, PayoutRuns, Planned, Run, RunItem
from coatcheck.payouts.views import PayoutQuery, PayoutView

__all__ = [
    "ArrangementVerdict",
    "Decision",
    "Destination",
    "Payees",
    "PayoutAnswer",
    "PayoutQuery",
    "PayoutRequest",
    "PayoutRuns",
    "PayoutVerdict",
    "PayoutView",
    "Payouts",
    "Planned",
    "Run",
    "RunItem",
    "Schedule",
]
