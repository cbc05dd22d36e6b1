"""Training rays per second of the voxel field, against the same field as a dense grid without skipping or packing."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.nn.functional import grid_sample, normalize

from benchmarks._machine import bytes_looked_up, bytes_per_second
from loupe import volume
from loupe.fields.radiance import FieldConfig, RadianceField
from loupe.rays import Rays
from loupe.space import Space

CELLS, RAYS, STEPS = 95, 1024, 4
RADIUS, SHELL = 0.35, 0.04
CONFIG = FieldConfig(channels=12, hidden=64, view_frequencies=4)
SPACE = Space("bounded", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


class Batch(NamedTuple):
    """Rays and the colours they should have."""

    rays: Rays
    photo: torch.Tensor


def batch() -> Batch:
    """Rays from around the box into it."""
    generator = torch.Generator().manual_seed(0)
    origins = 0.5 + 1.5 * normalize(torch.randn(RAYS, 3, generator=generator), dim=-1)
    targets = 0.2 + 0.6 * torch.rand(RAYS, 3, generator=generator)
    return Batch(Rays(origins, normalize(targets - origins, dim=-1)), torch.rand(RAYS, 3, generator=generator))


def ball(carved: bool, device: torch.device | str = "cpu") -> RadianceField:
    """A ball as training leaves it: opaque within, next to transparent without. `carved`: cells near its surface."""
    centres = (torch.arange(CELLS) + 0.5) / CELLS - 0.5
    distance = torch.stack(torch.meshgrid(centres, centres, centres, indexing="ij")).norm(dim=0)
    near = ((distance - RADIUS).abs() < SHELL).to(device)
    field = RadianceField(SPACE, near if carved else torch.ones_like(near), CONFIG, 1 / CELLS)
    field.make_transparent(1e-2)
    with torch.no_grad():
        inside = (field.lattice.positions() - 0.5).norm(dim=-1) < RADIUS
        field.table[:, 0] = torch.where(inside, 10.0, -15.0)
    return field


def packed_loss(field: RadianceField, data: Batch) -> torch.Tensor:
    """The colour loss, as the encoder computes it."""
    hits = field.hits(data.rays)
    colours = volume.composite(hits.weight, field.colours(hits, data.rays.directions), hits.ray, RAYS)
    return (colours - data.photo).square().mean()


def dense_loss(field: RadianceField, grid: torch.Tensor, data: Batch) -> torch.Tensor:
    """The same by `grid_sample` at every step of every ray, and the network on every sample."""
    cast = SPACE.cast(data.rays)
    steps = torch.arange(int(3**0.5 / field.stride) + 1)
    t = cast.enter.clamp(max=1e3)[:, None] + steps * field.stride
    points = cast.origins[:, None] + t[..., None] * cast.directions[:, None]
    inside = ((points >= 0) & (points <= 1)).all(-1)
    values = grid_sample(grid, (2 * points - 1).view(1, RAYS, -1, 1, 3), align_corners=True)[0, ..., 0].permute(1, 2, 0)
    tau = volume.optical_depth(values[..., 0] + field.shift, field.interval) * inside
    alpha = 1 - torch.exp(-tau)
    through = torch.cumprod(torch.cat([torch.ones(RAYS, 1), 1 - alpha[:, :-1] + 1e-10], 1), 1)
    assert field.shading is not None
    ray = torch.arange(RAYS).repeat_interleave(len(steps))
    colours = torch.sigmoid(field.shading(values[..., 1:].flatten(0, 1), data.rays.directions, ray))
    rendered = ((through * alpha)[..., None] * colours.view(RAYS, -1, 3)).sum(1)
    return (rendered - data.photo).square().mean()


def rays_per_second(loss: Callable[[], torch.Tensor], parameters: list[torch.Tensor]) -> float:
    """Of whole training steps: forward, backward and Adam, after one to warm up."""
    optimizer = torch.optim.Adam(parameters, lr=1e-6, fused=True)
    for step in range(STEPS + 1):
        if step == 1:
            started = time.process_time()
        optimizer.zero_grad()
        loss().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return RAYS * STEPS / (time.process_time() - started) * torch.get_num_threads()


def main() -> None:
    """One field in three forms. Seconds are CPU seconds, times the threads: other processes do not count."""
    data = batch()
    field = ball(carved=False)
    assert field.shading is not None
    nodes = CELLS + 1
    grid = field.table.detach().view(nodes, nodes, nodes, -1).permute(3, 2, 1, 0)[None].clone().requires_grad_()
    network = list(field.shading.parameters())
    dense = rays_per_second(lambda: dense_loss(field, grid, data), [grid, *network])
    print(f"dense grid, every sample:            {dense:8.0f} rays/s")
    for name, carved in (("packed, nothing carved:    ", False), ("packed, occupied cells only:", True)):
        field = ball(carved)
        parameters = [part for group in field.parameters().values() for part in group]
        rate = rays_per_second(lambda field=field: packed_loss(field, data), parameters)  # type: ignore[misc]
        hits = field.hits(data.rays)
        looked = hits.asked / RAYS
        # Forward once, backward twice; Adam reads four tables and writes three.
        least = 3 * bytes_looked_up(field, hits) + 7 * field.table.nbytes
        floor = f"floor {RAYS * bytes_per_second() / least:.0f}"
        print(
            f"{name}         {rate:8.0f} rays/s ({floor}), {rate / dense:.1f} times as many; {looked:.0f} samples a ray"
        )
    print(f"losses: dense {dense_loss(field, grid, data).item():.6f}, packed {packed_loss(field, data).item():.6f}")


if __name__ == "__main__":
    main()
