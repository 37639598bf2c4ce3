"""The audit log as its writers and its readers agree on it: the acts, and a leaf for each."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from typing import Final

from contracts.merkle import root_of
from contracts.messages import AuditLeaf, encode

AUDIT: Final = "audit"
"""The topic."""

ACTS: Final = {
    # what a batch did to the view of a permit
    "released": "Records were put into the view of the permit.",
    "withdrawn": "Records were taken out of the view of the permit.",
    "withheld": "Records that the permit allows were kept out of its view, because of an opposition.",
    "patients-merged": "The view was told that two of its patients are one.",
    "patients-split": "The view was told that one of its patients is two.",
    # permits and their keys
    "permit-granted": "A permit was granted.",
    "permit-grant-refused": "A grant was refused: its id is taken by another definition, or was closed.",
    "permit-narrowed": "A permit allows less; `count` entries left its view, which is filled again.",
    "permit-suspended": "A permit was suspended: `count` entries left its view, and nothing leaves under it.",
    "permit-resumed": "A suspended permit is in force again, and its view is filled.",
    "permit-closed": "A permit was closed, and its key destroyed; `count` entries left its view.",
    "permit-key-derived": "The key of a permit was derived from the root and wrapped to access.",
    "permit-tried": "An officer asked what a permit would release; `count` people were looked at.",
    # reading by somebody
    "view-read": "A subscriber read a page of the view over HTTP.",
    "indicators-released": "Indicators of the permit were released, of which `count` cells show; `about` is the day.",
    "indicators-read": "A subscriber read the indicators of the permit.",
    "record-traced": "An operator asked where a record is; `about` says which service.",
    # acts on everybody's data
    "opposition-applied": "Oppositions were made or lifted: access has them.",
    "request-read": "An officer read a person's request, with what is held of them and where it went.",
    "request-answered": "An officer has told a person what they asked for, or that they are erased.",
    "request-refused": "An officer has refused a person's request.",
    "request-extended": "An officer takes two months more for a person's request.",
    "person-erased": "An officer erased a person; the ids are those of the records that were theirs.",
    "project-step": "A step in the life of a call or a project, named in `about`.",
    "link-decided": "A steward said of two subjects whether they are one person: what, in `about`, and after whom.",
    "link-proposed": "A steward said so where that takes two, and nobody else has yet: what, in `about`.",
    "link-doubted": "A steward could not say of two subjects whether they are one person.",
    "link-taken-back": "A steward took back what they had said of two subjects, which was not in force.",
    "rules-switched": "An operator let another rule version decide, named in `about`.",
    "dead-letters-replayed": "An operator sent dead letters of the topic in `about` round again.",
    # the log's own
    "unreadable": "Something on the topic was no leaf; `root` is the SHA-256 of its bytes.",
}
"""What is told of, and what each says. A newer writer may tell of more."""

LONGEST: Final = 256
"""Characters that a name in a leaf may have."""


def actor(role: str, name: str) -> str:
    """Who acted, as leaves name it: as what, and who.

    The role is `service`, or that of a token (`officer`, `steward` ...).
    """
    return f"{role}:{name}"[:LONGEST]


def leaf(
    act: str,
    by: str,
    at: dt.datetime,
    *,
    permit: str | None = None,
    ids: Collection[str] | None = None,
    count: int = 0,
    about: str = "",
) -> AuditLeaf:
    """What is told of an act. `ids` are keyed ids or the hub's, of which the leaf keeps the number and the root alone;
    where there are none to give, `count` stands for itself and `root` is empty.

    Raises ValueError where there is no such act.
    """
    if act not in ACTS:
        raise ValueError(f"there is no act {act} in the audit log")
    moment = at.astimezone(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    counted, root = (count, b"") if ids is None else (len(ids), root_of(ids))
    return AuditLeaf(moment, by, act, permit, counted, root, about[:LONGEST])


def message(one: AuditLeaf) -> tuple[str, bytes, bytes]:
    """The topic, key and value by which a leaf is written."""
    return AUDIT, one.actor.encode(), encode(one)


def replayed(by: str, topic: str, count: int) -> tuple[str, bytes, bytes]:
    """What is told of dead letters that an operator sent round again: the leaf as `message` has it."""
    now = dt.datetime.now(dt.UTC)
    return message(leaf("dead-letters-replayed", actor("operator", by), now, count=count, about=topic))
