"""Settings of linkage, from the environment (`ESTUAIRE_LINKAGE_*`)."""

from __future__ import annotations

from pathlib import Path

from pydantic import AliasChoices, Field, SecretStr

from runtime.settings import GuardedSettings


def _own(name: str) -> AliasChoices:
    return AliasChoices(f"ESTUAIRE_LINKAGE_{name.upper()}", name)


class LinkageSettings(GuardedSettings):
    """The runtime's settings, where the keys and the index are, and who may ask."""

    keys: Path = Field(validation_alias=_own("keys"), description="Folder with linkage-private.")
    database_url: SecretStr = Field(validation_alias=_own("database_url"))
    four_eyes: bool = Field(
        False, validation_alias=_own("four_eyes"), description="Whether stewards' decisions take two of them."
    )
