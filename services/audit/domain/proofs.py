"""Which nodes of the tree prove what (RFC 9162, sections 2.1.3.1 and 2.1.4.1): log2(size) of them. Pure.

A node is (level, index): the perfect tree over 2^level leaves from index * 2^level on. A span is the leaves from one
number to another, as they stand under one hash of a proof: one perfect tree, or several at the end of the log.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from contracts.merkle import joined

Node = tuple[int, int]
Span = tuple[int, int]


def cover(begin: int, end: int) -> list[Node]:
    """The perfect trees that make up a span, the largest first: those of a whole log are its peaks."""
    found = []
    while begin < end:
        level = (end - begin).bit_length() - 1
        found.append((level, begin >> level))
        begin += 1 << level
    return found


def inclusion(number: int, size: int) -> list[Span]:
    """The spans whose hashes prove that a leaf is in the tree of this size, from the leaf up."""
    begin, end, found = 0, size, []
    while end - begin > 1:
        middle = _middle(begin, end)
        if number < middle:
            found.append((middle, end))
            end = middle
        else:
            found.append((begin, middle))
            begin = middle
    return found[::-1]


def consistency(old: int, size: int) -> list[Span]:
    """The spans whose hashes prove that the tree of `size` is that of `old` with more at its end."""
    if old in (0, size):
        return []
    begin, end, found, whole = 0, size, [], True
    while end != old:
        middle = _middle(begin, end)
        if old <= middle:
            found.append((middle, end))
            end = middle
        else:
            found.append((begin, middle))
            begin, whole = middle, False
    return ([] if whole else [(begin, end)]) + found[::-1]


def nodes_of(spans: Iterable[Span]) -> list[Node]:
    """The nodes that the hashes of these spans are made of."""
    return [node for span in spans for node in cover(*span)]


def proof(spans: Iterable[Span], nodes: Mapping[Node, bytes]) -> list[bytes]:
    """The hashes of these spans. Raises KeyError where a node is not there."""
    return [joined([nodes[node] for node in cover(*span)]) for span in spans]


def _middle(begin: int, end: int) -> int:
    """Where a tree parts: after the largest power of two that is less than its size."""
    return begin + (1 << ((end - begin - 1).bit_length() - 1))
