"""Settings of access, from the environment (`ESTUAIRE_ACCESS_*`)."""

from __future__ import annotations

from pathlib import Path

from pydantic import AliasChoices, Field, SecretStr

from runtime.settings import GuardedSettings


def _own(name: str) -> AliasChoices:
    return AliasChoices(f"ESTUAIRE_ACCESS_{name.upper()}", name)


class AccessSettings(GuardedSettings):
    """The settings of a service with an issuer of tokens, and what access alone needs."""

    database_url: SecretStr = Field(validation_alias=_own("database_url"))
    staff_url: SecretStr = Field(
        validation_alias=_own("staff_url"), description="The same database, as what officers and operators read."
    )
    subscriber_url: SecretStr = Field(
        validation_alias=_own("subscriber_url"), description="The same database, as what subscribers read."
    )
    keys: Path = Field(validation_alias=_own("keys"), description="Folder with access-private and history.")
    terms: Path | None = Field(
        None, validation_alias=_own("terms"), description="Whose data the sources have, who has permanent access."
    )
    catalogue: Path = Field(validation_alias=_own("catalogue"), description="Who runs the hub, for its catalogue.")
    sources: Path | None = Field(
        None, validation_alias=_own("sources"), description="The registry of producers, for the catalogue."
    )
    permits: Path | None = Field(None, validation_alias=_own("permits"), description="Permits to grant on start.")
    scan_chunk: int = Field(500, ge=1, le=10_000, validation_alias=_own("scan_chunk"))
    quota: int = Field(
        1_000_000, ge=1, validation_alias=_own("quota"), description="Entries that a subscriber may read in an hour."
    )
    readers: int = Field(
        8, ge=1, le=100, validation_alias=_own("readers"), description="Connections for HTTP, of each role."
    )
