"""Settings of linkage, from the environment (`ESTUAIRE_LINKAGE_*`)."""

from __future__ import annotations

from pathlib import Path

from pydantic import AliasChoices, Field, SecretStr

from runtime.settings import RuntimeSettings


class LinkageSettings(RuntimeSettings):
    """The runtime's settings, where the keys and the index are, and who may ask."""

    keys: Path = Field(validation_alias=AliasChoices("ESTUAIRE_LINKAGE_KEYS", "keys"))
    database_url: SecretStr = Field(validation_alias=AliasChoices("ESTUAIRE_LINKAGE_DATABASE_URL", "database_url"))
    operators: Path = Field(
        validation_alias=AliasChoices("ESTUAIRE_LINKAGE_OPERATORS", "operators"),
        description="YAML: `operators: [{name, token_sha256}]`.",
    )
