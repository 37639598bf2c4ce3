"""Projects in the loop: each act is judged by the register as it is then, kept, and opens or closes the permit."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import msgspec
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from contracts import audit, messages
from contracts.messages import PermitClosed, PermitGranted, ProjectStep
from contracts.projects import ACTS, DocumentError, document_of
from runtime.database import Database
from runtime.messages import Emit, InvalidMessage, Message, Outputs, Reason
from services.access.domain.projects import CHANGES, Family, Refused, Register, Step, Terms, granted_at

PROJECTS: Final = "projects"
PERMITS: Final = "permits"


class StepRow(NamedTuple):
    """A step as the database has it."""

    subject: str
    number: int
    id: str
    act: str
    actor: str
    role: str
    at: dt.datetime
    details: bytes


TAKEN: Final = "SELECT permit FROM permits WHERE granted IS NOT NULL OR state = 'closed'"
STEPS: Final = "SELECT subject, number, id, act, actor, role, at, details FROM project_steps ORDER BY place"


def register_of(rows: Iterable[StepRow]) -> Register:
    """The register that these steps make."""
    register = Register()
    for row in rows:
        register.add(row.subject, _step(row.act, row.actor, row.role, row.at, row.details))
    return register


class Steps(Protocol):
    """What the loop keeps of projects."""

    def all(self) -> list[StepRow]:
        """All steps, in the order in which they were done."""

    def keep(self, row: StepRow) -> None:
        """Write one more."""


class PostgresSteps:
    """The steps in the loop's own database, within its transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> list[StepRow]:
        return [StepRow(*row) for row in self._database.connection.execute(STEPS)]

    def keep(self, row: StepRow) -> None:
        self._database.connection.execute(
            "INSERT INTO project_steps (subject, number, id, act, actor, role, at, details)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
            row,
        )


class Registrar:
    """Takes the steps of projects in. Of two acts that were asked for at the same moment the first is done."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._decoder = msgspec.msgpack.Decoder(ProjectStep)

    def handle(self, batch: Sequence[Message], outputs: Outputs) -> None:
        """Inside the transaction of the loop."""
        register = register_of(self._steps.all())
        for message in batch:
            if not message.value:
                continue
            try:
                self._take(message, register, outputs)
            except InvalidMessage as why:
                outputs.reject(message, why)

    def _take(self, message: Message, register: Register, outputs: Outputs) -> None:
        try:
            wanted = self._decoder.decode(message.value)
        except msgspec.MsgspecError:
            raise InvalidMessage(Reason.DECODING, "the body is not a ProjectStep") from None
        row = StepRow(
            wanted.subject,
            wanted.number,
            wanted.id,
            wanted.act,
            wanted.actor,
            wanted.role,
            moment_of(wanted.at),
            wanted.details,
        )
        if row.act not in ACTS:
            raise InvalidMessage(Reason.SCHEMA, "there is no act of this name")
        try:
            step = _step(row.act, row.actor, row.role, row.at, row.details)
        except (DocumentError, ValueError):
            raise InvalidMessage(Reason.SCHEMA, "the act does not say what it has to") from None
        done = len(register.steps.get(row.subject, ()))
        if row.number != done + 1:
            raise InvalidMessage(Reason.CONFLICT, "another act was done before")
        try:
            register.check(row.subject, step)
        except Refused as refused:
            raise InvalidMessage(Reason.CONFLICT, refused.title) from None
        register.add(row.subject, step)
        self._steps.keep(row)
        by = audit.actor(row.role, row.actor)
        project = register.projects.get(row.subject.partition("/")[2]) if row.subject.startswith("project/") else None
        permit = project.permit.id if project and project.permit else None
        told = audit.leaf("project-step", by, row.at, permit=permit, about=f"{row.subject} {row.act}")
        outputs.emit(message, Emit(*audit.message(told), trace="none"))
        if (change := _change_of_permit(register, row.subject, step)) is not None:
            outputs.emit(message, Emit(PERMITS, change.permit.encode(), messages.encode(change)))


def moment_of(milliseconds: int) -> dt.datetime:
    """When an act was done. Raises InvalidMessage."""
    try:
        return dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC)
    except (OverflowError, ValueError, OSError):
        raise InvalidMessage(Reason.SCHEMA, "the act was done at no moment") from None


def _change_of_permit(register: Register, subject: str, step: Step) -> PermitGranted | PermitClosed | None:
    """What an act does to the project's permit."""
    project = register.projects.get(subject.partition("/")[2])
    permit = project.permit if project else None
    if permit is None:
        return None
    by = audit.actor(step.role, step.actor)
    if step.act in ("open", *CHANGES):
        changes = sum(one.act in CHANGES for one in register.steps[subject])
        at = granted_at(next(one for one in register.steps[subject] if one.act == "open"))
        return PermitGranted(permit.id, permit.definition(), at, by, changes, suspended=step.act == "suspend")
    return PermitClosed(permit.id, f"project {step.act}d", by) if step.act in ("revoke", "close") else None


def _step(act: str, actor: str, role: str, at: dt.datetime, details: bytes) -> Step:
    return Step(act, actor, role, at, document_of(act, json.loads(details)))  # type: ignore[arg-type]


class _Terms(BaseModel):
    model_config = ConfigDict(extra="forbid")

    families: dict[str, Family] = {}
    permanent_access: tuple[str, ...] = ()


def read_terms(path: Path | None) -> Terms:
    """The operator's terms from YAML; none without a file. Raises ValueError, in one line."""
    if path is None:
        return Terms()
    try:
        read = _Terms.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, ValidationError, yaml.YAMLError) as error:
        raise ValueError(
            f"{path.name} does not say `families` and `permanent_access`: {type(error).__name__}"
        ) from None
    return Terms(read.families, read.permanent_access)
