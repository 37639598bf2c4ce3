"""The catalogue of data: what the hub holds of each producer, and what projects gave back, as HealthDCAT-AP in JSON-LD.

HealthDCAT-AP Release 8 for data that are not public (healthdataeu.pages.code.europa.eu/healthdcat-ap), on DCAT-AP 3.
Numbers are of two digits, and small holdings have none: a catalogue is read by everybody, and more than once. Pure.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from contracts.fields import Variable
from contracts.permits import sentences
from contracts.projects import Contribution
from contracts.sources import Registered

SMALLEST: Final = 1000
"""Of fewer people no number is told."""

_EHDS: Final = {"@id": "http://data.europa.eu/eli/reg/2025/327/oj"}
_AUTHORITY: Final = "http://publications.europa.eu/resource/authority"
_HEALTH: Final = "https://hdeu-dcat.data.health.europa.eu/resource/authority"

CATEGORIES: Final[Mapping[str, str]] = {
    "claim.v1": "HRAD",
    "dispensation.v1": "HRAD",
    "death.v1": "MRMR",
    "device-measure.v1": "PGEH",
}
"""Categories of EHDS, art. 51, by type of record; every other is of electronic health records (EHRS)."""

CONTEXT: Final[Mapping[str, Any]] = {
    "adms": "http://www.w3.org/ns/adms#",
    "csvw": "http://www.w3.org/ns/csvw#",
    "cv": "http://data.europa.eu/m8g/",
    "dcat": "http://www.w3.org/ns/dcat#",
    "dcatap": "http://data.europa.eu/r5r/",
    "dct": "http://purl.org/dc/terms/",
    "dpv": "https://w3id.org/dpv#",
    "foaf": "http://xmlns.com/foaf/0.1/",
    "healthdcatap": "http://healthdataportal.eu/ns/health#",
    "prov": "http://www.w3.org/ns/prov#",
    "rdfs": "http://www.w3.org/2000/01/rdf-schema#",
    "schema": "http://schema.org/",
    "skos": "http://www.w3.org/2004/02/skos/core#",
    "vcard": "http://www.w3.org/2006/vcard/ns#",
    "xsd": "http://www.w3.org/2001/XMLSchema#",
}


Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=4000)]
Email = Annotated[str, StringConstraints(pattern=r"^[\w.+-]+@[\w-]+(\.[\w-]+)+$")]


class Publisher(BaseModel):
    """Who runs the hub, as its catalogue names them. `home` is the address of access, if not that which is asked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: Text
    description: Text
    name: Text
    email: Email
    access_body: Text
    access_body_email: Email
    home: Annotated[str, StringConstraints(pattern=r"^https?://[^\s/]+(/\S*[^/])?$")] | Literal[""] = ""


def publisher_from(data: Any) -> Publisher:
    """From what a file says. Raises ValueError, in one line."""
    try:
        return Publisher.model_validate(data)
    except ValidationError as error:
        raise ValueError(sentences(error, _PATTERNS)) from None


_PATTERNS: Final = {
    "email": "write an address such as catalogue@hub.example",
    "access_body_email": "write an address such as access@hub.example",
    "home": "write the address of access without a slash at its end, such as https://access.hub.example",
}


@dataclass(frozen=True, slots=True)
class Holding:
    """What is kept of one producer: which types, how much, of how many people, and of which years."""

    source: str
    types: Sequence[str]
    records: int
    people: int
    first_year: int | None
    last_year: int | None


@dataclass(frozen=True, slots=True)
class Given:
    """What a project gave back."""

    project: str
    title: str
    organisation: str
    contribution: Contribution


def catalogue(
    publisher: Publisher,
    sources: Iterable[Registered],
    holdings: Iterable[Holding],
    given: Iterable[Given],
    variables: Mapping[str, Sequence[Variable]],
    words: str = "",
) -> dict[str, Any]:
    """The catalogue, or what of it has all these words in its title, its description or its keywords."""
    held = {one.source: one for one in holdings}
    entries = [_dataset(publisher, one, held.get(one.source), variables) for one in sources]
    entries += [_given(publisher, number, one) for number, one in enumerate(given, 1)]
    wanted = _plain(words).split()
    found = [one for one in entries if all(word in _plain(_text(one)) for word in wanted)]
    return {
        "@context": dict(CONTEXT),
        "@id": f"{publisher.home}/v1/catalogue",
        "@type": "dcat:Catalog",
        "dct:title": publisher.title,
        "dct:description": publisher.description,
        "dct:publisher": _agent(publisher.name, publisher.email),
        "dcatap:applicableLegislation": _EHDS,
        "dcat:dataset": [one for one in found if one["@type"] == "dcat:Dataset"],
        "dcat:resource": [one for one in found if one["@type"] != "dcat:Dataset"],
    }


def _dataset(
    publisher: Publisher,
    source: Registered,
    held: Holding | None,
    variables: Mapping[str, Sequence[Variable]],
) -> dict[str, Any]:
    types = sorted(held.types) if held else []
    address = f"{publisher.home}/v1/catalogue#{_slug(source.source)}"
    email = found[0] if (found := _EMAIL.findall(source.contact)) else publisher.email
    title = source.title or source.source
    told = source.description or f"Records of {title}, linked into timelines of people without their identities."
    words = {*source.keywords, *source.formats, *(kind.partition(".")[0] for kind in types)}
    categories = sorted({CATEGORIES.get(kind, "EHRS") for kind in types}) or ["EHRS"]
    dataset = {
        **_common(publisher, address, source.source, title, told, email, title),
        "dcat:keyword": sorted(words) or [title],
        "healthdcatap:healthCategory": [{"@id": f"{_HEALTH}/healthcategories/{one}"} for one in categories],
        "dct:provenance": _provenance(
            f"Sent by {title}, pseudonymised twice under separate secrets, stripped to named fields."
        ),
        "healthdcatap:hasStructuredData": bool(types),
    }
    if types:
        dataset["healthdcatap:hasVariables"] = _variables(title, types, variables)
    return dataset | (_size(held) if held and held.people >= SMALLEST else {})


