"""What the carved occupancy is worth on the demo: what it skips, what it costs in PSNR, and how much faster it is.

Two fields are trained by the demo's recipe at low resolution, one in the carved space and one in the whole box. The
first is then rendered once as it is, and once with every cell of the box occupied, empty where it has nothing: the same
field without any skipping. The second is rendered once as it is, and once without its cells outside the carved space.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from loupe.fields.radiance import RadianceField
from loupe.fields.voxel import overlap
from loupe.images import to_uint8
from loupe.method import Setting
from loupe.methods.voxel_grid import VoxelGrid
from loupe.metrics import psnr
from loupe.occupancy import Occupancy
from loupe.training import fit
from loupe.trial import load_setting, read_recipe

SCENE = Path("data/scenes/demo")
RECIPE = Path("configs/recipes/voxel_grid.yaml")
NOTHING = -40.0  # a density before its activation


def trained(setting: Setting) -> tuple[VoxelGrid, float]:
    """The demo's encoder in this setting, and the processor seconds that its training took."""
    recipe = read_recipe(RECIPE, "encoder")
    torch.manual_seed(0)
    method = VoxelGrid("encoder", recipe, setting)
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        fit(method, seed=0, resume=Path(folder), configuration={}, report=lambda *_: None)
        return method, time.process_time() - started


def rendered(method: VoxelGrid, setting: Setting) -> str:
    """PSNR over the test views at low resolution, and the processor seconds a view."""
    assert setting.tiles is not None
    scores = []
    started = time.process_time()
    for name in setting.scene.test:
        picture = method.render(setting.scene.camera(name, "low"), 0.0)
        scores.append(psnr(to_uint8(picture.colour.numpy()), setting.tiles.image(name, "low")))
    seconds = (time.process_time() - started) / len(scores)
    return f"{sum(scores) / len(scores):.3f} dB, {seconds:.2f} s a view"


def skip_nothing(method: VoxelGrid) -> None:
    """Occupy every cell of the field's box, also those that training took out: their values are in the table still."""
    field = method.field
    x, y, z = (nodes - 1 for nodes in field.lattice.shape)
    whole = RadianceField(field.space, torch.ones(x, y, z, dtype=torch.bool), field.config, field.grain)
    with torch.no_grad():
        whole.table[:, 0] = NOTHING
        whole.table[torch.searchsorted(whole.lattice.nodes, field.lattice.nodes)] = field.table
    whole.shading, whole.shift = field.shading, field.shift
    method.field = whole


def carve(method: VoxelGrid, setting: Setting) -> None:
    """Take the cells out of the trained field that lie outside the setting's occupancy."""
    field, space = method.field, setting.space
    sides = torch.tensor(space.high) - torch.tensor(space.low)
    low, high = (
        (torch.tensor(corner) - torch.tensor(space.low)) / sides for corner in (field.space.low, field.space.high)
    )
    x, y, z = (nodes - 1 for nodes in field.lattice.shape)
    inside = overlap(setting.occupancy.grid, (x, y, z), low, high).flatten()[field.lattice.cells]
    field.keep(field.lattice.alive & inside)


def main() -> None:
    """Needs the demo's scene, as `make demo` leaves it."""
    if not (SCENE / "space").is_dir():
        sys.exit(f"{SCENE}: not there yet; run make demo first")
    setting = load_setting(SCENE / "scene", SCENE / "space", SCENE / "tiles")
    whole = replace(setting, occupancy=Occupancy(torch.ones_like(setting.occupancy.grid)))
    carved, carved_seconds = trained(setting)
    full, full_seconds = trained(whole)
    print(f"empty by carving: {1 - setting.occupancy.share:.1%} of the box")
    print(f"field of the carved box: {rendered(carved, setting)}")
    skip_nothing(carved)
    print(f"  skipping nothing:      {rendered(carved, setting)}")
    print(f"field of the whole box:  {rendered(full, setting)}")
    carve(full, setting)
    print(f"  less its carved cells: {rendered(full, setting)}")
    ratio = full_seconds / carved_seconds
    print(f"training: {full_seconds:.0f} s whole, {carved_seconds:.0f} s carved ({ratio:.2f} times as fast)")


if __name__ == "__main__":
    main()
