"""Settings of access, from the environment (`ESTUAIRE_ACCESS_*`)."""

from __future__ import annotations

from pathlib import Path

from pydantic import AliasChoices, Field, SecretStr

from runtime.settings import RuntimeSettings


def _own(name: str) -> AliasChoices:
    return AliasChoices(f"ESTUAIRE_ACCESS_{name.upper()}", name)


class AccessSettings(RuntimeSettings):
    """The runtime's settings, and what access alone needs."""

    database_url: SecretStr = Field(validation_alias=_own("database_url"))
    keys: Path = Field(validation_alias=_own("keys"), description="Folder with access-private and history.")
    subscribers: Path = Field(validation_alias=_own("subscribers"), description="Who holds a subscriber's token.")
    officers: Path = Field(validation_alias=_own("officers"), description="Who may grant and close permits.")
    operators: Path = Field(validation_alias=_own("operators"), description="Who may trace records and see counts.")
    reviewers: Path = Field(validation_alias=_own("reviewers"), description="Who may review applications to calls.")
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
    readers: int = Field(8, ge=1, le=100, validation_alias=_own("readers"), description="Connections for HTTP.")
