"""One frame of 4032x3024, ray by ray as the baseline renders it, and through 4K-NeRF's decoder from a quarter of that.

Both read the same field: a ball with a shell of occupied cells. Ray by ray, a strip of an eighth is measured. The floor
is what multiplications alone would take at the speed of this machine's matrix product, and for the field the bytes that
are looked up at the speed of a copy.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks._machine import bytes_looked_up, bytes_per_second, device, peak, products_per_second, seconds
from benchmarks.encoder_rays import ball
from loupe.camera import Camera
from loupe.field_views import render_field, render_maps
from loupe.fields.radiance import RadianceField
from loupe.method import Window
from loupe.methods.four_k_nerf import render_memory
from loupe.nets.upsampler import Upsampler, UpsamplerConfig
from loupe.rays import Cameras

WIDTH, HEIGHT, RATIO, STRIPS = 4032, 3024, 4, 8
_SPARSE = 64  # of so many rays one is looked into, for the floor
DECODERS = {
    "5 blocks (the paper)": UpsamplerConfig(),
    "3 blocks": UpsamplerConfig(blocks=3),
    "1 block": UpsamplerConfig(blocks=1),
    "1 block, shuffle (small preset)": UpsamplerConfig(blocks=1, head="shuffle", residual=True),
}


def operations(decoder: Upsampler) -> float:
    """Of a whole frame."""
    side = 32
    given = [torch.rand(1, channels, side, side) for channels in (6, 1, 3)]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        decoder.cpu()(*given)
    return float(counter.get_total_flops()) / side**2 * (WIDTH // RATIO) * (HEIGHT // RATIO)


def least_seconds(field: RadianceField, camera: Camera, part: Window) -> float:
    """What the look-ups and multiplications of a window's rays take at the machine's best."""
    x, y = torch.meshgrid(torch.arange(part.width), torch.arange(part.y, part.y + part.height), indexing="ij")
    pixels = [axis.flatten()[::_SPARSE].to(device()) for axis in (x, y)]
    rays = Cameras.stack([camera], device()).rays(torch.zeros_like(pixels[0]), *pixels)
    hits = field.hits(rays, field.config.cull)
    with FlopCounterMode(display=False) as counter:
        field.colours(hits, rays.directions)
    spent = bytes_looked_up(field, hits) / bytes_per_second() + counter.get_total_flops() / products_per_second()
    return float(_SPARSE * spent)


def main() -> None:
    """On the GPU where there is one."""
    field = ball(carved=True, device=device())
    pose = np.eye(4)
    pose[:3, 3] = [-0.5, -0.5, 1.0]
    camera = Camera(WIDTH, HEIGHT, WIDTH * 1.1, WIDTH * 1.1, WIDTH / 2, HEIGHT / 2, pose)
    low = camera.resized(WIDTH // RATIO, HEIGHT // RATIO)
    backdrop, reduce = torch.zeros(3, device=device()), nn.Linear(64, 6).to(device())
    speed = products_per_second()
    print(f"matrix product: {speed / 1e9:.0f} GFLOP/s")
    with torch.no_grad():
        maps = render_maps(field, low, backdrop, None, reduce).movedim(-1, 0)[None]
        encoder = seconds(lambda: render_maps(field, low, backdrop, None, reduce))
        print(f"field at {low.width}x{low.height}: {encoder:.2f} s, {low.width * low.height / encoder:,.0f} rays/s")
        strip = Window(0, HEIGHT // 2 - HEIGHT // STRIPS // 2, WIDTH, HEIGHT // STRIPS)
        every_ray = STRIPS * seconds(lambda: render_field(field, camera, backdrop, strip))
        floor = STRIPS * least_seconds(field, camera, strip)
        taken = f"a strip of 1/{STRIPS} taken, floor {floor:.1f}"
        print(f"ray by ray at {WIDTH}x{HEIGHT}: {every_ray:.1f} s ({taken}); {peak():.2f} GB")
        for name, config in DECODERS.items():
            decoder = Upsampler(config, 6, 1, RATIO)
            floor = operations(decoder) / speed
            decoder.to(device())
            given = maps[:, 6:], maps[:, 5:6], maps[:, :3]
            took = seconds(lambda d=decoder, g=given: d.upsample(*g, render_memory(device())))  # type: ignore[misc]
            print(
                f"{name}: decoder {took:.2f} s (floor {floor:.2f}), frame {encoder + took:.2f} s, "
                f"{every_ray / (encoder + took):.1f} times as fast as ray by ray; {peak():.2f} GB"
            )


if __name__ == "__main__":
    main()
