"""Settings of the console, from the environment (`ESTUAIRE_CONSOLE_*`)."""

from __future__ import annotations

from pathlib import Path

from pydantic import AliasChoices, Field, SecretStr

from runtime.settings import IssuerSettings

_ADDRESS = r"^https?://[^\s/]+(/\S*[^/])?$"


def _own(name: str) -> AliasChoices:
    return AliasChoices(f"ESTUAIRE_CONSOLE_{name.upper()}", name)


class ConsoleSettings(IssuerSettings):
    """Where the console and the services that it asks are, and how people sign in."""

    url: str = Field(
        validation_alias=_own("url"), pattern=_ADDRESS, description="Its own address, as browsers know it."
    )
    access: str = Field(validation_alias=_own("access"), pattern=_ADDRESS, description="Where access listens.")
    client_id: str = Field("", validation_alias=_own("client_id"), description="The console's client at the issuer.")
    client_secret: SecretStr = Field(
        SecretStr(""), validation_alias=_own("client_secret"), description="Absent for a public client."
    )
    scope: str = Field("openid", validation_alias=_own("scope"), description="What it asks the issuer for.")
    links: Path | None = Field(
        None, validation_alias=_own("links"), description="The folder of sign-in links; of the local platform alone."
    )
