"""Erasing people: what is held of them, what is in views, and what would let a record about them in again."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

from runtime.messages import Message, Outputs
from services.access.adapters import History
from services.access.reconciliation import Reconciler, Release, Work
from services.access.vault import Vault

log = logging.getLogger("estuaire.access")


class Eraser:
    """Works within the loop's transaction, while no other batch is under way."""

    def __init__(self, history: History, vault: Vault, views: Reconciler) -> None:
        self._history = history
        self._vault = vault
        self._views = views

    def erase(
        self, subjects: Collection[bytes], cause: Message, releases: Sequence[Release], outputs: Outputs
    ) -> list[bytes]:
        """Forget these subjects, withdraw their records from all views, and return the records' event ids.

        `releases` are those of all permits that can be used, the expired ones too: of such a view records are withdrawn
        and nothing else is changed. Of each record the event id and the revision are kept, under no subject, so that to
        send it again changes nothing. Who objects stays known by that (and has no key), so that it holds.
        """
        self._history.mark_erased(subjects)
        known = self._history.find_known(subjects)
        claimed = self._history.claim(dict.fromkeys(known, ""), ())
        gone = [claimed.pop(subject) for subject in sorted(known)]
        event_ids = self._history.erase(known)
        patients = {one.patient for one in gone}
        self._views.reconcile(releases, Work(claimed, cause, patients=patients), outputs)
        called_after_them = {one.hex() for one in subjects}
        if left := self._history.sweep(event_ids, patients | called_after_them):
            log.error("%d erased records stay in the topics of views whose permits cannot be used", left)
        self._vault.forget([one.key for one in gone if one.key is not None])
        return event_ids
