"""Seals: events and transfers in a signed hash chain that is anchored outside the database, and who verifies it.

docs/audit.md has the format, byte by byte. `verifier` is a program of its own: it shares no code with its neighbours.
"""
