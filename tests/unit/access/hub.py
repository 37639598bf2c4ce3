"""A small hub around the step of access: makes its messages, runs its batches, reads its views."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from contracts import messages
from contracts.events import OPPOSITION, ViewEvent
from contracts.messages import (
    Content,
    Demographics,
    OppositionReach,
    PatientLink,
    PermitClosed,
    PermitGranted,
    PermitKeyWrapped,
    RecordLinked,
    RequestAct,
    associated,
    permit_associated,
)
from contracts.permits import Permit, permit_from
from estuaire.subscriber import View
from runtime.http import unauthenticated
from runtime.messages import Emit, Message, Outputs
from runtime.oidc import Caller
from runtime.sealing import Opener, Sealer
from services.access.adapters import History
from services.access.domain.projects import Terms
from services.access.handlers import LINKED, LINKS, OPPOSITIONS, REACH, Access
from services.access.projects import PERMITS, Registrar, StepRow
from services.access.requests import REQUEST_ACTS, ActRow, Keeper, RequestRow, Requests
from services.access.vault import Vault

SOURCE = "urn:estuaire:producer:chu-test"
PARTITIONS = 2


def permit(name: str = "cardio", **clauses: Any) -> Permit:
    """A permit that releases stays, diagnoses and a few demographics of everybody."""
    return permit_from(
        {
            "id": name,
            "title": "A test",
            "purpose": "To test.",
            "sources": ["*"],
            "types": ["hospital-stay.v1", "diagnosis.v1"],
            "fields": {"hospital-stay.v1": ["entry", "principal_diagnosis"], "diagnosis.v1": ["*"]},
            "demographics": ["sex", "birth_year", "department"],
            "expires": "2099-12-31",
            "subscribers": ["team"],
        }
        | clauses
    )


def event_id(name: str) -> str:
    """The hub's id of a record that tests know by a name."""
    return hashlib.sha256(name.encode()).hexdigest()[:32]


def subject_id(name: str) -> bytes:
    """A subject that tests know by a name."""
    return hashlib.md5(name.encode()).digest()


TERMS = Terms({"urn:chu": "pmsi", "urn:cnam": "fund", "urn:telesuivi": "other"}, ("Santé publique France",))


class Known:
    """Callers whose token is their name, or `<role>:<name>` for a name that has several."""

    def __init__(self, roles: Mapping[str, Sequence[str]]) -> None:
        """Names by their role."""
        self._roles = roles

    def caller(self, authorization: str | None) -> Caller:
        role, _, name = (authorization or "").removeprefix("Bearer ").rpartition(":")
        found = frozenset(one for one, names in self._roles.items() if name in names and role in ("", one))
        if not found:
            raise unauthenticated()
        return Caller(name, found)


class MemorySteps:
    """The steps of projects, kept in memory."""

    def __init__(self) -> None:
        self.rows: list[StepRow] = []

    def all(self) -> list[StepRow]:
        return list(self.rows)

    def keep(self, row: StepRow) -> None:
        self.rows.append(row)


class MemoryRequests:
    """Requests and what was done about them, kept in memory."""

    def __init__(self) -> None:
        self.rows: dict[bytes, RequestRow] = {}
        self.acts: list[ActRow] = []

    def ask(self, row: RequestRow) -> None:
        self.rows[row.event_id] = row

    def find(self, event_id: bytes) -> RequestRow | None:
        return self.rows.get(event_id)

    def done(self, event_id: bytes) -> list[ActRow]:
        return [one for one in self.acts if one.request == event_id]

    def keep(self, row: ActRow) -> None:
        if row.id not in {one.id for one in self.acts}:
            self.acts.append(row)


