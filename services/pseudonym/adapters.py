"""Where pseudonym gets its keys: the one place that reads them."""

from __future__ import annotations

from runtime.keys import KeyStore
from runtime.sealing import Opener, Sealer
from services.pseudonym.domain import SecondLevel
from services.pseudonym.handlers import Pseudonymise


def step_from(keys: KeyStore, topic_prefix: str) -> Pseudonymise:
    """The step with its keys. Raises runtime.keys.KeyUnavailable."""
    return Pseudonymise(
        second_level=SecondLevel(keys.secret("level-2")),
        permit_root=keys.secret("permit-root"),
        opener=Opener(keys.private("pseudonym-private")),
        to_linkage=Sealer(keys.public("linkage-public")),
        to_access=Sealer(keys.public("access-public")),
        topic_prefix=topic_prefix,
    )
