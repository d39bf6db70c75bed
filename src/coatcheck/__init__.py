"""Coatcheck: a self-hosted payment gateway for marketplaces."""

__version__ = "0.1.0"
