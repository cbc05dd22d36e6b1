"""Spherical harmonics by quadrature, by SciPy, and by what turning the directions does."""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import sph_harm_y
from scipy.stats import special_ortho_group
from torch import Tensor

from loupe.fields.harmonics import HARMONICS, harmonics

DEGREES = [(degree, order) for degree in range(4) for order in range(-degree, degree + 1)]


def some_directions(count: int = 40) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(count, 3, dtype=torch.float64, generator=torch.manual_seed(0)))


def test_they_are_orthonormal() -> None:
    """Products have degree 6 at most, for which 4 nodes of Gauss and Legendre and 8 around are exact."""
    heights, weights = np.polynomial.legendre.leggauss(4)
    around = 2 * np.pi * np.arange(8) / 8
    z, angle = (part.ravel() for part in np.meshgrid(heights, around, indexing="ij"))
    flat = np.sqrt(1 - z**2)
    values = harmonics(torch.from_numpy(np.stack([flat * np.cos(angle), flat * np.sin(angle), z], 1)))
    weight = torch.from_numpy(np.repeat(weights, 8) * 2 * np.pi / 8)
    torch.testing.assert_close(values.T * weight @ values, torch.eye(HARMONICS, dtype=torch.float64))


def test_they_are_the_real_and_imaginary_parts_of_scipys() -> None:
    """sqrt(2) times the real part for m > 0, the imaginary one of |m| for m < 0. SciPy's carry the Condon-Shortley
    phase (-1)^m, which Ramamoorthi and Hanrahan leave out. The polar angle counts from z, the azimuth from x."""
    directions = some_directions()
    x, y, z = directions.numpy().T
    polar, azimuth = np.arccos(z), np.arctan2(y, x)
    expected = []
    for degree, order in DEGREES:
        value = sph_harm_y(degree, abs(order), polar, azimuth) * (-1.0) ** order
        part = value.imag if order < 0 else value.real
        expected.append(part * (np.sqrt(2) if order else 1))
    torch.testing.assert_close(harmonics(directions), torch.from_numpy(np.stack(expected, 1)))


def test_degrees_turn_within_themselves() -> None:
    """Degree 1 is the direction itself, as (y, z, x); of the others the sum of squares stays (Unsöld's theorem)."""
    turn = torch.from_numpy(special_ortho_group.rvs(3, random_state=0))
    directions = some_directions()
    before, after = harmonics(directions), harmonics(directions @ turn.T)
    axes = [1, 2, 0]
    torch.testing.assert_close(after[:, 1:4], before[:, 1:4] @ turn[axes][:, axes].T)
    for degree in range(4):
        squares = after[:, degree**2 : (degree + 1) ** 2].square().sum(1)
        torch.testing.assert_close(squares, torch.full_like(squares, (2 * degree + 1) / (4 * np.pi)))
