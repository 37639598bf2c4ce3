"""Settings every service has, from the environment or from files. Secrets have no defaults.

A setting may be a file, named like the variable, in the folder that `ESTUAIRE_SECRETS` names: an environment is seen by
whoever inspects a container, and inherited by every child. Where there are both, the variable holds.
"""

from __future__ import annotations

import os
import time
from typing import Any, TypeVar

from pydantic import AliasChoices, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
)


class ServiceSettings(BaseSettings):
    """What every process needs; services add their own under their own prefix."""

    model_config = SettingsConfigDict(
        env_prefix="ESTUAIRE_", extra="ignore", populate_by_name=True, hide_input_in_errors=True
    )

    host: str = "127.0.0.1"
    port: int = 0
    log_level: str = "INFO"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **__: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What is given, then the environment, then the files."""
        secrets = SecretsSettingsSource(settings_cls, os.environ.get("ESTUAIRE_SECRETS"))
        return init_settings, env_settings, secrets


class RuntimeSettings(ServiceSettings):
    """What the loop and its surroundings need."""

    bootstrap_servers: str = Field(validation_alias=AliasChoices("KAFKA_BOOTSTRAP_SERVERS", "bootstrap_servers"))
    kafka_config: dict[str, Any] = Field(default_factory=dict, description="More client settings, e.g. SASL.")
    topic_prefix: str = ""
    hot_partitions: int = 2
    slot: int = Field(0, ge=0, description="This process among those of its service; stable over restarts.")
    batch_size: int = Field(1000, ge=1, le=10_000)
    linger_seconds: float = Field(0.01, gt=0, le=1, description="How long an open batch waits for more.")
    rewind: bool = Field(False, description="On start, go back to where the database is, should it be older.")
    trace_file: str | None = Field(None, description="Write spans here, where there is no OTLP endpoint.")
    trace_ratio: float = Field(0.01, ge=0, le=1, description="Share of records with a full trace of their own.")

    def beyond(self) -> int:
        """On a start that rewinds, a number above all that the database can have given out since its backup; else 0.

        Seconds since the epoch, shifted by 20 bits: above whatever counted from an earlier one of these with less than
        a million numbers a second, and below 2**53 until the year 2242.
        """
        return int(time.time()) << 20 if self.rewind else 0


class IssuerSettings(ServiceSettings):
    """Whose tokens are taken over HTTP."""

    oidc_issuer: str = Field(description="The issuer of tokens: `iss`, and where its configuration is found.")
    oidc_audience: str = Field("estuaire", description="What its tokens have to be for: `aud`.")
    oidc_configuration: str = Field("", description="Where its configuration is, if not where the issuer's name says.")
    oidc_keys: str = Field("", description="Where its keys are (a JWK set); as its configuration says, if absent.")
    oidc_ca: str = Field("", description="A file: the authority of its certificates, where the system has it not.")
    oidc_name_claim: str = Field("sub", description="The claim by which somebody is named in permits and steps.")
    oidc_roles_claim: str = Field("roles", description="The claim that lists roles; `a.b` is `b` within `a`.")

    @property
    def oidc_document(self) -> str:
        """Where the issuer's configuration is asked for."""
        return self.oidc_configuration or f"{self.oidc_issuer.rstrip('/')}/.well-known/openid-configuration"


class GuardedSettings(RuntimeSettings, IssuerSettings):
    """The runtime's settings, and whose tokens are taken over HTTP."""


Settings = TypeVar("Settings", bound=ServiceSettings)


def read_settings(kind: type[Settings]) -> Settings:
    """The settings from the environment, or the end of the process with one line that names what is wrong."""
    try:
        return kind()
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(str(part) for part in one['loc'])}: {one['type']}" for one in error.errors())
        raise SystemExit(f"settings are missing or wrong: {wrong}") from None
