"""Colour that depends on the direction from which it is seen: real spherical harmonics up to degree 3.

The signs and the order are those of Ramamoorthi and Hanrahan, "An efficient representation for irradiance environment
maps", 2001, continued to degree 3: for each degree l the orders m from -l to l.
"""

from __future__ import annotations

from math import pi, sqrt
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

HARMONICS = 16
CONSTANT = sqrt(1 / 4 / pi)  # the first function; the mean of each other one over all directions is zero


def harmonics(directions: Float[Tensor, "n 3"]) -> Float[Tensor, "n 16"]:
    """The 16 functions at unit directions; orthonormal over the sphere."""
    x, y, z = directions.unbind(-1)
    xx, yy, zz = x * x, y * y, z * z
    values = [
        torch.full_like(x, CONSTANT),
        sqrt(3 / 4 / pi) * y,
        sqrt(3 / 4 / pi) * z,
        sqrt(3 / 4 / pi) * x,
        sqrt(15 / 4 / pi) * x * y,
        sqrt(15 / 4 / pi) * y * z,
        sqrt(5 / 16 / pi) * (3 * zz - 1),
        sqrt(15 / 4 / pi) * x * z,
        sqrt(15 / 16 / pi) * (xx - yy),
        sqrt(35 / 32 / pi) * y * (3 * xx - yy),
        sqrt(105 / 4 / pi) * x * y * z,
        sqrt(21 / 32 / pi) * y * (5 * zz - 1),
        sqrt(7 / 16 / pi) * z * (5 * zz - 3),
        sqrt(21 / 32 / pi) * x * (5 * zz - 1),
        sqrt(105 / 16 / pi) * z * (xx - yy),
        sqrt(35 / 32 / pi) * x * (xx - 3 * yy),
    ]
    return torch.stack(values, -1)
