"""Indicators: counted and released when a period is over, and read over HTTP as they were released last."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable
from threading import Event
from typing import Annotated, Any, Final

import psycopg
from fastapi import Depends, FastAPI, Path
from pydantic import BaseModel, Field

from contracts import audit, messages
from contracts.permits import PERMIT_ID, Permit, PermitError, read_permit
from runtime.http import ProblemError, problems
from runtime.kafka import BrokerAway
from runtime.oidc import GUARDED, Caller
from services.access.adapters import OPEN, Reader, in_utc
from services.access.authorization import Doors
from services.access.domain.indicators import (
    Count,
    Perturbation,
    areas_of,
    begins,
    follows,
    period_name,
    within,
)
from services.access.reconciliation import ACCESS, Release

log = logging.getLogger("estuaire.access")

Clock = Callable[[], dt.datetime]
PermitId = Annotated[str, Path(pattern=PERMIT_ID, description="The permit's `id`.")]
Tell = Callable[[messages.AuditLeaf], None]
ROUND_SECONDS: Final = 30.0


class Releaser:
    """Releases the indicators of each permit once its period is over; of several processes one does."""

    def __init__(self, url: str, perturbation: Perturbation, tell: Tell, clock: Clock) -> None:
        self._url = url
        self._perturbation = perturbation
        self._tell = tell
        self._clock = clock
        self._stop = Event()

    def stop(self) -> None:
        """Ask it to end."""
        self._stop.set()

    def run(self) -> None:
        """Look whether something is due, again and again."""
        while not self._stop.wait(ROUND_SECONDS):
            try:
                self.release_due()
            except (psycopg.Error, BrokerAway) as away:
                log.warning("indicators wait: %s", type(away).__name__)

    def release_due(self) -> list[str]:
        """Release what is due; returns of which permits.

        Raises psycopg.Error and BrokerAway: what cannot be told is not released.
        """
        done = []
        with psycopg.connect(self._url, connect_timeout=5, options=in_utc(self._url)) as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            rows = connection.execute(_OPEN, [OPEN]).fetchall()
            connection.commit()
            for name, definition, granted, released in rows:
                permit = _readable(definition)
                if permit is not None and (day := self._due(permit, granted, released)):
                    done += [name] if self._release(connection, permit, day) else []
                    connection.commit()
        return done

    def _due(self, permit: Permit, granted: str | None, released: dt.date | None) -> dt.date | None:
        """The first day of this period, unless the permit is younger, is over, or has had this release."""
        today = self._clock().date()
        if permit.indicators is None or granted is None or today > permit.expires:
            return None
        day = begins(permit.indicators.every, today)
        return day if (released or dt.date.fromisoformat(granted[:10])) < day else None

    def _release(self, connection: psycopg.Connection[Any], permit: Permit, day: dt.date) -> bool:
        """Count the periods again that batches have marked, and show what may be shown of them instead of what was."""
        (is_alone,) = connection.execute(_ALONE, [permit.id]).fetchone() or (False,)
        if not is_alone:
            return False
        marked = sorted({period for (period,) in connection.execute(_FORGET_MARKS, [permit.id, day])})
        rows = connection.execute(_COUNT, [permit.id, marked])
        counts = [Count(period, area, code, people, int(key)) for period, area, code, people, key in rows]
        cells = list(self._perturbation.cells(permit, counts))
        connection.execute("DELETE FROM indicator_cells WHERE permit = %s AND period = ANY(%s)", [permit.id, marked])
        with connection.cursor() as cursor, cursor.copy(_COPY) as copy:
            for cell in cells:
                copy.write_row((permit.id, *cell))
        connection.execute(_RELEASED, [permit.id, day])
        (shown,) = connection.execute(_SHOWN, [permit.id]).fetchone() or (0,)
        about = day.isoformat()
        self._tell(audit.leaf("indicators-released", ACCESS, self._clock(), permit=permit.id, count=shown, about=about))
        return True


def _readable(definition: bytes | None) -> Permit | None:
    """The permit, if it can be read: one that cannot releases nothing, and has its alarm elsewhere."""
    try:
        return None if definition is None else read_permit(definition)
    except PermitError:
        return None


_OPEN: Final = (
    "SELECT permit, definition, granted, released FROM permits LEFT JOIN indicator_releases USING (permit)"
    " WHERE state = %s ORDER BY permit"
)
_ALONE: Final = "SELECT pg_try_advisory_xact_lock(hashtextextended('indicators ' || %s, 0))"
_FORGET_MARKS: Final = "DELETE FROM indicator_marks WHERE permit = %s AND period < %s RETURNING period"
_COUNT: Final = (
    "SELECT period, area, diagnosis, count(*), sum(record_key) FROM"
    " (SELECT DISTINCT period, area, diagnosis, patient FROM view_entries"
    "  CROSS JOIN LATERAL (SELECT '' UNION ALL SELECT unnest(diagnoses)) AS counted (diagnosis)"
    "  WHERE permit = %s AND period = ANY(%s)) AS members"
    " JOIN patients USING (patient) GROUP BY period, area, diagnosis"
)
_COPY: Final = "COPY indicator_cells (permit, period, area, diagnosis, people) FROM STDIN"
_RELEASED: Final = (
    "INSERT INTO indicator_releases VALUES (%s, %s) ON CONFLICT (permit) DO UPDATE SET released = EXCLUDED.released"
)
_SHOWN: Final = "SELECT count(*) FROM indicator_cells WHERE permit = %s"


class IndicatorCell(BaseModel):
    """How many people have a record in a period, in an area, with a diagnosis."""

    period: str = Field(
        description="A week (`2026-W10`), a month (`2026-03`) or a quarter (`2026-Q1`), of times in UTC."
    )
    area: str | None = Field(description="A department, `other` for none that is known, or null for everywhere.")
    diagnosis: str | None = Field(description="The first three characters of a code of ICD-10, or null for any record.")
    people: int


class Within(BaseModel):
    """How far from the people a number may be, up or down."""

    area: int = Field(description="In an area.")
    everywhere: int = Field(description="Everywhere.")


class IndicatorsShown(BaseModel):
    """What was released last. A cell that is not listed is withheld, or has nobody in it: which, is not told."""

    permit: str
    every: str
    released: str | None = Field(description="The day of the release; null before the first.")
    next: str = Field(description="The day of the next one, at which what has changed meanwhile shows.")
    within: Within
    cells: list[IndicatorCell]


def add_indicator_routes(
    app: FastAPI, reader: Reader, doors: Doors, readable: Callable[[str, Caller], Release], tell: Tell, clock: Clock
) -> None:
    """Add them to the application of access. `readable` gives a permit that its subscriber may read, or a problem."""

    @app.get("/v1/permits/{permit_id}/indicators", summary="Read indicators", **_INDICATORS)
    def read_indicators(permit_id: PermitId, subscriber: Caller = Depends(doors.is_subscriber)) -> IndicatorsShown:
        """Counts of people, as they were released last; small ones are withheld, the others perturbed and rounded."""
        permit = readable(permit_id, subscriber).policy.permit
        if permit.indicators is None:
            raise ProblemError(404, "the permit has no indicators", "It has no clause `indicators`.")
        every = permit.indicators.every
        released, cells = reader.indicators(permit_id)
        by = audit.actor("subscriber", subscriber.name)
        tell(audit.leaf("indicators-read", by, clock(), permit=permit_id, count=len(cells)))
        return IndicatorsShown(
            permit=permit_id,
            every=every,
            released=released.isoformat() if released else None,
            next=follows(every, clock().date()).isoformat(),
            within=Within(area=within(1), everywhere=within(len(areas_of(permit)))),
            cells=[
                IndicatorCell(
                    period=period_name(every, one.period),
                    area=one.area or None,
                    diagnosis=one.diagnosis or None,
                    people=one.people,
                )
                for one in cells
            ],
        )


_INDICATORS: Final[dict[str, Any]] = {
    "response_description": "The cells that are shown.",
    "responses": problems(
        {
            401: GUARDED[401],
            403: "It is for subscribers, or the permit is closed, has expired or is not yet open.",
            404: "No permit of this id names you, or it has no indicators.",
            422: "The id is not of its form.",
            503: "The permit cannot be used, or the database or the broker does not answer: try again later.",
        }
    ),
}
