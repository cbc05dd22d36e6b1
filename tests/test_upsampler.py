"""4K-NeRF's decoder: its size, a naive forward pass, the reach of its outputs, tiles against the whole."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import conv2d, interpolate, leaky_relu

from loupe.nets.upsampler import Upsampler, UpsamplerConfig, tile_side

SMALL = UpsamplerConfig(blocks=1, width=8, growth=4)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def made(config: UpsamplerConfig = SMALL, channels: int = 6, conditions: int = 1, ratio: int = 4) -> Upsampler:
    """A decoder with random weights everywhere, also where training starts from zero."""
    torch.manual_seed(1)
    decoder = Upsampler(config, channels, conditions, ratio)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return decoder


@pytest.mark.parametrize(("blocks", "parameters"), [(5, 3_955_811), (3, 2_440_931), (1, 926_051)])
def test_it_is_as_large_as_the_published_one(blocks: int, parameters: int) -> None:
    """Counted on the published architecture with its three input channels: 3.956, 2.44 and .93 million."""
    decoder = Upsampler(UpsamplerConfig(blocks=blocks), 3, 1, 4)
    assert sum(parameter.numel() for parameter in decoder.parameters()) == parameters


def test_the_forward_pass_against_formulas() -> None:
    decoder = made()
    weights = decoder.state_dict()
    features, depth, colour = random(1, 6, 5, 7), random(1, 1, 5, 7, seed=1), random(1, 3, 5, 7, seed=2)

    def convolve(name: str, x: torch.Tensor) -> torch.Tensor:
        weight = weights[f"{name}.weight"]
        return conv2d(x, weight, weights[f"{name}.bias"], padding=weight.shape[2] // 2)

    def modulate(name: str, x: torch.Tensor) -> torch.Tensor:
        scale, shift = (
            convolve(f"{name}.{part}.2", leaky_relu(convolve(f"{name}.{part}.0", condition), 0.2))
            for part in ("scale", "shift")
        )
        return x * (1 + scale) + shift

    condition = depth
    for layer in (0, 2, 4, 6):
        condition = convolve(f"trunk.condition.{layer}", condition)
        condition = leaky_relu(condition, 0.2) if layer < 6 else condition
    first = x = convolve("trunk.first", features)
    block = x
    for number in range(3):
        name = f"trunk.blocks.0.dense.{number}"
        grown = [modulate(f"{name}.enter", x)]
        for index in range(4):
            grown.append(leaky_relu(convolve(f"{name}.grow.{index}", torch.cat(grown, 1)), 0.2))
        grown[-1] = modulate(f"{name}.leave", grown[-1])
        x = x + 0.2 * convolve(f"{name}.close", torch.cat(grown, 1))
    x = block + 0.2 * modulate("trunk.blocks.0.modulate", x)
    x = first + convolve("trunk.last", modulate("trunk.modulate", x))
    for index in range(2):
        larger = interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        x = leaky_relu(convolve(f"head.steps.{index}", larger), 0.2)
    x = convolve("head.colour", leaky_relu(convolve("head.large", x), 0.2))
    torch.testing.assert_close(decoder(features, depth, colour), x)


@pytest.mark.parametrize("head", ["bilinear", "nearest", "shuffle"])
@pytest.mark.parametrize("ratio", [2, 4])
def test_an_output_looks_no_farther_than_the_radius(head: str, ratio: int) -> None:
    decoder = made(UpsamplerConfig(blocks=1, width=8, growth=4, head=head), ratio=ratio)  # type: ignore[arg-type]
    side = 2 * decoder.radius + 3
    features = random(1, 6, side, side).requires_grad_()
    condition = random(1, 1, side, side).requires_grad_()
    middle = decoder(features, condition, features[:, :3])[:, :, ratio * side // 2, ratio * side // 2].sum()
    for given in torch.autograd.grad(middle, [features, condition]):
        rows = given.abs().sum((0, 1, 3)).nonzero()[:, 0]
        assert rows.min() >= side // 2 - decoder.radius
        assert rows.max() <= side // 2 + decoder.radius
        assert given[0, 0, side // 2, side // 2] != 0


@pytest.mark.parametrize("head", ["bilinear", "nearest", "shuffle"])
@pytest.mark.parametrize("memory", [1, 300_000, 1 << 30])
def test_tiles_make_the_picture_of_the_whole(head: str, memory: int) -> None:
    config = UpsamplerConfig(blocks=1, width=8, growth=4, head=head, residual=True)  # type: ignore[arg-type]
    decoder = made(config)
    given = random(1, 6, 50, 67), random(1, 1, 50, 67, seed=1), random(1, 3, 50, 67, seed=2)
    whole = decoder(*given).detach()
    assert whole.shape == (1, 3, 200, 268)
    torch.testing.assert_close(decoder.upsample(*given, memory), whole, rtol=0, atol=1e-5)


def test_tiles_shrink_with_the_memory() -> None:
    assert tile_side(1 << 30, 4000, 77, (400, 300)) == 400
    sides = [tile_side(memory << 20, 4000, 77, (4000, 3000)) for memory in (1, 512, 4096)]
    assert sides == [16, 212, 882]
    assert (sides[2] + 2 * 77) ** 2 * 4000 <= 4096 << 20


def test_a_residual_decoder_begins_with_the_bicubic_picture() -> None:
    config = UpsamplerConfig(blocks=1, width=8, growth=4, residual=True)
    decoder, colour = Upsampler(config, 6, 1, 4), random(1, 3, 6, 6)
    expected = interpolate(colour, scale_factor=4, mode="bicubic", align_corners=False)
    torch.testing.assert_close(decoder(random(1, 6, 6, 6), random(1, 1, 6, 6), colour), expected)


def test_depth_modulates_and_without_it_there_is_no_parameter_for_it() -> None:
    decoder, features, colour = made(), random(1, 6, 6, 6), random(1, 3, 6, 6)
    near, far = (decoder(features, torch.full((1, 1, 6, 6), depth), colour) for depth in (0.1, 0.9))
    assert (near - far).abs().max() > 1e-3
    without = made(conditions=0)
    assert not [name for name in without.state_dict() if "condition" in name or "modulate" in name]
    assert without(features, features[:, :0], colour).shape == (1, 3, 24, 24)


def test_a_ratio_that_is_no_power_of_two_needs_the_shuffle() -> None:
    with pytest.raises(ValueError, match="power of two"):
        Upsampler(SMALL, 6, 1, 3)
    shuffle = Upsampler(UpsamplerConfig(blocks=1, width=8, growth=4, head="shuffle"), 6, 1, 3)
    assert shuffle(random(1, 6, 5, 5), random(1, 1, 5, 5), random(1, 3, 5, 5)).shape == (1, 3, 15, 15)
