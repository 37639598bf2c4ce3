"""Whose records are whose: new subjects are searched and decided, components settled, and what changes is told."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

from contracts import messages
from contracts.messages import Headers, LinkReview, OppositionReach, TokenBlock
from runtime.messages import Emit, Message, Outputs
from services.linkage.adapters import Locked, Move, PatientIndex, Tally
from services.linkage.domain.candidates import Meetings, is_over
from services.linkage.domain.changes import Change, compare_partitions
from services.linkage.domain.comparison import Evidence, levels_of_all
from services.linkage.domain.components import Pair, pair_id
from services.linkage.domain.decide import Outcome, is_worth_keeping
from services.linkage.domain.oppositions import suspects
from services.linkage.domain.patients import (
    LAPSED,
    Component,
    Decided,
    Subject,
    decide_again,
    decide_pairs,
    settle,
    take_apart,
    worth_asking,
)
from services.linkage.domain.rules import RULES, RuleVersion
from services.linkage.domain.scoring import Scorer
from services.linkage.domain.tokens import identifying_tokens, is_unlinkable, search_tokens

PATIENT_LINKS: Final = "patient-links"
REVIEWS: Final = "link-reviews"
REACH: Final = "opposition-reach"


@dataclass(frozen=True, slots=True)
class Affected:
    """The subjects whose components a batch settles anew, each with the message that is its cause.

    `fresh` are searched, too. Of the subjects that retire or return (`turned`), no record is about those `deserted`,
    and one is about those `held`.
    """

    causes: Mapping[bytes, Message]
    fresh: Mapping[bytes, TokenBlock]
    deserted: Collection[bytes] = ()
    held: Collection[bytes] = ()
    turned: Collection[bytes] = ()


@dataclass(frozen=True, slots=True)
class Decisions:
    """The pairs of locked components as the rules have them.

    `kept` are all of them. Of these, the index does not have those that are `new`, or not as they are now: `revised`
    were decided under another version. `dropped` say nothing any more under this one. `lapsed` are those that share a
    token that too many carry, as they are decided without it.
    """

    kept: Sequence[Decided]
    new: Sequence[Decided]
    revised: Sequence[Decided]
    dropped: Collection[Pair]
    lapsed: Mapping[Pair, Decided]


@dataclass(frozen=True, slots=True)
class Recomputed:
    """A component after the batch: who is whose and which links guards hold back, what that changes, whom to ask."""

    cause: Message
    component: Component
    changes: Sequence[Change]
    reviews: Sequence[LinkReview]
    more: Tally


class Linker:
    """Linkage on an index, under one rule version at a time."""

    def __init__(self, index: PatientIndex, *, hot_partitions: int = 2, slot: int = 0) -> None:
        self._index = index
        self._hot_partitions = hot_partitions
        self._slot = slot
        self.rules, self._scorer = RULES, Scorer(RULES.weights)

    def use(self, rules: RuleVersion) -> None:
        """Decide under this version from now on."""
        if rules is not self.rules:
            self.rules, self._scorer = rules, Scorer(rules.weights)

    def settle(self, affected: Affected, outputs: Outputs) -> dict[bytes, bytes]:
        """The patient of every subject of the components that are affected.

        Pairs of these components that were decided under another version are decided again, by the evidence kept.
        """
        pairs, crowded = self._find_pairs(affected.fresh, outputs)
        locked = self._index.lock_components({*affected.causes, *chain.from_iterable(pairs), *crowded})
        stands = {
            subject: one._replace(
                retired=subject in affected.deserted or (one.retired and subject not in affected.held)
            )
            for subject, one in locked.subjects.items()
        }
        decisions, rules = self._decide_all(locked, stands, pairs)
        recomputed = self._recompute(affected.causes, locked, stands, decisions, rules)
        self._keep_edges(recomputed, locked, decisions)
        self._keep_patients(recomputed, stands, affected, outputs)
        self._ask_stewards(recomputed, outputs)
        self._withhold(recomputed, locked, stands, decisions, affected.causes, outputs)
        return {subject: patient for one in recomputed for subject, patient in one.component.patients.items()}

    # pairs

    def _find_pairs(
        self, fresh: Mapping[bytes, TokenBlock], outputs: Outputs
    ) -> tuple[dict[Pair, Evidence], set[bytes]]:
        """Each new subject with everybody who carries one of its tokens (unless too many do) and may be the same.

        Beside the pairs, those who carry a token that has just become too common: it no longer links them either.
        """
        tokens = {subject: search_tokens(block) for subject, block in fresh.items()}
        systems = {token: system for own in tokens.values() for token, system in own.items()}
        common = self._index.find_common(systems) | self.rules.too_common
        holders = self._index.search([token for token in systems if token not in common])
        over = {token for token, who in holders.items() if is_over(self.rules, systems[token], who)}
        self._index.mark_common(over)
        common |= over
        identifying = {subject: identifying_tokens(block).keys() for subject, block in fresh.items()}
        for subject, own in identifying.items():
            if not common.isdisjoint(own):
                outputs.count(fresh[subject].source, "too_common")
        meetings = Meetings({subject: own.keys() - common for subject, own in tokens.items()}, holders)
        pairs = meetings.worth_deciding(set().union(*identifying.values()), self.rules, self._scorer)
        return pairs, {subject for token in over for subject in holders[token].subjects()}

    def _decide_all(
        self, locked: Locked, stands: Mapping[bytes, Subject], pairs: Mapping[Pair, Evidence]
    ) -> tuple[Decisions, RuleVersion]:
        """The pairs of the locked components, and the rules without the tokens that too many of them carry."""
        held = {subject: search_tokens(one.block).keys() for subject, one in stands.items()}
        carriers = Counter(chain.from_iterable(held.values()))
        common = self._index.find_common(token for token, count in carriers.items() if count > 1)
        rules = self.rules.without(common)
        stale = [one for one in locked.decided if one.rules != rules.name]
        found = self._found_again(stale, stands, rules)
        revised = [one for one in found if is_worth_keeping(one.decision)]
        dropped = {one.pair for one in stale} - {one.pair for one in revised}
        known = {one.pair for one in locked.decided}
        # one who was not there when these components were copied has tokens all the same
        unknown = {pair: seen for pair, seen in pairs.items() if pair not in known and stands.keys() >= set(pair)}
        new = [one for one in decide_pairs(unknown, stands, rules) if is_worth_keeping(one.decision)]
        same = [one for one in locked.decided if one.rules == rules.name]
        shared = [one for one in same if common and not common.isdisjoint(held[one.left] & held[one.right])]
        lapsed = {one.pair: one for one in decide_again(shared, stands, rules)}
        return Decisions([*same, *revised, *new], new, revised, dropped, lapsed), rules

    def _found_again(
        self, stale: Sequence[Decided], stands: Mapping[bytes, Subject], rules: RuleVersion
    ) -> list[Decided]:
        """Pairs of another version as this one decides them; without those that a search under it would not find."""
        if not stale:
            return []
        levels = levels_of_all([one.decision.evidence for one in stale])
        alike = self._scorer.reach(levels, rules.review, rules.household)
        numbers = {it: identifying_tokens(stands[it].block).keys() for it in {it for one in stale for it in one.pair}}
        found = [
            one
            for one, near in zip(stale, alike.tolist(), strict=True)
            if near or (numbers[one.left] & numbers[one.right]) - rules.too_common
        ]
        return decide_again(found, stands, rules)

    # components

    def _recompute(
        self,
        causes: Mapping[bytes, Message],
        locked: Locked,
        stands: Mapping[bytes, Subject],
        decisions: Decisions,
        rules: RuleVersion,
    ) -> list[Recomputed]:
        """Every component the batch touches, in the order in which the batch touches them.

        `stands` are the subjects as the batch leaves them.
        """
        order = {subject: place for place, subject in enumerate(causes)}
        ages = {subject: one.seq for subject, one in stands.items()}
        parts, between = take_apart(stands, decisions.kept, locked.stewards)
        outward: defaultdict[bytes, list[Decided]] = defaultdict(list)
        for one in between:
            outward[max(one.pair, key=ages.__getitem__)].append(one)
        asked = {one.pair for one in locked.decided if one.guard or one.decision.outcome is Outcome.REVIEW}
        asked |= {(one.left, one.right) for one in locked.stewards}
        found = []
        last = max(causes, key=order.__getitem__)
        for part in parts:
            first = min((it for it in part.members if it in order), key=order.__getitem__, default=None)
            own = [decisions.lapsed.get(one.pair, one) for one in part.decided]
            beyond = [one for it in part.members for one in outward.get(it, ())]
            before = {it: locked.subjects[it].patient for it in part.members}
            alone = len(before) == 1 and all(patient in (None, it) for it, patient in before.items())
            if alone and first is None and not own and not beyond:
                continue
            inside = {it: stands[it] for it in part.members}
            settled = settle(inside, own, part.stewards, rules)
            doubts = (
                one
                for one in (*own, *beyond)
                if one.pair not in asked and not any(stands[it].retired for it in one.pair)
            )
            questions = worth_asking(doubts, settled.patients, settled.guards, ages, rules.most_reviews)
            reviews = [
                LinkReview(
                    *one.pair, settled.guards.get(one.pair, one.decision.reason), one.decision.evidence, rules.name
                )
                for one in questions
            ]
            changes = compare_partitions(before, settled.patients)
            more = _tally(locked.subjects, inside, settled.patients)
            found.append((order[first or last], Recomputed(causes[first or last], settled, changes, reviews, more)))
        return [one for _, one in sorted(found, key=lambda it: it[0])]

    # what is kept and told

    def _keep_edges(self, recomputed: Sequence[Recomputed], locked: Locked, decisions: Decisions) -> None:
        guards = {
            one.pair: LAPSED
            for one in decisions.kept
            if one.links and one.pair in decisions.lapsed and not decisions.lapsed[one.pair].links
        }
        for one in recomputed:
            guards |= one.component.guards
        new, revised = (
            [one._replace(guard=guards.get(one.pair, "")) for one in some]
            for some in (decisions.new, decisions.revised)
        )
        turned = {
            one.pair: guards.get(one.pair, "")
            for one in locked.decided
            if one.rules == self.rules.name and one.guard != guards.get(one.pair, "")
        }
        self._index.write_edges(new, revised, turned)
        self._index.drop_edges(decisions.dropped)

    def _keep_patients(
        self,
        recomputed: Sequence[Recomputed],
        stands: Mapping[bytes, Subject],
        affected: Affected,
        outputs: Outputs,
    ) -> None:
        """Write who is whose, and tell it to the partition of every patient affected, in the order of versions."""
        changes = [(one.cause, change) for one in recomputed for change in one.changes]
        versions = self._index.next_link_versions(len(changes)) if changes else []
        patients = {subject: patient for one in recomputed for subject, patient in one.component.patients.items()}
        moved: dict[bytes, int | None] = {
            subject: None for subject in (*affected.fresh, *affected.turned) if subject in patients
        }
        for (cause, change), version in zip(changes, versions, strict=True):
            moved |= dict.fromkeys(change.subjects, version)
            value = messages.encode(change.link(version))
            partitions = {self._partition(patient): patient for patient in reversed(change.patients)}
            for number, patient in partitions.items():
                outputs.emit(cause, Emit(PATIENT_LINKS, patient.hex().encode(), value, partition=number))
        self._index.move(
            [
                Move(subject, patients[subject], version, subject in affected.fresh, stands[subject].retired)
                for subject, version in sorted(moved.items())
            ]
        )
        more = zip(*(one.more for one in recomputed), strict=True)
        self._index.count(self._slot, Tally(*(sum(column) for column in more)))

    def _ask_stewards(self, recomputed: Sequence[Recomputed], outputs: Outputs) -> None:
        for one in recomputed:
            source = one.cause.headers.get(Headers.SOURCE, b"").decode("utf-8", "replace")
            for review in one.reviews:
                key = pair_id((review.left, review.right)).encode()
                outputs.emit(one.cause, Emit(REVIEWS, key, messages.encode(review)))
                outputs.count(source, "reviews")

    def _withhold(
        self,
        recomputed: Sequence[Recomputed],
        locked: Locked,
        stands: Mapping[bytes, Subject],
        decisions: Decisions,
        causes: Mapping[bytes, Message],
        outputs: Outputs,
    ) -> None:
        """Tell whom the oppositions in these components withhold besides their own patients, where that has changed."""
        opposed = self._index.find_opposed(stands)
        if not opposed:
            return
        patients = {subject: one.patient or subject for subject, one in stands.items()}
        guards: dict[Pair, str] = {}
        for one in recomputed:
            patients |= one.component.patients
            guards |= one.component.guards
        kept = (decisions.lapsed.get(one.pair, one) for one in decisions.kept)
        doubts = [one.pair for one in kept if one.decision.outcome is Outcome.REVIEW or one.pair in guards]
        apart = {(one.left, one.right) for one in locked.stewards if not one.together}
        found = suspects(opposed, patients, doubts, apart)
        before = self._index.find_suspects(opposed)
        changed = {subject: who for subject, who in found.items() if who != before.get(subject, frozenset())}
        if not changed:
            return
        self._index.keep_suspects(changed)
        cause = next(iter(causes.values()))
        versions = self._index.next_link_versions(len(changed))
        for (subject, who), version in zip(sorted(changed.items()), versions, strict=True):
            value = messages.encode(OppositionReach(subject, version, tuple(sorted(who))))
            outputs.emit(causes.get(subject, cause), Emit(REACH, subject.hex().encode(), value))

    def _partition(self, patient: bytes) -> int:
        return int(patient.hex()[:8], 16) % self._hot_partitions


def _tally(before: Mapping[bytes, Subject], stands: Mapping[bytes, Subject], patients: Mapping[bytes, bytes]) -> Tally:
    """How many more there are in a component. A patient counts while a record is about one of its subjects."""
    joined = [subject for subject in stands if before[subject].patient is None]
    existed = {before[subject].patient for subject in stands if not before[subject].retired} - {None}
    return Tally(
        subjects=len(joined),
        patients=len({patients[subject] for subject, one in stands.items() if not one.retired}) - len(existed),
        unlinkable=sum(is_unlinkable(stands[subject].block) for subject in joined),
    )
