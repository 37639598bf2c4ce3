"""The fault tests use the platform of the end-to-end tests, one of their own."""

from tests.e2e.conftest import hub, observation

__all__ = ["hub", "observation"]
