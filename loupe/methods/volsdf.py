"""VolSDF: a surface as a signed distance, rendered by the density that the distance makes, ray by ray.

The baseline of VQ-NeRF and the field that it begins with. The encoder phase trains on the low-resolution pixels, the
joint phase goes on at full resolution, or where that is sealed at low resolution still.

Yariv et al., "Volume rendering of neural implicit surfaces", 2021 (arXiv 2106.12052).
"""

from __future__ import annotations

from loupe.config import Config
from loupe.method import Phase, Recipe, Setting
from loupe.scene import Level
from loupe.surface_fit import EncoderConfig, SurfaceFit, SurfaceFitConfig


class Joint(Config):
    """The recipe's section `joint`: how the surface is trained on at full resolution."""

    seed: int = 0
    fit: SurfaceFitConfig


class VolSdf(SurfaceFit):
    """VolSDF in one phase of one trial."""

    def __init__(self, phase: Phase, recipe: Recipe, setting: Setting) -> None:
        """Raises `InputError` where the recipe's sections or the scene do not fit."""
        section = recipe.section("encoder", EncoderConfig)
        if phase == "encoder":
            super().__init__(setting, "low", section.fit, section.field)
        else:
            level: Level = "low" if setting.scene.sealed else "full"
            super().__init__(setting, level, recipe.section("joint", Joint).fit, section.field)
