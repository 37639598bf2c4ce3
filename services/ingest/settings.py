"""Settings of ingest, from the environment (`ESTUAIRE_INGEST_*`)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from pydantic import AliasChoices, Field, field_validator

from runtime.settings import RuntimeSettings


def _own(name: str) -> AliasChoices:
    return AliasChoices(f"ESTUAIRE_INGEST_{name.upper()}", name)


class Listening(NamedTuple):
    """An address that MLLP is heard at, and the source of all that is sent there."""

    host: str
    port: int
    source: str


_LISTENING: Final = re.compile(r"(?P<host>\[[0-9a-fA-F:.%\w]+\]|[^\s\[\]:=]+):(?P<port>\d{1,5})=(?P<source>\S{1,256})")


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
    hl7_timezone: str = Field(
        "Europe/Paris",
        validation_alias=_own("hl7_timezone"),
        description="Where times of HL7 v2 are from that have no offset.",
    )
    mllp: str = Field(
        "",
        validation_alias=_own("mllp"),
        description="Addresses to hear HL7 v2 at, each with its source: `127.0.0.1:2575=urn:... [::1]:2576=urn:...`.",
    )
    mllp_certificate: Path | None = Field(None, validation_alias=_own("mllp_certificate"), description="PEM.")
    mllp_key: Path | None = Field(None, validation_alias=_own("mllp_key"), description="PEM.")
    mllp_clients: Path | None = Field(
        None, validation_alias=_own("mllp_clients"), description="PEM: the authorities of the certificates of senders."
    )
    mllp_connections: int = Field(64, ge=1, validation_alias=_own("mllp_connections"), description="At one time.")
    mllp_idle_seconds: float = Field(
        3600, gt=0, validation_alias=_own("mllp_idle_seconds"), description="Without a message."
    )

    @field_validator("hl7_timezone")
    @classmethod
    def _is_a_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (KeyError, ValueError, OSError):  # by what the name looks like
            raise ValueError("not a time zone, such as Europe/Paris") from None
        return name

    @field_validator("mllp")
    @classmethod
    def _are_addresses(cls, told: str) -> str:
        for one in told.split():
            match = _LISTENING.fullmatch(one)
            if match is None or int(match["port"]) > 65_535:
                raise ValueError("an address of MLLP is not host:port=source")
        return told

    @property
    def zone(self) -> ZoneInfo:
        """Where times of HL7 v2 are from that have no offset."""
        return ZoneInfo(self.hl7_timezone)

    @property
    def listening(self) -> tuple[Listening, ...]:
        """The addresses that MLLP is heard at."""
        found = [match for one in self.mllp.split() if (match := _LISTENING.fullmatch(one))]
        return tuple(Listening(one["host"].strip("[]"), int(one["port"]), one["source"]) for one in found)
