"""The rule version: everything that decisions depend on beside the two subjects. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

from services.linkage.domain.scoring import DEFAULT, Weights
from services.linkage.domain.tokens import BLOCKING, rule_of


class RuleVersion(msgspec.Struct, frozen=True):
    """What decisions depend on beside the pair; never changed, only followed by another version.

    Weights are in bits. A pair that shares no identifier is linked from `link` on, if the odds against relatives alone
    are `link_kin` at least; from `link_contradicted` on where a name or the birth date is another and the address does
    not agree (a city has many of one name); from `link_nameless` on where no name is compared and the whole address
    agrees. It is put to a steward from `review` on, and kept as two of one household from `household` on. A pair that
    shares a number against which the person's own traits speak is linked from `link_against` on. Of two scored links to
    people who must not meet, neither holds where their weights differ by less than `margin`.

    `too_common` are tokens that decide nothing, from the start. A number of subjects with more than `most_births`
    different birth dates (a filler such as "INCONNU" for a number), or a token of more subjects than `most_holders`
    (`most_identities` for a NIR or NIA, `most_in_block` for a blocking token), decides nothing either, from then on and
    on those that it had linked. `most_reviews` is how many pairs are put to stewards per new subject.
    """

    name: str
    weights: Weights = DEFAULT
    link: float = 1.0
    link_nameless: float = 5.5
    link_contradicted: float = 6.5
    link_kin: float = 4.5
    link_against: float = 6.0
    review: float = -2.0
    household: float = 4.0
    margin: float = 4.0
    too_common: frozenset[bytes] = frozenset()
    most_births: int = 8
    most_holders: int = 50
    most_identities: int = 200
    most_in_block: int = 100
    most_reviews: int = 5

    def most(self, system: str) -> int:
        """How many subjects may carry one token of this system."""
        if system in BLOCKING:
            return self.most_in_block
        return self.most_identities if rule_of(system).alone_if_qualified else self.most_holders

    def without(self, common: frozenset[bytes]) -> RuleVersion:
        """The same rules, where these tokens decide nothing."""
        return msgspec.structs.replace(self, too_common=self.too_common | common)


RULES: Final = RuleVersion("2026-1")
"""The version that a hub begins with."""
