"""How right a trained surface is: the demo's plant, path-traced small, against the triangles that it was traced from.

Needs Mitsuba (the extra `demo`). The plant stands on a transparent ground, and nothing else is in the box. Its leaves
are sheets without thickness, which no signed distance can be; so the pot is measured by itself as well. What counts of
the truth is what some training camera sees. Lengths are in percent of the radius of a ball around the plant.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks._machine import device, seconds
from benchmarks.hull import made
from loupe.config import parse_section
from loupe.fields.sdf import distance_and_normal
from loupe.fields.surface import SurfaceField
from loupe.images import to_uint8
from loupe.mesh import Spread, distance_to, points_on, surface_error
from loupe.method import Setting
from loupe.metrics import psnr
from loupe.occupancy import CarveConfig
from loupe.scene import Scene
from loupe.silhouettes import carve_masks
from loupe.surface_fit import EncoderConfig, SurfaceFit, anywhere
from loupe.training import fit
from loupe.trial import read_recipe

DEMO = Path("demo")
RECIPE = Path("configs/recipes/volsdf_small.yaml")
SIDE, VIEWS, SAMPLES, SEED = 200, 24, 16, 7
POINTS = 100_000
FINER, SLACK = 4, 0.01  # the depth that tells what is seen: so much finer than the pictures, and so far off at most


class Truth(NamedTuple):
    """Triangles of the plant, or of some of it, and those of their points (n, 3) that training cameras see."""

    vertices: NDArray[np.float32]
    faces: NDArray[np.int32]
    seen: NDArray[np.float32]


def photograph(folder: Path) -> None:
    """The capture, by the demo's own program."""
    options = ["--size", f"{SIDE}x{SIDE}", "--views", str(VIEWS), "--samples", str(SAMPLES), "--seed", str(SEED)]
    program = [sys.executable, str(DEMO / "render_capture.py"), "object", "--out", str(folder), *options]
    if subprocess.run(program, check=False).returncode:
        sys.exit("the demo's plant cannot be rendered here; install the extra demo")


def truths(scene: Scene) -> dict[str, Truth]:
    """The whole plant, and its pot alone."""
    sys.path.insert(0, str(DEMO.resolve()))
    import object_scene
    from shapes import join
    from studio import Studio, start_mitsuba

    seed, _ = np.random.SeedSequence(SEED).spawn(2)
    parts = object_scene.plant(np.random.default_rng(seed))
    studio = Studio(start_mitsuba(), parts, [], 0)
    found = {}
    for name, some in (("plant", parts), ("its pot", parts[:1])):
        shape = join([part.shape for part in some])
        vertices, faces = shape.vertices.astype(np.float32), shape.faces.astype(np.int32)
        points = points_on(vertices, faces, POINTS)
        found[name] = Truth(vertices, faces, points[seen(points, studio, scene)])
    return found


def seen(points: NDArray[np.float32], studio: Any, scene: Scene) -> NDArray[np.bool_]:
    """Which points (n, 3) are the first thing on their ray from some training camera."""
    from cameras import Lens

    found = np.zeros(len(points), bool)
    for camera in scene.cameras(scene.train, "full"):
        fine = camera.resized(FINER * camera.width, FINER * camera.height)
        depth = studio.depth(Lens(fine.width, fine.height, fine.fx), fine.world_from_cam)
        pixels, z = fine.project(points.astype(np.float64))
        x, y = np.floor(pixels).astype(int).T
        inside = (x >= 0) & (x < fine.width) & (y >= 0) & (y < fine.height)
        found[inside] |= np.abs(z[inside] - depth[y[inside], x[inside]]) < SLACK
    return found


def setting_of(capture: Path, folder: Path) -> Setting:
    """The capture's scene, carved by its masks, by the functions that the steps call."""
    scene, tiles = made(capture, folder)
    carved = carve_masks(scene, tiles, CarveConfig(), lambda _: None)
    carved.save(folder)
    print(f"{len(scene.train)} training views of {SIDE}x{SIDE}; {carved.occupancy.share:.1%} of the box occupied")
    (cloud,) = (folder / "points").iterdir()
    return Setting(scene, carved.space, carved.occupancy, tiles, device(), cloud=cloud)


def trained(setting: Setting, folder: Path) -> SurfaceFit:
    """The recipe's encoder, at the full size of these small pictures."""
    section = parse_section(EncoderConfig, read_recipe(RECIPE, "encoder").content["encoder"], str(RECIPE))
    torch.manual_seed(section.seed)
    surface = SurfaceFit(setting, "full", section.fit, section.field)
    took = seconds(lambda: fit(surface, seed=section.seed, resume=folder, configuration={}, report=lambda *_: None))
    begin, steps, rays = section.fit.begin, section.fit.steps, section.fit.rays
    print(f"{RECIPE.stem}: {begin} steps on carved points, {steps} of {rays} rays, in {took:.0f} s ", end="")
    print(
        f"on {torch.get_num_threads()} threads; the density's scale is {surface.progress()['scale']:.4f} of the box's"
    )
    return surface


def held_out(surface: SurfaceFit, setting: Setting) -> float:
    """Mean PSNR over the test views."""
    assert setting.tiles is not None
    scores = []
    for name in setting.scene.test:
        picture = surface.render(setting.scene.camera(name, "full"), 0.0)
        scores.append(psnr(to_uint8(picture.colour.cpu().numpy()), setting.tiles.image(name, "full")))
    return float(np.mean(scores))


def unevenness(field: SurfaceField, points: torch.Tensor) -> float:
    """The mean of | |gradient| - 1 | at points of the world."""
    parts = [distance_and_normal(field.shape, part)[2] for part in torch.split(points.to(field.alive.device), 4096)]
    return float((torch.cat(parts).norm(dim=1) - 1).abs().mean())


def in_percent(spread: Spread, radius: float) -> str:
    """A line's part."""
    mean, high, _ = (100 * value / radius for value in spread)
    return f"mean {mean:.2f} %, 95 % below {high:.2f} %"


def main() -> None:
    """On the GPU where there is one."""
    with TemporaryDirectory() as work:
        folder = Path(work)
        (folder / "work").mkdir()
        print(f"{VIEWS} photos rendered in {seconds(lambda: photograph(folder / 'capture')):.0f} s")
        setting = setting_of(folder / "capture", folder / "work")
        surface = trained(setting, folder / "resume")
        print(f"held out: {held_out(surface, setting):.2f} dB")
        mesh, field = surface.surface(), surface.field
        everywhere = anywhere(setting, POINTS, torch.Generator().manual_seed(0)).points
        on_it = torch.from_numpy(points_on(mesh.vertices, mesh.faces, POINTS))
        print(f"| |gradient| - 1 |: {unevenness(field, everywhere):.3f} anywhere in the box, ", end="")
        print(f"{unevenness(field, on_it):.3f} on the surface")
        found = truths(setting.scene)
    plant = found["plant"]
    low, high = plant.vertices.min(0), plant.vertices.max(0)
    radius = float(np.linalg.norm(plant.vertices - (low + high) / 2, axis=1).max())
    to_plant = distance_to(plant.vertices, plant.faces)
    error = surface_error(mesh, to_plant, plant.seen)
    print(f"ball of radius {radius:.2f} around the plant; {len(mesh.faces)} triangles")
    print(f"mesh to plant: {in_percent(error.accuracy, radius)}")
    for name, truth in found.items():
        share, missing = len(truth.seen) / POINTS, surface_error(mesh, to_plant, truth.seen).completeness
        print(f"{name} to mesh: {in_percent(missing, radius)} ({share:.0%} of it seen)")


if __name__ == "__main__":
    main()
