"""Settings of pseudonym, from the environment (`ESTUAIRE_PSEUDONYM_*`)."""

from __future__ import annotations

from pathlib import Path

from pydantic import AliasChoices, Field

from runtime.settings import GuardedSettings


class PseudonymSettings(GuardedSettings):
    """The runtime's settings, where the keys are, and who may ask."""

    keys: Path = Field(validation_alias=AliasChoices("ESTUAIRE_PSEUDONYM_KEYS", "keys"))
