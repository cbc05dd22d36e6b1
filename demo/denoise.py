"""Take the path tracer's noise out of a picture and leave its detail in.

Print and grain live in the surfaces' colour, which the renderer knows without noise. So the picture is divided by that
colour, the light that remains is smoothed where neighbours lie on one surface, and the colour is multiplied back in.
After Dammertz et al., "Edge-avoiding A-Trous wavelet transform", HPG 2010, equations 1 to 5.
"""

import cv2
import numpy as np

KERNEL = np.array([1, 4, 6, 4, 1], np.float32) / 16
DARK = 0.02  # added to the surface colour: black ink has a colour of its own and still shows gloss
OFF_PLANE = 0.01  # scene units by which a neighbour may leave the tangent plane
OFF_NORMAL = 0.06  # 1 - cosine of the angle between two normals
OFF_LIGHT = 0.15  # relative difference in brightness


def denoise(radiance: np.ndarray, colour: np.ndarray, normal: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Denoised linear radiance; all arrays are (H, W, 3) float32, normals and positions in the world."""
    light = radiance / (colour + DARK)
    for step in (1, 2, 4):
        light = smooth(light, normal, position, step)
    return light * (colour + DARK)


def smooth(light: np.ndarray, normal: np.ndarray, position: np.ndarray, step: int) -> np.ndarray:
    """One pass over 5 x 5 neighbours that stand `step` pixels apart."""
    guide = cv2.GaussianBlur(light.mean(-1), (0, 0), step)
    margin = 2 * step
    padded = [cv2.copyMakeBorder(a, *[margin] * 4, cv2.BORDER_REFLECT_101) for a in (light, normal, position, guide)]
    height, width = guide.shape
    total, weights = np.zeros_like(light), np.zeros((height, width), np.float32)
    for row, column in np.ndindex(5, 5):
        window = np.s_[row * step : row * step + height, column * step : column * step + width]
        other_light, other_normal, other_position, other_guide = (a[window] for a in padded)
        off_plane = np.abs(np.einsum("hwc,hwc->hw", other_position - position, normal)) / OFF_PLANE
        off_normal = (1 - np.einsum("hwc,hwc->hw", other_normal, normal)) / OFF_NORMAL
        off_light = np.abs(other_guide - guide) / (OFF_LIGHT * guide + 1e-3)
        weight = KERNEL[row] * KERNEL[column] * np.exp(-off_plane - np.maximum(off_normal, 0) - off_light**2) + 1e-9
        total += weight[..., None] * other_light
        weights += weight
    return total / weights[..., None]
