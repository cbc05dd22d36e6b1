"""Which photos are worth comparing with which: all with all while they are few, else those that may show the same.

A photo is known by its place in a list, a pair by two places, the lower first.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from loupe.camera import Array

Pair = tuple[int, int]

# Of a walk, each frame is compared with so many before and after it, and with those 16, 32, 64, ... from it.
_NEIGHBOURS = 10
# Where the walk comes back to a place, every n-th frame finds that out: a place is in view for longer than that.
_PERIOD = 5
# Words of the vocabulary, and features a photo that it is made of.
_WORDS, _SAMPLE = 32, 200


def all_pairs(count: int) -> list[Pair]:
    """Every two of `count` photos."""
    return list(combinations(range(count), 2))


def pairs_along_walk(count: int, most: int) -> list[Pair]:
    """Frames of a walk, in order: each with its neighbours, with ever fewer further away, and every n-th with every
    other, but no more than `most` of those, which closes loops.

    The first two are COLMAP's sequential matching with quadratic overlap; its loops would need a vocabulary tree.
    """
    far = [2**power for power in range(count.bit_length()) if 2**power > _NEIGHBOURS]
    near = {(place, place + apart) for apart in [*range(1, _NEIGHBOURS + 1), *far] for place in range(count - apart)}
    period = max(_PERIOD, -(-count // most))
    return sorted(near | set(combinations(range(0, count, period), 2)))


def most_alike(descriptors: Sequence[Array], each: int, seed: int) -> list[Pair]:
    """Each photo with the `each` others that look most like it, by the features of all: vectors of locally aggregated
    descriptors (Jegou et al., CVPR 2010) over a vocabulary of the photos' own, with signed square roots and words of
    equal weight (Arandjelovic and Zisserman, CVPR 2013).

    Args:
        descriptors: one (n, d) array for each photo; n may be 0.
        seed: of the vocabulary.
    """
    vectors = _vlad(descriptors, seed)
    alike = vectors @ vectors.T
    alike[:, ~vectors.any(axis=1)] = -2.0  # without features, a photo looks like none
    np.fill_diagonal(alike, -np.inf)
    nearest = np.argsort(-alike, axis=1, kind="stable")[:, :each]
    return sorted({(min(one, other), max(one, other)) for one, row in enumerate(nearest.tolist()) for other in row})


def _vlad(descriptors: Sequence[Array], seed: int) -> Array:
    """A unit vector for each photo, or zeros for one without features."""
    from scipy.cluster.vq import kmeans2, vq

    floats = [one.astype(np.float32) for one in descriptors]
    sample = np.concatenate([one[:: max(1, len(one) // _SAMPLE)] for one in floats])
    if len(sample) < _WORDS:
        return np.zeros((len(floats), 1))
    words = kmeans2(sample, _WORDS, minit="++", seed=seed)[0]
    vectors = np.zeros((len(floats), *words.shape))
    for vector, one in zip(vectors, floats, strict=True):
        if len(one):
            word = vq(one, words)[0]
            np.add.at(vector, word, one - words[word])
    vectors = np.sign(vectors) * np.sqrt(np.abs(vectors))
    vectors /= np.maximum(np.linalg.norm(vectors, axis=2, keepdims=True), 1e-12)
    flat = vectors.reshape(len(floats), -1)
    return np.asarray(flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12))
