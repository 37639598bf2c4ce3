"""Settings of statistics, from the environment (`ESTUAIRE_STATISTICS_*`)."""

from __future__ import annotations

from pathlib import Path

from pydantic import AliasChoices, Field, SecretStr

from runtime.settings import GuardedSettings, RuntimeSettings


def _own(name: str) -> AliasChoices:
    return AliasChoices(f"ESTUAIRE_STATISTICS_{name.upper()}", name)


class FlowSettings(RuntimeSettings):
    """The runtime's settings, and what both processes need: the key, and where the registry is."""

    keys: Path = Field(validation_alias=_own("keys"), description="Folder with statistics-private.")
    sources: Path | None = Field(
        None,
        validation_alias=_own("sources"),
        description="The registry: YAML, read again when it changes: `sources: [{source: urn:..., title:, contact:,"
        " formats: [fhir], expected_per_day: 1000, silent_after: 6h}]`.",
    )


class StatisticsSettings(FlowSettings, GuardedSettings):
    """Where the counts are, too, and who may ask."""

    database_url: SecretStr = Field(validation_alias=_own("database_url"))
