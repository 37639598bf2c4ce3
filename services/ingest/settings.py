"""Settings of ingest, from the environment (`ESTUAIRE_INGEST_*`)."""

from __future__ import annotations

from pathlib import Path

from pydantic import AliasChoices, Field

from runtime.settings import RuntimeSettings


def _own(name: str) -> AliasChoices:
    return AliasChoices(f"ESTUAIRE_INGEST_{name.upper()}", name)


class IngestSettings(RuntimeSettings):
    """The runtime's settings, where keys and producers are, and how much is taken at once."""

    keys: Path = Field(validation_alias=_own("keys"))
    producers: Path = Field(
        validation_alias=_own("producers"),
        description="YAML, read again when it changes: `producers: [{source: urn:..., token_sha256: <hex>}]`.",
    )
    max_body_bytes: int = Field(16 * 2**20, ge=1024, validation_alias=_own("max_body_bytes"))
    max_events: int = Field(20_000, ge=1, validation_alias=_own("max_events"), description="In one request.")
    max_pending_bytes: int = Field(
        128 * 2**20, ge=1024, validation_alias=_own("max_pending_bytes"), description="Bodies held, unpacked."
    )
    remember_identities: int = Field(20_000, ge=0, validation_alias=_own("remember_identities"))
    throttle_share: float = Field(0.2, gt=0, le=1, validation_alias=_own("throttle_share"))
    throttle_least: int = Field(200, ge=1, validation_alias=_own("throttle_least"))
    throttle_seconds: float = Field(60, gt=0, validation_alias=_own("throttle_seconds"))
