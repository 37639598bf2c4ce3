"""The rule version: everything that decisions depend on beside the two subjects. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import inf, isfinite
from typing import Final

import msgspec

from services.linkage.domain.comparison import LEVELS
from services.linkage.domain.scoring import DEFAULT, Weights
from services.linkage.domain.tokens import BLOCKING, rule_of


class RuleVersion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What decisions depend on beside the pair; never changed, only followed by another version.

    Weights are in bits. A pair that shares no identifier is linked from `link` on, if the odds against relatives alone
    are `link_kin` at least; from `link_contradicted` on where a name or the birth date is another (or only a second
    given name is the same, and the date not quite) and the address does not agree (a city has many of one name); from
    `link_nameless` on where no name is compared and the whole address agrees. It is put to a steward from `review` on,
    and kept as two of one household from `household` on. A pair that shares a number against which the person's own
    traits speak is linked from `link_against` on. Of two scored links to people who must not meet, neither holds where
    their weights differ by less than `margin`.

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

    def lifts(self, before: RuleVersion) -> bool:
        """Whether some token that was too common under the version before may not be under this one."""
        limits = ("most_births", "most_holders", "most_identities", "most_in_block")
        return any(getattr(self, name) > getattr(before, name) for name in limits)

    def without(self, common: frozenset[bytes]) -> RuleVersion:
        """The same rules, where these tokens decide nothing."""
        return msgspec.structs.replace(self, too_common=self.too_common | common)


RULES: Final = RuleVersion("2026-2")
"""The version that a hub begins with."""
LARGEST: Final = 600_000
"""Bytes of a version: sealed, it has to stay under the megabyte that a message may have."""


class RulesError(ValueError):
    """No rule version: which field, and what it should be. One line."""


def to_bytes(rules: RuleVersion) -> bytes:
    """A version as it travels and is kept: the same version, the same bytes."""
    names = dict(sorted(rules.weights.frequent_names.items()))
    fields = msgspec.structs.asdict(rules) | {
        "weights": msgspec.structs.replace(rules.weights, frequent_names=names),
        "too_common": sorted(rules.too_common),
    }
    return msgspec.msgpack.encode(fields)


def from_bytes(body: bytes) -> RuleVersion:
    """A version that travelled. Raises RulesError."""
    if len(body) > LARGEST:
        raise RulesError(f"no more than {LARGEST:,} bytes: leave the rarest of frequent_names and too_common out")
    try:
        rules = msgspec.msgpack.decode(body, type=RuleVersion)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RulesError(f"no rule version: {error}") from None
    return checked(rules)


def changed(rules: RuleVersion, name: str, values: Mapping[str, float]) -> RuleVersion:
    """A version of another name with other thresholds or limits. Raises RulesError."""
    numbers = [one for one in RuleVersion.__struct_fields__ if isinstance(getattr(rules, one), int | float)]
    for field in values:
        if field not in numbers:
            raise RulesError(f"{field}: there is no such threshold; these are: {', '.join(numbers)}")
    limits = {field for field in values if isinstance(getattr(rules, field), int)}
    for field in limits:
        if not float(values[field]).is_integer():
            raise RulesError(f"{field}: a whole number")
    given = {field: int(value) if field in limits else value for field, value in values.items()}
    other = msgspec.structs.replace(rules, **given, name=name)
    if other.lifts(rules):
        # tokens above the former limits may be below these; those that are not are found again as they are met
        other = msgspec.structs.replace(other, too_common=frozenset())
    return checked(other)


def checked(rules: RuleVersion) -> RuleVersion:
    """The same version, if it can decide. Raises RulesError."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+_-]{0,63}", rules.name):
        raise RulesError("name: up to 64 letters, digits, and . + - _")
    for kind in ("one", "household", "twins", "strangers_by_trait"):
        given = getattr(rules.weights, kind)
        for trait, levels in LEVELS.items():
            probabilities = given.get(trait, ())
            if len(probabilities) != len(levels) or not all(0 < one <= 1 for one in probabilities):
                raise RulesError(f"weights.{kind}.{trait}: {len(levels)} probabilities above 0, up to 1")
        if unknown := given.keys() - LEVELS.keys():
            raise RulesError(f"weights.{kind}.{min(unknown)}: there is no such trait")
    for name in ("another_number", "same_number"):
        if len(given := getattr(rules.weights, name)) != 3 or not all(0 < one <= 1 for one in given):
            raise RulesError(f"weights.{name}: 3 probabilities above 0, up to 1")
    for name in ("repeats", "relatives", "strangers"):
        if not 0 < getattr(rules.weights, name) < inf:
            raise RulesError(f"weights.{name}: a number above 0")
    if not 0 < rules.weights.twin_share < 1:
        raise RulesError("weights.twin_share: a share between 0 and 1")
    for name in RuleVersion.__struct_fields__:
        value = getattr(rules, name)
        if isinstance(value, float) and not isfinite(value):
            raise RulesError(f"{name}: a number of bits")
        if isinstance(value, int) and value < (name != "most_reviews"):
            raise RulesError(f"{name}: {int(name != 'most_reviews')} or more")
    if rules.link < rules.review:
        raise RulesError("link: no lower than review, or a link would be no question and no answer")
    return rules
