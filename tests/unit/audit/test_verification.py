"""Whatever is done to a log of 10,000 entries is found, and where.

What is done is tried from the checkpoint before it on, which gives what a verification from the first entry gives
(`test_to_go_on_from_a_checkpoint_is_to_begin_anew`). `make audit` tries every bit and every exchange of two entries.
"""

from __future__ import annotations

import datetime as dt
import os
import random
from collections.abc import Iterable, Iterator
from itertools import chain, combinations

import msgspec
import pytest

from contracts.audit import leaf
from contracts.merkle import leaf_hash
from services.audit.domain.checkpoints import Checkpoint, Signer, Verifier
from services.audit.domain.entries import Entry, line_of
from services.audit.domain.verification import Finding, Signed, Stored, Verification, opened

pytestmark = pytest.mark.unit

SIZE, EVERY = 10_000, 16
WHOLE = os.environ.get("ESTUAIRE_AUDIT_WHOLE") == "1"
PART, PARTS = map(int, os.environ.get("ESTUAIRE_AUDIT_PART", "0/1").split("/"))
"""Of the whole, one part of so many: several processes share it."""
SAMPLE = 4_000
AT = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
Findings = list[Finding]


def line(number: int) -> bytes:
    acts = ("released", "withdrawn", "view-read", "link-decided")
    moment = AT + dt.timedelta(seconds=number)
    told = leaf(acts[number % 4], "service:access", moment, permit="cardio", ids=[f"{number:032x}"])
    return line_of(number, told, f"0@{number * 2}")


def stored(number: int, text: bytes) -> Stored:
    return Stored(number, text, leaf_hash(text))


class Log:
    """A log with a checkpoint after every 16 entries, and a verification as it is before each entry."""

    def __init__(self, size: int) -> None:
        self.entries = [stored(number, line(number)) for number in range(size)]
        growing = Verification.begin([])
        signed = []
        for one in self.entries:
            growing.add(one)
            if growing.tree.size % EVERY == 0 or growing.tree.size == size:
                head = Checkpoint("log", growing.tree.size, growing.tree.root(), AT)
                signed.append(Signed(head, "the second place"))
        self.signed = signed
        self.before = [Verification.begin(signed)]
        for one in self.entries:
            self.before.append(self.before[-1].copy())
            self.before[-1].add(one)
        assert self.before[-1].copy().finish() == []

    def with_changed(self, at: int, entries: Iterable[Stored]) -> Findings:
        """What is found first, where from one entry on there are these."""
        verification = self.before[at].copy()
        for one in entries:
            verification.add(one)
            if verification.findings:
                return verification.findings
        return verification.finish()

    def from_scratch(self, at: int, entries: Iterable[Stored]) -> Findings:
        verification = Verification.begin(self.signed)
        for one in chain(self.entries[:at], entries):
            verification.add(one)
        return verification.finish()


@pytest.fixture(scope="module")
def log() -> Log:
    return Log(SIZE)


def bits_of(texts: list[bytes]) -> Iterator[tuple[int, int]]:
    """Every bit of these, or a sample, as (which, bit)."""
    if WHOLE:
        mine = ((number, text) for number, text in enumerate(texts) if number % PARTS == PART)
        yield from ((number, bit) for number, text in mine for bit in range(len(text) * 8))
        return
    made = random.Random(1)
    for _ in range(SAMPLE):
        number = made.randrange(len(texts))
        yield number, made.randrange(len(texts[number]) * 8)


def says_that(found: Findings, kind: str, number: int) -> bool:
    """Whether the first finding is of this kind and names the entry, or the entries between two checkpoints with it."""
    if not found or found[0].kind != kind:
        return False
    if kind == "changed":
        return found[0].number == number // EVERY * EVERY
    return found[0].number == number


def flipped(data: bytes, bit: int) -> bytes:
    return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


def test_every_bit_of_every_entry(log: Log) -> None:
    """Edited alone, or together with the hash that is kept of it."""
    for number, bit in bits_of([one.line for one in log.entries]):
        one = log.entries[number]
        line = flipped(one.line, bit)
        found = log.with_changed(number, chain([one._replace(line=line)], log.entries[number + 1 :]))
        assert says_that(found, "edited", number) or says_that(found, _moved(line, number), number), (number, bit)
        found = log.with_changed(number, chain([stored(number, line)], log.entries[number + 1 :]))
        assert says_that(found, "changed", number) or says_that(found, _moved(line, number), number), (number, bit)


def _moved(line: bytes, number: int) -> str:
    """What is said of an entry in whose number a bit was changed."""
    try:
        says = msgspec.json.decode(line, type=Entry).number
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return "none"
    return "none" if says == number else "reordered" if says < number else "missing or reordered"


def test_every_bit_of_every_hash(log: Log) -> None:
    for number, bit in bits_of([one.hashed for one in log.entries]):
        one = log.entries[number]
        assert says_that(log.with_changed(number, [one._replace(hashed=flipped(one.hashed, bit))]), "edited", number)


def test_every_deletion(log: Log) -> None:
    """As it is; renumbered in the database; and with every later entry written anew."""
    for number in range(SIZE):
        rest = log.entries[number + 1 :]
        last = number == SIZE - 1
        assert says_that(log.with_changed(number, rest), "cut short" if last else "missing", number)
        renumbered = (one._replace(number=at) for at, one in enumerate(rest, number))
        assert says_that(log.with_changed(number, renumbered), "cut short" if last else "missing or reordered", number)
        anew = (stored(at, written_as(one.line, at)) for at, one in enumerate(rest, number))
        found = log.with_changed(number, anew)
        # the last entries leave too few for the last checkpoint
        assert says_that(found, "changed", number) or (
            number // EVERY == (SIZE - 1) // EVERY and found[0].kind == "cut short"
        )


