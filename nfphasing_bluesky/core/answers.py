"""Which of the answers that draws were made from are one: those that their draws don't tell apart.

A distance between two answers is that of their means in standard deviations of their draws (Mahalanobis),
with the covariance of both. Covariances of few draws lean on that of all answers, and the distance is freed
of what chance adds to it.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nfphasing_bluesky.core.geometry import FloatArray

APART = 3.0
"""Standard deviations from which on two answers are two; two Gaussians have a valley between from 2 on."""
COMPONENTS = 32
"""Principal components of the draws that are looked at, at most."""
PER_COMPONENT = 8
"""Draws for each of them, at least."""

Groups = list[NDArray[np.intp]]


def joined(draws: NDArray[Any], answers: NDArray[np.integer]) -> Groups:
    """Indices of the draws (S, *shape) of every answer, after answers (S,) nearer than `APART` were joined.

    What lies between joins what it is near to, as a banana's middle joins its ends.
    """
    groups = [np.flatnonzero(answers == label) for label in np.unique(answers)]
    if len(groups) == 1:
        return groups
    near = _distances(_scores(draws), groups) < APART
    first = np.arange(len(groups))
    for a, b in zip(*np.nonzero(near), strict=True):
        first[first == first[a]] = first[b]
    return [np.concatenate([groups[k] for k in np.flatnonzero(first == f)]) for f in np.unique(first)]


def _scores(draws: NDArray[Any]) -> FloatArray:
    """(S, C) draws along their leading principal components, unit variance each."""
    flat = draws.reshape(len(draws), -1)
    if np.iscomplexobj(flat):
        flat = np.concatenate([flat.real, flat.imag], axis=1)
    flat = flat.astype(np.float64)
    flat = flat - flat.mean(axis=0)
    count = max(1, min(COMPONENTS, len(flat) // PER_COMPONENT, flat.shape[1]))
    axes, values, _ = np.linalg.svd(flat, full_matrices=False)
    kept = values[:count] > 1e-9 * max(values[0], 1e-300)
    return axes[:, :count][:, kept] * np.sqrt(len(flat))


def _distances(scores: FloatArray, groups: Groups) -> FloatArray:
    """(K, K) distances between the means of the groups; those to itself are infinite."""
    number = np.array([len(members) for members in groups])
    means = np.stack([scores[members].mean(axis=0) for members in groups])
    off = [scores[members] - mean for members, mean in zip(groups, means, strict=True)]
    width = scores.shape[1]
    floor = 1e-12 * np.eye(width)
    whole = sum(part.T @ part for part in off) / max(len(scores) - len(groups), 1) + floor
    leaning = width**2 / number
    covariances = [
        (part.T @ part + more * whole) / (len(part) + more) for part, more in zip(off, leaning, strict=True)
    ]
    distances = np.full((len(groups), len(groups)), np.inf)
    for a in range(len(groups)):
        for b in range(a):
            apart = means[a] - means[b]
            square = apart @ np.linalg.solve((covariances[a] + covariances[b]) / 2, apart)
            # the means alone are off by that
            chance = width * (1 / number[a] + 1 / number[b])
            distances[a, b] = distances[b, a] = np.sqrt(max(square - chance, 0.0))
    return distances