class Hub:
    """Messages in, the step's outputs collected by topic, each view followed by the reference subscriber."""

    def __init__(
        self,
        history: History,
        vault: Vault,
        transaction: Any = nullcontext,
        requests: Requests | None = None,
        **options: Any,
    ) -> None:
        self.private = X25519PrivateKey.generate()
        self.sealer = Sealer(self.private.public_key())
        self.created: list[str] = []
        self.emptied: list[str] = []
        self.steps = MemorySteps()
        self.now = dt.datetime(2026, 6, 1, 9, 41, 7, 123456, tzinfo=dt.UTC)
        self._transaction: Any = transaction
        self.step = Access(
            history=history,
            vault=vault,
            opener=Opener([self.private]),
            registrar=Registrar(self.steps),
            keeper=Keeper(requests or MemoryRequests()),
            create_views=self.created.extend,
            empty_view=self._empty,
            partitions=PARTITIONS,
            clock=lambda: self.now,
            **options,
        )
        self.emitted: list[Emit] = []
        self.views: defaultdict[str, View] = defaultdict(View)
        self.sequences: dict[tuple[str, str], int] = {}
        self.outputs = Outputs()
        self.on_batch: Callable[[int, list[Emit]], object] = lambda number, emits: None
        self._batches = 0
        self._offset = 0
        self._acts = 0

    # messages

    def record(
        self,
        name: str,
        subject: str,
        patient: str,
        record: Mapping[str, Any] | None = None,
        *,
        kind: str = "diagnosis.v1",
        revision: int = 1,
        version: int = 0,
        time: str = "2026-03-01T10:00:00Z",
        source: str = SOURCE,
        deleted: bool = False,
        dated: bool = True,
        topic: str = LINKED,
        **demographics: Any,
    ) -> Message:
        """A message of records-linked, or of another topic that has such."""
        full = kind + (".deleted" if deleted else "")
        content = Content(full, time, 1, dict(record or {}), Demographics(**demographics), dated)
        bound = associated(event_id(name), full, source, "digest")
        value = RecordLinked(subject_id(subject), self.sealer.seal(messages.encode(content), bound))
        headers = {
            "ce_id": event_id(name),
            "ce_type": full,
            "ce_source": source,
            "digest": "digest",
            "revision": messages.revision(str(version), 1_700_000_000_000 + revision, revision),
            "patient_id": patient,
        }
        encoded = {key: text.encode() for key, text in headers.items()}
        return self.message(topic, event_id(name), messages.encode(value), encoded)

    def objection(self, name: str, subject: str, patient: str, scope: str = "all", **more: Any) -> Message:
        """An opposition of a subject; its end, if `deleted`."""
        return self.record(name, subject, patient, {"scope": scope}, kind=OPPOSITION, topic=OPPOSITIONS, **more)

    def request(
        self, name: str, subject: str, patient: str, kind: str = "erasure", *, revision: int = 1, deleted: bool = False
    ) -> Message:
        """A request of a subject, received on 11 May 2026 and sent the day after; taken back, if `deleted`."""
        return self.record(
            *(name, subject, patient, {"received": "2026-05-11"}),
            kind=f"{kind}-request.v1",
            revision=78_544_000_000 + revision,
            deleted=deleted,
            topic=OPPOSITIONS,
        )

    def act(self, name: str, act: str, *subjects: str, says: Mapping[str, Any] | None = None) -> Message:
        """What an officer does about the request of that name; whom it erases."""
        paper = {"title": "letter.pdf", "date": "2026-05-20", "sha256": "0" * 64}
        said = says or ({"as_seen": "0" * 32} if act == "erase" else {"document": paper})
        self._acts += 1
        value = RequestAct(
            *(bytes.fromhex(event_id(name)), str(self._acts), act, "officer:camille"),
            *(int(self.now.timestamp() * 1000), msgspec.json.encode(said), tuple(map(subject_id, subjects))),
        )
        return self.message(REQUEST_ACTS, event_id(name), messages.encode(value))

    def nobodys(self, name: str, **more: Any) -> Message:
        """A record whose subject was erased, as linkage passes it on."""
        one = self.record(name, "", "", **more)
        return replace(one, value=messages.encode(RecordLinked(b"", b"")))

    def reach(self, subject: str, version: int, *suspects: str) -> Message:
        """Whom an opposition withholds besides."""
        value = OppositionReach(subject_id(subject), version, tuple(map(subject_id, suspects)))
        return self.message(REACH, subject, messages.encode(value))

    def link(self, link: PatientLink) -> Message:
        """A patient-links message."""
        return self.message(LINKS, "patient", messages.encode(link))

    def granted(self, one: Permit, at: str | None = None) -> Message:
        """A permit granted, now if nothing else is said."""
        at = self.now.isoformat() if at is None else at
        return self.message(PERMITS, one.id, messages.encode(PermitGranted(one.id, one.definition(), at)))

    def key(self, name: str, key: bytes | None = None) -> Message:
        """A permit's key, as pseudonym wraps it."""
        sealed = self.sealer.seal(key or hashlib.sha256(name.encode()).digest(), permit_associated(name))
        return self.message(PERMITS, f"{name}#key", messages.encode(PermitKeyWrapped(name, sealed)))

    def closed(self, name: str) -> Message:
        """A permit closed."""
        return self.message(PERMITS, name, messages.encode(PermitClosed(name, "a test")))

    def message(self, topic: str, key: str, value: bytes, headers: Mapping[str, bytes] | None = None) -> Message:
        """A message of the next offset."""
        self._offset += 1
        return Message(topic, 0, self._offset, 0, key.encode(), value, dict(headers or {}))

    # runs

    def run(self, *batch: Message) -> Outputs:
        """One batch, and what it sends to `permits` after it, until nothing more comes."""
        first = outputs = self._handle(batch)
        while orders := [emit for _, emit in outputs.emits if emit.topic == PERMITS]:
            outputs = self._handle(
                [self.message(PERMITS, (one.key or b"").decode(), one.value or b"") for one in orders]
            )
        return first

    def _handle(self, batch: Sequence[Message]) -> Outputs:
        transaction: AbstractContextManager[None] = self._transaction()
        with transaction:
            outputs = self.step.handle(batch)
        self.outputs = outputs
        self._batches += 1
        self.on_batch(self._batches, [emit for _, emit in outputs.emits])
        for _, emit in outputs.emits:
            self.emitted.append(emit)
            if emit.topic.startswith("view-"):
                self._follow(emit)
        return outputs

    def _empty(self, name: str) -> None:
        self.emptied.append(name)

    def _follow(self, emit: Emit) -> None:
        event = ViewEvent.model_validate_json(emit.value or b"")
        assert emit.key == event.id.encode()
        assert emit.trace == "fresh"
        assert emit.timestamp == int(self.now.replace(minute=0, second=0, microsecond=0).timestamp()) * 1000
        assert set(emit.headers) == {"content-type"}
        if event.type == "view.reset":
            assert (event.subject, event.sequence, event.data) == (None, 0, {})
            self.views[emit.topic.removeprefix("view-")].apply(event, emit.partition)
            return
        subject = event.subject or ""
        assert emit.partition == int(subject[:8], 16) % PARTITIONS
        place = (emit.topic, subject)
        assert event.sequence > self.sequences.get(place, 0), "a patient's sequence increases strictly"
        self.sequences[place] = event.sequence
        self.views[emit.topic.removeprefix("view-")].apply(event, emit.partition)

    def opened(self, *permits: Permit) -> None:
        """Grant permits and give them their keys."""
        self.run(*(self.granted(one) for one in permits))
        self.run(*(self.key(one.id) for one in permits))

    def events(self, name: str = "cardio") -> list[ViewEvent]:
        """Every message of a view so far."""
        return [ViewEvent.model_validate_json(one.value or b"") for one in self.emitted if one.topic == f"view-{name}"]

    def leaves(self, *actions: str) -> list[messages.AuditLeaf]:
        """What the audit log is told of these acts so far."""
        told = (msgspec.msgpack.decode(one.value or b"", type=messages.AuditLeaf) for one in self._told())
        return [one for one in told if one.action in actions]

    def _told(self) -> Iterator[Emit]:
        for one in self.emitted:
            if one.topic == "audit":
                assert (one.headers, one.trace, one.partition) == ({}, "none", -1)
                yield one

    def shape(self, name: str = "cardio") -> list[list[str]]:
        """What a view holds now: for each patient its records by what their bodies say, sorted."""
        return sorted(
            sorted(json.dumps(event.data["record"], sort_keys=True) for event in timeline)
            for timeline in self.views[name].timelines().values()
        )


def bodies(*codes: str) -> list[str]:
    """The shape of a timeline of diagnoses with these codes."""
    return sorted(msgspec.json.encode({"code": code}).decode().replace(":", ": ") for code in codes)
