"""Fixtures of the tests that touch the machine."""

from tests.real.netcloud import cloud

__all__ = ["cloud"]
