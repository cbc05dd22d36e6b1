"""DVGO v2, a voxel grid trained from single rays: the baseline, and the encoder that other methods start from.

The encoder phase trains on the low-resolution pixels; the joint phase goes on at full resolution with a finer grid, or
where that is sealed at low resolution still: what such photos give without a method for more.

Sun et al., "Improved direct voxel grid optimization for radiance fields reconstruction", 2022 (arXiv 2206.05085).
"""

from __future__ import annotations

from loupe.config import Config
from loupe.method import Phase, Recipe, Setting
from loupe.voxel_fit import FitConfig, VoxelFit, encoder_part


class Joint(Config):
    """The recipe's section `joint`: how the field is trained on at full resolution."""

    seed: int = 0
    bounded: FitConfig
    forward: FitConfig


class VoxelGrid(VoxelFit):
    """DVGO v2 in one phase of one trial."""

    def __init__(self, phase: Phase, recipe: Recipe, setting: Setting) -> None:
        """Raises `InputError` where the recipe's sections do not fit."""
        part = encoder_part(recipe, setting)
        if phase == "encoder":
            super().__init__(setting, "low", part.fit, part.field)
            self.begin()
        else:
            fit = getattr(recipe.section("joint", Joint), setting.space.kind)
            super().__init__(setting, "low" if setting.scene.sealed else "full", fit, part.field)
