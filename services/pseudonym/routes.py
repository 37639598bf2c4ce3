"""HTTP of pseudonym: health, metrics and what every step has (`runtime.dead_letter_routes`); nobody asks for more."""

from __future__ import annotations

from fastapi import FastAPI

from runtime.http import Readiness, create_app


def application(ready: Readiness) -> FastAPI:
    """The application of this service."""
    return create_app("Estuaire pseudonym", "Second-level tokens; the keys of projects.", ready)
