"""Settings of pseudonym, from the environment (`ESTUAIRE_PSEUDONYM_*`)."""

from __future__ import annotations

from pathlib import Path

from pydantic import AliasChoices, Field

from runtime.settings import RuntimeSettings


class PseudonymSettings(RuntimeSettings):
    """The runtime's settings, and where the keys are."""

    keys: Path = Field(validation_alias=AliasChoices("ESTUAIRE_PSEUDONYM_KEYS", "keys"))
