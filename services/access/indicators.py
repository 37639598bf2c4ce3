"""Indicators: counted and released when a period is over, and read over HTTP as they were released last."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Annotated, Any, Final

import psycopg
from fastapi import Depends, FastAPI, Path, Query
from pydantic import BaseModel, Field

from contracts import audit, messages
from contracts.permits import PERMIT_ID, Every, Permit, PermitError
from runtime.http import ProblemError, problems
from runtime.oidc import GUARDED, Caller
from services.access.adapters import OPEN, StoredPermit
from services.access.authorization import Doors
from services.access.domain.indicators import (
    ANY,
    EVERYWHERE,
    HEAVIEST,
    LIGHTEST,
    Cell,
    Count,
    begins,
    cells,
    deviation,
    follows,
    period_name,
)
from services.access.lookup import in_utc
from services.access.pages import Pages
from services.access.reconciliation import ACCESS, Release, release_from
from services.access.vault import KeyBroken, Vault

Clock = Callable[[], dt.datetime]
PermitId = Annotated[str, Path(pattern=PERMIT_ID, description="The permit's `id`.")]
Tell = Callable[[messages.AuditLeaf], None]
Area = Annotated[
    str | None, Query(max_length=10, description="One alone: a department, `other`, or `everywhere`; all if absent.")
]
Diagnosis = Annotated[
    str | None, Query(max_length=10, description="One alone: three characters of ICD-10, or `any`; all if absent.")
]


class Releaser:
    """Releases the indicators of each permit once its period is over; of several processes one does."""

    def __init__(self, url: str, vault: Vault, tell: Tell, clock: Clock) -> None:
        self._url = url
        self._vault = vault
        self._tell = tell
        self._clock = clock

    def release_due(self) -> list[str]:
        """Release what is due; returns of which permits.

        Raises psycopg.Error and BrokerAway: what cannot be told is not released.
        """
        options = f"{in_utc(self._url)} -c idle_in_transaction_session_timeout=60s"
        with psycopg.connect(self._url, connect_timeout=5, options=options, autocommit=True) as connection:
            (is_alone,) = connection.execute("SELECT pg_try_advisory_lock(%s)", [_GATE]).fetchone() or (False,)
            if not is_alone:
                return []
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            names = [name for (name,) in connection.execute(_OPEN, [OPEN])]
            return [name for name in names if self._release(connection, name)]

    def _open(self, stored: StoredPermit) -> Permit | None:
        """The permit, if it is open and usable: one that is not releases nothing, and has its alarm elsewhere."""
        if stored.state != OPEN:
            return None
        try:
            return release_from(stored, self._vault).policy.permit
        except (PermitError, KeyBroken):
            return None

    def _release(self, connection: psycopg.Connection[Any], name: str) -> bool:
        """Count the periods again that batches have marked, and show what may be shown of them instead of what was.

        Nothing is locked while it is counted and told: a permit may be closed or changed meanwhile, and has none then.
        """
        with connection.transaction():
            row = connection.execute(_PERMIT, [name]).fetchone()
            stored, released = (StoredPermit(*row[:6]), row[6]) if row else (None, None)
            permit = self._open(stored) if stored else None
            if stored is None or permit is None or permit.indicators is None:
                return False
            day = _next(permit.indicators.every, released, stored.granted, self._clock())
            if day > min(self._clock().date(), permit.expires):
                return False
            (seen,) = connection.execute("SELECT pg_current_snapshot()::text").fetchone() or ("",)
            marked = [period for (period,) in connection.execute(_MARKED, [name, day])]
            exempt = permit.opposition_exemption is not None
            asked = {"permit": name, "periods": marked, "exempt": exempt, "cohort": permit.cohort}
            rows = connection.execute(_COUNT, asked)
            counts = [Count(period, area, code, int(weight), int(key)) for period, area, code, weight, key in rows]
            before = [Cell(*one) for one in connection.execute(_CELLS, [name, marked])]
        now = list(cells(permit, counts, {one.place(): one.people for one in before}))
        about = day.isoformat()
        self._tell(audit.leaf("indicators-released", ACCESS, self._clock(), permit=name, count=len(now), about=about))
        with connection.transaction(), connection.cursor() as cursor:
            if cursor.execute(_HOLD, [name, OPEN, stored.revision]).fetchone() is None:
                return False
            cursor.execute(_FORGET_MARKS, [name, day, seen])
            cursor.execute("DELETE FROM indicator_cells WHERE permit = %s AND period = ANY(%s)", [name, marked])
            with cursor.copy(_COPY) as copy:
                for cell in now:
                    copy.write_row((name, *cell))
            cursor.execute(_RELEASED, [name, day])
        return True


def _next(every: Every, released: dt.date | None, granted: str | None, now: dt.datetime) -> dt.date:
    """The day of the next release: the first of this period while it is not done, else the first of the next one."""
    today = begins(every, now.date())
    try:
        last = released or dt.date.fromisoformat((granted or "")[:10])
    except ValueError:
        last = now.date()
    return today if last < today else follows(every, today)


_GATE: Final = 4053021
_SPREAD: Final = HEAVIEST - LIGHTEST + 1
_OPEN: Final = "SELECT permit FROM permits WHERE state = %s ORDER BY permit"
_PERMIT: Final = (
    "SELECT permit, definition, granted, key, state, revision, released FROM permits"
    " LEFT JOIN indicator_releases USING (permit) WHERE permit = %s"
)
_MARKED: Final = "SELECT DISTINCT period FROM indicator_marks WHERE permit = %s AND period < %s ORDER BY period"
_FORGET_MARKS: Final = (
    "DELETE FROM indicator_marks WHERE permit = %s AND period < %s AND pg_visible_in_snapshot(written, %s::pg_snapshot)"
)
_COUNT: Final = (
    "WITH objecting AS MATERIALIZED (SELECT patient, withholds FROM opposed)"  # noqa: S608 - constants alone
    f" SELECT period, area, diagnosis, sum({LIGHTEST} + mod(mod(record_key, {_SPREAD}) + {_SPREAD}, {_SPREAD})),"
    " sum(record_key) FROM"
    " (SELECT DISTINCT period, area, diagnosis, patient FROM view_entries e"
    "  CROSS JOIN LATERAL (SELECT '' UNION ALL SELECT unnest(e.diagnoses)) AS counted (diagnosis)"
    "  WHERE permit = %(permit)s AND period = ANY(%(periods)s) AND (%(exempt)s OR NOT EXISTS"
    "   (SELECT FROM objecting o WHERE o.patient = e.patient AND o.withholds IN"
    "    ('*', %(cohort)s, (SELECT source FROM history h WHERE h.event_id = e.event_id))))) AS members"
    " JOIN patients USING (patient) GROUP BY period, area, diagnosis"
)
"""As on every page, whoever objects is left out once more, should a view have missed it."""
_CELLS: Final = "SELECT period, area, diagnosis, people FROM indicator_cells WHERE permit = %s AND period = ANY(%s)"
_COPY: Final = "COPY indicator_cells (permit, period, area, diagnosis, people) FROM STDIN"
_HOLD: Final = "SELECT 1 FROM permits WHERE permit = %s AND state = %s AND revision = %s FOR SHARE"
_RELEASED: Final = (
    "INSERT INTO indicator_releases VALUES (%s, %s) ON CONFLICT (permit) DO UPDATE SET released = EXCLUDED.released"
)


class IndicatorCell(BaseModel):
    """How many people have a record in a period, in an area, with a diagnosis."""

    period: str = Field(
        description="A week (`2026-W10`), a month (`2026-03`) or a quarter (`2026-Q1`), of times in UTC."
    )
    area: str | None = Field(description="A department, `other` for none that is known, or null for everywhere.")
    diagnosis: str | None = Field(description="The first three characters of a code of ICD-10, or null for any record.")
    people: int = Field(description="A multiple of 5; at least 11 people are behind it.")
    deviation: float = Field(description="The standard deviation of this number from the people, in people.")


class IndicatorsShown(BaseModel):
    """What was released last. A cell that is not listed is withheld, or has nobody in it: which, is not told."""

    permit: str
    every: str
    released: str | None = Field(description="The day of the release; null before the first.")
    next: str | None = Field(
        description="The day of the next one, at which what changed meanwhile shows; null if the permit ends before."
    )
    cells: list[IndicatorCell]


def add_indicator_routes(
    app: FastAPI, pages: Pages, doors: Doors, readable: Callable[[str, Caller], Release], tell: Tell, clock: Clock
) -> None:
    """Add them to the application of access. `readable` gives a permit that its subscriber may read, or a problem."""

    @app.get("/v1/permits/{permit_id}/indicators", summary="Read indicators", **_INDICATORS)
    def read_indicators(
        permit_id: PermitId,
        area: Area = None,
        diagnosis: Diagnosis = None,
        subscriber: Caller = Depends(doors.is_subscriber),
    ) -> IndicatorsShown:
        """Counts of people, as they were released last; small ones are withheld, the others perturbed and rounded."""
        release = readable(permit_id, subscriber)
        permit = release.policy.permit
        if permit.indicators is None:
            raise ProblemError(404, "the permit has no indicators", "It has no clause `indicators`.")
        every = permit.indicators.every
        released, shown = pages.indicators(
            release, EVERYWHERE if area == "everywhere" else area, ANY if diagnosis == "any" else diagnosis
        )
        following = _next(every, released, release.granted, clock())
        by = audit.actor("subscriber", subscriber.name)
        tell(audit.leaf("indicators-read", by, clock(), permit=permit_id, count=len(shown)))
        readable(permit_id, subscriber)  # unless it has ended meanwhile
        return IndicatorsShown(
            permit=permit_id,
            every=every,
            released=released.isoformat() if released else None,
            next=following.isoformat() if following <= permit.expires else None,
            cells=[
                IndicatorCell(
                    period=period_name(every, one.period),
                    area=one.area or None,
                    diagnosis=one.diagnosis or None,
                    people=one.people,
                    deviation=round(deviation(one.people), 1),
                )
                for one in shown
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
