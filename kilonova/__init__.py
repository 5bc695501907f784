"""Kilonova: the OpenStack Compute service on a core that never gets stuck."""

__version__ = "0.1.0"
