"""The catalogue's entries (HealthDCAT-AP in JSON-LD), as a page shows them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

_KINDS: Final = {"dcat:Dataset": "dataset", "schema:SoftwareApplication": "tool", "skos:ConceptScheme": "code-list"}


class Entry(NamedTuple):
    """One entry. `variables` are columns (name, datatype, description) by the type of record."""

    id: str
    kind: str
    title: str
    description: str
    holder: str
    keywords: Sequence[str]
    records: str
    people: str
    years: str
    address: str
    variables: Mapping[str, Sequence[tuple[str, str, str]]]


def entries(catalogue: Mapping[str, Any]) -> Iterator[Entry]:
    """What is in a catalogue, datasets first."""
    for one in (*catalogue.get("dcat:dataset", ()), *catalogue.get("dcat:resource", ())):
        period = one.get("dct:temporal", {})
        years = [_literal(period.get(end))[:4] for end in ("dcat:startDate", "dcat:endDate")]
        yield Entry(
            id=one["dct:identifier"],
            kind=_KINDS.get(one["@type"], "dataset"),
            title=one["dct:title"],
            description=one["dct:description"],
            holder=one.get("dct:creator", {}).get("foaf:name", ""),
            keywords=one.get("dcat:keyword", ()),
            records=_literal(one.get("healthdcatap:numberOfRecords")),
            people=_literal(one.get("healthdcatap:numberOfUniqueIndividuals")),
            years="-".join(dict.fromkeys(filter(None, years))),
            address=one.get("dcat:landingPage", {}).get("@id", ""),
            variables=dict(_variables(one.get("healthdcatap:hasVariables", {}))),
        )


def _variables(group: Mapping[str, Any]) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    for table in group.get("csvw:table", ()):
        columns = table["csvw:column"]
        yield table["dct:title"], [(one["csvw:name"], one["csvw:datatype"], one["dct:description"]) for one in columns]


def _literal(value: Any) -> str:
    return str(value["@value"]) if isinstance(value, dict) else ""
