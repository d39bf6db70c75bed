"""Reconciliation: what the PSP's files and the bank's statements say, held against our books."""
