"""Whether the books are right: their invariants, a replay of their events, and the seals over their history."""
