"""Merkle trees by RFC 9162 (Certificate Transparency 2.0), section 2.1, over SHA-256. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Final

HASH_BYTES: Final = 32


def leaf_hash(leaf: bytes) -> bytes:
    """The hash of a leaf, which no inner node can have: SHA-256 of 0x00 and the leaf."""
    return sha256(b"\0" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node: SHA-256 of 0x01 and its two children."""
    return sha256(b"\1" + left + right).digest()


def joined(peaks: Sequence[bytes]) -> bytes:
    """The root over perfect trees that stand side by side, the largest first; of none the hash of nothing."""
    if not peaks:
        return sha256().digest()
    *left, root = peaks
    for peak in reversed(left):
        root = node_hash(peak, root)
    return root


class Tree:
    """A tree that only grows, kept as the roots of its perfect subtrees, the largest first: log2(size) hashes."""

    def __init__(self, size: int = 0, peaks: Iterable[bytes] = ()) -> None:
        self.size = size
        self.peaks = list(peaks)
        if size < 0 or len(self.peaks) != size.bit_count() or any(len(one) != HASH_BYTES for one in self.peaks):
            raise ValueError("a tree of this size has other peaks")

    def append(self, hashed: bytes) -> list[tuple[int, int, bytes]]:
        """Add the leaf of this hash at the end; the nodes that are whole now, as (level, index, hash)."""
        level, index = 0, self.size
        made = [(level, index, hashed)]
        while index & 1:
            hashed = node_hash(self.peaks.pop(), hashed)
            level, index = level + 1, index >> 1
            made.append((level, index, hashed))
        self.peaks.append(hashed)
        self.size += 1
        return made

    def root(self) -> bytes:
        """The root, 32 bytes."""
        return joined(self.peaks)

    def copy(self) -> Tree:
        """The tree as it is now."""
        return Tree(self.size, self.peaks)


def root_of(ids: Iterable[str]) -> bytes:
    """The root over a set of ids, sorted as text and encoded as UTF-8: whoever has the ids finds it again."""
    tree = Tree()
    for one in sorted(ids):
        tree.append(leaf_hash(one.encode()))
    return tree.root()


def includes(root: bytes, size: int, number: int, hashed: bytes, proof: Sequence[bytes]) -> bool:
    """Whether the proof shows that the leaf of this hash is the one of this number (section 2.1.3.2)."""
    if not 0 <= number < size:
        return False
    at, last = number, size - 1
    for one in proof:
        if last == 0:
            return False
        if at & 1 or at == last:
            hashed = node_hash(one, hashed)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            hashed = node_hash(hashed, one)
        at, last = at >> 1, last >> 1
    return last == 0 and hashed == root


def extends(old_root: bytes, old_size: int, root: bytes, size: int, proof: Sequence[bytes]) -> bool:
    """Whether the proof shows that the tree of `size` is that of `old_size` with more at its end (section 2.1.4.2)."""
    if not 0 < old_size <= size:
        return old_size == 0 and not proof
    if old_size == size:
        return not proof and old_root == root
    path = [old_root, *proof] if old_size & (old_size - 1) == 0 else list(proof)
    if not path:
        return False
    at, last = old_size - 1, size - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    old = new = path[0]
    for one in path[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            old, new = node_hash(one, old), node_hash(one, new)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            new = node_hash(new, one)
        at, last = at >> 1, last >> 1
    return last == 0 and old == old_root and new == root
