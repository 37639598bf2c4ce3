"""Patients that their own server links: identities as `services.ingest.formats.fhir.patient` makes them.

A replaced Patient has numbers alone, its own and that of the one in its place; any other has its traits and both.
"""

from __future__ import annotations

from typing import Any

import pytest

from contracts.messages import TokenBlock
from tests.unit.linkage.builders import Topic, identity, number, sets, token
from tests.unit.linkage.test_handlers import Worker

pytestmark = pytest.mark.unit

OLD, NEW = number("ipp", "server|old"), number("ipp", "server|new")
ANNE: dict[str, Any] = {"given_name": "ANNE", "family_name": "GOFF", "birth_date": "1985-05-12"}
ANNA: dict[str, Any] = {"given_name": "ANNA", "family_name": "LEGOFF", "birth_date": "1985-05-12"}
NOBODY: dict[str, Any] = {"given_name": "INCONNU", "family_name": "URGENCES", "birth_date": "1900-01-01"}
SUBJECTS = ("old", "replaced", "new", "replacing", "of old", "of new")


def patients(*states: tuple[str, TokenBlock, int]) -> set[frozenset[str]]:
    """Who is one person, after an observation of each Patient, and states of (Patient, identity, version)."""
    worker, topic = Worker(), Topic()
    worker.take(topic.record("o-1", identity("of old", OLD)), topic.record("o-2", identity("of new", NEW)))
    for name, block, version in states:
        worker.take(topic.record(name, block, kind="identity.v1", version=version, digest=f"{name} {version}"))
    names = {token(f"subject:{name}"): name for name in SUBJECTS}
    return {frozenset(names[subject] for subject in one) for one in sets(worker.known)}


def test_a_replaced_patient_is_the_one_in_its_place_whatever_it_was_called() -> None:
    for traits in (ANNE, ANNA, NOBODY):
        old, new = ("p-old", identity("old", OLD, **traits), 1), ("p-new", identity("new", NEW, **ANNE), 1)
        replaced = ("p-old", identity("replaced", OLD, NEW), 2)
        for order in ((old, new, replaced), (old, replaced, new), (new, old, replaced)):
            (person,) = patients(*order)
            assert person == {"old", "replaced", "new", "of old", "of new"}


def test_a_merge_that_the_server_takes_back_is_taken_back() -> None:
    old, new = ("p-old", identity("old", OLD, **NOBODY), 1), ("p-new", identity("new", NEW, **ANNE), 1)
    replaced, back = ("p-old", identity("replaced", OLD, NEW), 2), ("p-old", identity("old", OLD, **NOBODY), 3)
    people = {one - {"replaced"} for one in patients(old, new, replaced, back)}  # which has no record any more
    assert people == {frozenset(("old", "of old")), frozenset(("new", "of new"))}


def test_a_patient_that_replaces_another_is_that_one_unless_its_traits_contradict() -> None:
    replacing = ("p-new", identity("replacing", NEW, OLD, **ANNE), 1)
    (person,) = patients(("p-old", identity("old", OLD, **ANNA), 1), replacing)
    assert person == {"old", "replacing", "of old", "of new"}
    apart = patients(("p-old", identity("old", OLD, **NOBODY), 1), replacing)
    assert {"replacing", "of new"} in apart
    assert not any({"old", "replacing"} <= one for one in apart)


def test_a_stub_without_traits_that_replaces_another_brings_no_traits_with_it() -> None:
    stub = ("p-new", identity("replacing", NEW, OLD), 1)
    (person,) = patients(("p-old", identity("old", OLD, **NOBODY), 1), stub)
    assert person == {"old", "replacing", "of old", "of new"}
