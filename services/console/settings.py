"""Settings of the console, from the environment (`ESTUAIRE_CONSOLE_*`)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import AliasChoices, Field, SecretStr

from runtime.settings import IssuerSettings

SERVICES: Final = ("access", "ingest", "pseudonym", "linkage", "statistics", "audit")
"""The services that pages are of; where each listens is a setting of its name."""
TRACES: Final = "traces"
"""What the trace store is asked as."""
TRACES_SECONDS: Final = 3.0
"""How long it may take: what is shown beside something else holds up no page."""
_ADDRESS = r"^https?://[^\s/]+(/\S*[^/])?$"


def _own(name: str) -> AliasChoices:
    return AliasChoices(f"ESTUAIRE_CONSOLE_{name.upper()}", name)


def _listens(service: str) -> str | None:
    description = f"Where {service} listens; absent, its pages say so."
    found: str | None = Field(None, validation_alias=_own(service), pattern=_ADDRESS, description=description)
    return found


class ConsoleSettings(IssuerSettings):
    """Where the console and the services that it asks are, and how people sign in."""

    url: str = Field(
        validation_alias=_own("url"), pattern=_ADDRESS, description="Its own address, as browsers know it."
    )
    access: str = Field(validation_alias=_own("access"), pattern=_ADDRESS, description="Where access listens.")
    ingest: str | None = _listens("ingest")
    pseudonym: str | None = _listens("pseudonym")
    linkage: str | None = _listens("linkage")
    statistics: str | None = _listens("statistics")
    audit: str | None = _listens("audit")
    client_id: str = Field("", validation_alias=_own("client_id"), description="The console's client at the issuer.")
    client_secret: SecretStr = Field(
        SecretStr(""), validation_alias=_own("client_secret"), description="Absent for a public client."
    )
    scope: str = Field("openid", validation_alias=_own("scope"), description="What it asks the issuer for.")
    traces: str | None = Field(
        None, validation_alias=_own("traces"), pattern=_ADDRESS, description="The trace store's pages, if it has any."
    )
    traces_api: str | None = Field(
        None,
        validation_alias=_own("traces_api"),
        pattern=_ADDRESS,
        description="Where the console asks the trace store (Jaeger's query API); absent, it shows no trace.",
    )
    links: Path | None = Field(
        None, validation_alias=_own("links"), description="The folder of sign-in links; of the local platform alone."
    )

    @property
    def services(self) -> dict[str, str]:
        """Where each service listens, of those that have an address, and the trace store."""
        found = {name: getattr(self, name) for name in SERVICES} | {TRACES: self.traces_api}
        return {name: address for name, address in found.items() if address}
