"""The tree beside a plain reading of RFC 9162, section 2.1, and the vectors of Certificate Transparency."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.merkle import Tree, extends, includes, leaf_hash, root_of
from services.audit.domain.proofs import Node, consistency, cover, inclusion, nodes_of, proof

pytestmark = pytest.mark.unit


# the RFC's own words, for which any tree is small enough


def mth(d: Sequence[bytes]) -> bytes:
    n = len(d)
    if n == 0:
        return sha256(b"").digest()
    if n == 1:
        return sha256(b"\x00" + d[0]).digest()
    k = split(n)
    return sha256(b"\x01" + mth(d[:k]) + mth(d[k:])).digest()


def path(m: int, d: Sequence[bytes]) -> list[bytes]:
    n = len(d)
    if n == 1:
        return []
    k = split(n)
    return [*path(m, d[:k]), mth(d[k:])] if m < k else [*path(m - k, d[k:]), mth(d[:k])]


def subproof(m: int, d: Sequence[bytes], b: bool) -> list[bytes]:
    n = len(d)
    if m == n:
        return [] if b else [mth(d)]
    k = split(n)
    return [*subproof(m, d[:k], b), mth(d[k:])] if m <= k else [*subproof(m - k, d[k:], False), mth(d[:k])]


def split(n: int) -> int:
    k = 1
    while k * 2 < n:
        k *= 2
    return k


class Grown:
    """A tree that grew leaf by leaf, with its nodes as the service stores them."""

    def __init__(self, leaves: Sequence[bytes]) -> None:
        self.tree = Tree()
        self.nodes: dict[Node, bytes] = {}
        for leaf in leaves:
            for level, index, hashed in self.tree.append(leaf_hash(leaf)):
                assert (level, index) not in self.nodes
                self.nodes[level, index] = hashed


LEAVES = st.lists(st.binary(max_size=4), max_size=130)


def test_the_roots_are_those_of_certificate_transparency() -> None:
    leaves = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
    roots = [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ]
    for size, root in enumerate(roots):
        assert Grown([bytes.fromhex(one) for one in leaves[:size]]).tree.root().hex() == root


@given(LEAVES)
def test_the_root_is_that_of_the_rfc(leaves: list[bytes]) -> None:
    grown = Grown(leaves)
    assert grown.tree.root() == mth(leaves)
    assert [grown.nodes[node] for node in cover(0, len(leaves))] == grown.tree.peaks
    assert len(grown.nodes) < max(1, 2 * len(leaves))


@given(LEAVES.filter(bool), st.data())
def test_inclusion_is_proved_as_the_rfc_says_and_of_nothing_else(leaves: list[bytes], data: st.DataObject) -> None:
    grown, size = Grown(leaves), len(leaves)
    number = data.draw(st.integers(0, size - 1))
    found = proof(inclusion(number, size), grown.nodes)
    assert found == path(number, leaves)
    assert len(nodes_of(inclusion(number, size))) <= 2 * size.bit_length()
    root, hashed = grown.tree.root(), leaf_hash(leaves[number])
    assert includes(root, size, number, hashed, found)
    assert not includes(root, size, number, leaf_hash(b"another leaf"), found)
    assert not includes(root, size, number, hashed, [*found, hashed])
    assert not includes(root, size, size, hashed, found)
    other = data.draw(
        st.integers(0, size - 1).filter(lambda one: leaves[one] != leaves[number])
        if len({*leaves}) > 1
        else st.just(-1)
    )
    assert not includes(root, size, other, hashed, found)
    for at in range(len(found)):
        assert not includes(root, size, number, hashed, [*found[:at], bytes(32), *found[at + 1 :]])


@given(LEAVES, st.data())
def test_consistency_is_proved_as_the_rfc_says_and_of_nothing_else(leaves: list[bytes], data: st.DataObject) -> None:
    grown, size = Grown(leaves), len(leaves)
    old = data.draw(st.integers(0, size))
    found = proof(consistency(old, size), grown.nodes)
    assert found == (subproof(old, leaves, True) if old else [])
    assert len(nodes_of(consistency(old, size))) <= 2 * size.bit_length() + 1
    old_root, root = mth(leaves[:old]), grown.tree.root()
    assert extends(old_root, old, root, size, found)
    if old:
        assert not extends(sha256(b"another").digest(), old, root, size, found)
        assert not extends(old_root, old, sha256(b"another").digest(), size, found)
        assert not extends(old_root, old, root, size, [*found, root])
        assert not extends(old_root, size + 1, root, size, found)
    for at in range(len(found)):
        assert not extends(old_root, old, root, size, [*found[:at], bytes(32), *found[at + 1 :]])


@given(LEAVES, st.data())
def test_a_proof_of_any_size_is_made_of_the_nodes_of_the_whole_log(leaves: list[bytes], data: st.DataObject) -> None:
    grown = Grown(leaves)
    size = data.draw(st.integers(0, len(leaves)))
    old = data.draw(st.integers(0, size))
    found = proof(consistency(old, size), grown.nodes)
    assert extends(mth(leaves[:old]), old, mth(leaves[:size]), size, found)


@given(st.sets(st.text(max_size=5), max_size=40))
def test_the_root_of_ids_does_not_depend_on_their_order(ids: set[str]) -> None:
    assert root_of(ids) == root_of(sorted(ids, reverse=True)) == mth([one.encode() for one in sorted(ids)])


def test_a_tree_cannot_go_on_from_other_peaks() -> None:
    with pytest.raises(ValueError, match="other peaks"):
        Tree(3, [bytes(32)])
    with pytest.raises(ValueError, match="other peaks"):
        Tree(1, [b"short"])
