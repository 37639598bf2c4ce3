"""Settings of audit, from the environment (`ESTUAIRE_AUDIT_*`)."""

from __future__ import annotations

from pathlib import Path

from pydantic import AliasChoices, Field, SecretStr

from runtime.settings import GuardedSettings
from services.audit.domain.checkpoints import ORIGIN


def _own(name: str) -> AliasChoices:
    return AliasChoices(f"ESTUAIRE_AUDIT_{name.upper()}", name)


class AuditSettings(GuardedSettings):
    """The runtime's settings, whose tokens are taken, the signing key, and both places of the log."""

    keys: Path = Field(validation_alias=_own("keys"), description="Folder with the signing key, `checkpoint`.")
    database_url: SecretStr = Field(validation_alias=_own("database_url"))
    checkpoints: Path = Field(
        validation_alias=_own("checkpoints"),
        description="The second place: a folder, best one that this machine can only add to.",
    )
    checkpoint_seconds: float = Field(
        5.0, ge=0.05, validation_alias=_own("checkpoint_seconds"), description="How often a log that grew is signed."
    )
    origin: str = Field(
        ORIGIN,
        validation_alias=_own("origin"),
        description="The log's name, unique in the world: it is signed, and names the key.",
    )