def _size(held: Holding) -> dict[str, Any]:
    size: dict[str, Any] = {
        f"healthdcatap:{name}": {"@value": str(two_digits(number)), "@type": "xsd:nonNegativeInteger"}
        for name, number in (("numberOfRecords", held.records), ("numberOfUniqueIndividuals", held.people))
    }
    if held.first_year is not None and held.last_year is not None:
        size["dct:temporal"] = {
            "@type": "dct:PeriodOfTime",
            "dcat:startDate": {"@value": f"{held.first_year:04}-01-01", "@type": "xsd:date"},
            "dcat:endDate": {"@value": f"{held.last_year:04}-12-31", "@type": "xsd:date"},
        }
    return size


def _given(publisher: Publisher, number: int, given: Given) -> dict[str, Any]:
    one = given.contribution
    address = f"{publisher.home}/v1/catalogue#{given.project}-{number}"
    if one.kind == "dataset":
        told = (address, f"{given.project}-{number}", one.title, one.description, publisher.email, given.organisation)
        return {
            **_common(publisher, *told),
            "dcat:keyword": [given.title],
            "healthdcatap:healthCategory": [{"@id": f"{_HEALTH}/healthcategories/RQSH"}],
            "dct:provenance": _provenance(f"Given back by the project {given.title}."),
            "healthdcatap:hasStructuredData": False,
        }
    kind = {"tool": "schema:SoftwareApplication", "code-list": "skos:ConceptScheme"}[one.kind]
    entry = {
        "@id": address,
        "@type": kind,
        "dct:identifier": f"{given.project}-{number}",
        "dct:title": one.title,
        "dct:description": one.description,
        "dct:creator": {"@type": "foaf:Agent", "foaf:name": given.organisation},
        "dcat:keyword": [given.title],
    }
    return entry | ({"dcat:landingPage": {"@id": one.address}} if one.address else {})


def _common(
    publisher: Publisher,
    address: str,
    identifier: str,
    title: str,
    description: str,
    email: str,
    holder: str,
) -> dict[str, Any]:
    return {
        "@id": address,
        "@type": "dcat:Dataset",
        "dct:identifier": identifier,
        "dct:title": title,
        "dct:description": description,
        "dct:accessRights": {"@id": f"{_AUTHORITY}/access-right/NON_PUBLIC"},
        "dct:type": {"@id": f"{_AUTHORITY}/dataset-type/STATISTICAL"},
        "dcat:theme": {"@id": f"{_AUTHORITY}/data-theme/HEAL"},
        "dcatap:applicableLegislation": _EHDS,
        "dct:publisher": _agent(publisher.name, publisher.email),
        "dct:creator": {"@type": "foaf:Agent", "foaf:name": holder},
        "healthdcatap:hdab": _agent(publisher.access_body, publisher.access_body_email),
        "dcat:contactPoint": {"@type": "vcard:Kind", "vcard:hasEmail": {"@id": f"mailto:{email}"}},
        "dcat:distribution": {
            "@type": "dcat:Distribution",
            "dct:title": "Under a data permit",
            "dct:description": "Pseudonymised records, to the extent of a permit, in the secure environment it names.",
            "dcatap:applicableLegislation": _EHDS,
            "dcat:accessURL": {"@id": f"{publisher.home}/docs"},
            "dct:format": {"@id": f"{_AUTHORITY}/file-type/JSON"},
        },
    }


def _agent(name: str, email: str) -> dict[str, Any]:
    return {
        "@type": "foaf:Agent",
        "foaf:name": name,
        "cv:contactPoint": {"@type": "cv:ContactPoint", "cv:email": email},
    }


def _variables(title: str, types: Sequence[str], variables: Mapping[str, Sequence[Variable]]) -> dict[str, Any]:
    return {
        "@type": "csvw:TableGroup",
        "dct:title": title,
        "csvw:table": [
            {
                "@type": "csvw:Table",
                "dct:title": kind,
                "csvw:column": [
                    {
                        "@type": "csvw:Column",
                        "csvw:name": one.name,
                        "csvw:title": one.name,
                        "dct:description": f"{one.name} of {kind}: {one.kind}",
                        "csvw:datatype": one.datatype,
                    }
                    for one in variables[kind]
                ],
            }
            for kind in types
        ],
    }


def _provenance(text: str) -> dict[str, str]:
    return {"@type": "dct:ProvenanceStatement", "rdfs:label": text}


def two_digits(number: int) -> int:
    """The number to two digits, rounded down."""
    scale: int = 10 ** max(0, len(str(number)) - 2)
    return number // scale * scale


def _text(entry: Mapping[str, Any]) -> str:
    return " ".join((entry["dct:title"], entry["dct:description"], *entry["dcat:keyword"]))


def _plain(text: str) -> str:
    """Small letters without accents."""
    return "".join(one for one in unicodedata.normalize("NFD", text.casefold()) if not unicodedata.combining(one))


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")


_EMAIL: Final = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
