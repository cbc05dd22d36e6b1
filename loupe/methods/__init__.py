"""The methods: one paper, one file. They import what lies below them, never each other."""

from collections.abc import Callable

from loupe.method import Method, Phase, Recipe, Setting
from loupe.methods.four_k4d import FourK4d
from loupe.methods.four_k_nerf import make_four_k_nerf
from loupe.methods.volsdf import VolSdf
from loupe.methods.voxel_grid import VoxelGrid
from loupe.methods.vq_nerf import make_vq_nerf

METHODS: dict[str, Callable[[Phase, Recipe, Setting], Method]] = {
    "voxel_grid": VoxelGrid,
    "four_k_nerf": make_four_k_nerf,
    "four_k4d": FourK4d,
    "volsdf": VolSdf,
    "vq_nerf": make_vq_nerf,
}
