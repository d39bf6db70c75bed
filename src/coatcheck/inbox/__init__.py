"""The inbox: what PSPs tell us unasked. Stored first, raw and whole; handled afterwards, by any process.

A webhook is a look-up's answer that came by itself. It is compared like one, booked through the same lease, and where
it contradicts what was decided, the PSP is asked: so any order and any repetition of events ends in the same state.
What nobody can handle waits for a person. docs/webhooks-in.md has the table.
"""

from coatcheck.inbox.handling import Desk, Foresight, Heard, Inbox, Prospect, Settled, Wait
from coatcheck.inbox.hearing import EventOutcome, Hearing, Sender, hear
from coatcheck.inbox.waiting import (
    REPLAY_MOST,
    EventQuery,
    EventReplay,
    Evidence,
    StoredEvent,
    dead,
    dismiss,
    evidence,
    find,
    read,
    replay,
    retry,
)

__all__ = [
    "REPLAY_MOST",
    "Desk",
    "EventOutcome",
    "EventQuery",
    "EventReplay",
    "Evidence",
    "Foresight",
    "Heard",
    "Hearing",
    "Inbox",
    "Prospect",
    "Sender",
    "Settled",
    "StoredEvent",
    "Wait",
    "dead",
    "dismiss",
    "evidence",
    "find",
    "hear",
    "read",
    "replay",
    "retry",
]