def written_as(line: bytes, number: int) -> bytes:
    return msgspec.json.encode(msgspec.structs.replace(msgspec.json.decode(line, type=Entry), number=number))


def test_every_truncation(log: Log) -> None:
    for size in range(SIZE):
        found = log.before[size].copy().finish()
        assert says_that(found, "cut short", size)
        assert (
            found[0].says
            == f"the log is cut short: 10000 entries were signed, {size} are there; entry {size} is missing"
        )


def test_every_insertion_and_repetition(log: Log) -> None:
    for number in range(SIZE):
        one = log.entries[number]
        assert says_that(log.with_changed(number + 1, [one]), "reordered", number + 1)
        more = stored(number, written_as(log.entries[number // 2].line, number))
        later = (stored(at, written_as(one.line, at)) for at, one in enumerate(log.entries[number:], number + 1))
        found = log.with_changed(number, chain([more], later))
        assert says_that(found, "changed", number) or (number == 0 and found[0].kind == "changed")


def test_every_reordering(log: Log) -> None:
    """Two entries exchanged: their lines and hashes, or written anew under each other's number."""
    pairs: Iterable[tuple[int, int]] = _some_pairs()
    if WHOLE:
        pairs = (pair for pair in combinations(range(SIZE), 2) if pair[0] % PARTS == PART)
    for left, right in pairs:
        one, other = log.entries[left], log.entries[right]
        found = log.with_changed(left, [other._replace(number=left)])
        assert says_that(found, "missing or reordered", left)
        end = min((left // EVERY + 1) * EVERY, SIZE)
        between = [one for one in log.entries[left + 1 : end] if one.number != right]
        changed = [stored(left, written_as(other.line, left)), *between]
        if right < end:
            changed.insert(right - left, stored(right, written_as(one.line, right)))
        assert says_that(log.with_changed(left, changed), "changed", left)


def _some_pairs() -> Iterator[tuple[int, int]]:
    yield from ((number, number + 1) for number in range(SIZE - 1))
    made = random.Random(1)
    for _ in range(SAMPLE):
        left, right = sorted(made.sample(range(SIZE), 2))
        yield left, right


def test_to_go_on_from_a_checkpoint_is_to_begin_anew(log: Log) -> None:
    for number in (0, 15, 16, 4321, SIZE - 1):
        one, rest = log.entries[number], log.entries[number + 1 :]
        for changed in (
            [stored(number, one.line + b" "), *rest],
            [one._replace(line=one.line + b" "), *rest],
            rest,
            [],
        ):
            assert log.from_scratch(number, changed)[0] == log.with_changed(number, changed)[0]


def test_of_much_that_is_wrong_the_first_things_are_told(log: Log) -> None:
    found = log.from_scratch(3, [one._replace(line=one.line + b" ") for one in log.entries[3:]])
    assert [one.number for one in found[:2]] == [3, 4]
    assert len(found) == 20


def test_what_no_checkpoint_holds_is_counted(log: Log) -> None:
    verification = Verification.begin(log.signed[:2])
    for one in log.entries[:40]:
        verification.add(one)
    assert (verification.finish(), verification.unsigned) == ([], 8)


# the checkpoints of two places

SIGNER = Signer("example.org/audit", bytes(32))
VERIFIER = Verifier([SIGNER.verifier_key()])


def notes(*sizes: int) -> list[str]:
    return [SIGNER.sign(Checkpoint(SIGNER.origin, size, leaf_hash(b"%d" % size), AT)) for size in sizes]


def test_places_that_agree_are_all_compared() -> None:
    signed, findings = opened({"a": notes(1, 2), "b": notes(1, 2)}, VERIFIER)
    assert findings == []
    assert sorted((one.checkpoint.size, one.place) for one in signed) == [(1, "a"), (1, "b"), (2, "a"), (2, "b")]


@pytest.mark.parametrize(("a", "b"), [((1, 2, 3), (1, 3)), ((1, 2, 3), (1, 2)), ((2,), (1, 2))])
def test_a_place_that_lost_a_checkpoint_is_told_by_the_other(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    for first, second in ((a, b), (b, a)):
        _, findings = opened({"a": notes(*first), "b": notes(*second)}, VERIFIER)
        (lost,) = set(a) ^ set(b)
        (found,) = findings
        assert f"has no checkpoint at {lost} entries" in found.says


def test_a_forged_checkpoint_is_named_and_not_believed() -> None:
    other = Signer("example.org/audit", b"x" * 32).sign(Checkpoint("example.org/audit", 2, bytes(32), AT))
    for forged in (other, notes(2)[0].replace("\n2\n", "\n3\n"), "nonsense"):
        signed, findings = opened({"a": [*notes(1), forged], "b": notes(1)}, VERIFIER)
        assert [one.kind for one in findings] == ["forged"]
        assert "checkpoint 1 of a cannot be trusted" in findings[0].says
        assert {one.checkpoint.size for one in signed} == {1}


def test_two_heads_of_one_size_cannot_both_hold(log: Log) -> None:
    fork = Signed(Checkpoint("log", 32, bytes(32), AT), "the database")
    verification = Verification.begin([*log.signed, fork])
    for one in log.entries:
        verification.add(one)
    (found,) = verification.finish()
    assert (found.kind, "(the database)" in found.says) == ("changed", True)
