"""The methods: one paper, one file. They import what lies below them, never each other."""

from loupe.methods.voxel_grid import VoxelGrid

METHODS = {"voxel_grid": VoxelGrid}
