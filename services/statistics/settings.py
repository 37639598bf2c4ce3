"""Settings of statistics, from the environment (`ESTUAIRE_STATISTICS_*`)."""

from __future__ import annotations

from pathlib import Path

from pydantic import AliasChoices, Field, SecretStr

from runtime.settings import GuardedSettings


def _own(name: str) -> AliasChoices:
    return AliasChoices(f"ESTUAIRE_STATISTICS_{name.upper()}", name)


class StatisticsSettings(GuardedSettings):
    """The runtime's settings, where the key, the counts and the registry are, and who may ask."""

    keys: Path = Field(validation_alias=_own("keys"), description="Folder with statistics-private.")
    database_url: SecretStr = Field(validation_alias=_own("database_url"))
    sources: Path | None = Field(
        None,
        validation_alias=_own("sources"),
        description="The registry: YAML, read again when it changes:"
        " `sources: [{source: urn:..., title:, contact:, formats: [fhir], expected_per_day: 1000}]`.",
    )
