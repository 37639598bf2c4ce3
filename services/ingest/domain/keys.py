"""The names of the keys that ingest loads."""

from __future__ import annotations

from typing import Final

LEVEL_1: Final = "level-1"
"""Secret 1, the same at every ingest: equal numbers have equal tokens under it."""
EVENT_ID: Final = "event-id"
DIGEST: Final = "digest"
TO_PSEUDONYM: Final = "pseudonym-public"
TO_ACCESS: Final = "access-public"
TO_STATISTICS: Final = "statistics-public"

OWN: Final = (EVENT_ID, DIGEST)
"""Each ingest may have its own. Under another's, one could work out its record ids, and try whole records."""
RECIPIENTS: Final = (TO_PSEUDONYM, TO_ACCESS, TO_STATISTICS)
"""Public keys of the services that open what it seals."""
