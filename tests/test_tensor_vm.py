"""TensoRF's factors against the sum they stand for, and a field that is made of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from loupe.fields.radiance import FieldConfig, RadianceField
from loupe.fields.tensor_vm import TensorVm, VmConfig
from loupe.method import Recipe, Setting
from loupe.methods import METHODS
from loupe.space import Space

CONFIG = VmConfig(density=(3, 1, 2), features=(4, 2, 1))
SHAPE = (5, 4, 6)


@pytest.fixture
def factors() -> TensorVm:
    torch.manual_seed(0)
    return TensorVm(CONFIG, 3, SHAPE)


def test_values_at_nodes_are_the_sums_of_products(factors: TensorVm) -> None:
    """The factorisation written out as a whole grid."""
    planes, lines = ([part.detach()[0].numpy() for part in parts] for parts in (factors.planes, factors.lines))
    einsums = ("rxy,rz->rxyz", "rxz,ry->rxyz", "ryz,rx->rxyz")
    products = [np.einsum(way, plane, line[..., 0]) for way, plane, line in zip(einsums, planes, lines, strict=True)]
    density = sum(part[:ranks].sum(0) for part, ranks in zip(products, CONFIG.density, strict=True))
    rest = np.concatenate([part[ranks:] for part, ranks in zip(products, CONFIG.density, strict=True)])
    features = np.einsum("cr,rxyz->xyzc", factors.basis.weight.detach().numpy(), rest)
    nodes = torch.cartesian_prod(*[torch.linspace(0, 1, count) for count in SHAPE])
    values = factors.values(nodes).detach().numpy()
    np.testing.assert_allclose(values[:, 0], np.asarray(density).ravel(), atol=1e-6)
    np.testing.assert_allclose(values[:, 1:], features.reshape(-1, 3), atol=1e-6)
    np.testing.assert_allclose(factors.density(nodes).detach().numpy(), values[:, 0], atol=1e-6)


def test_between_nodes_planes_are_bilinear_and_lines_linear(factors: TensorVm) -> None:
    ends = torch.tensor([[0.5, 1 / 3, 0.4], [0.5, 1 / 3, 0.6]])
    (low, high), middle = factors.values(ends), factors.values(ends.mean(0, keepdim=True))[0]
    xy = factors.planes[0][0, :3, 2, 1] * factors.lines[0][0, :3, 2:4, 0].mean(1)
    yz = factors.planes[2][0, :2, 1, 2:4].mean(1) * factors.lines[2][0, :2, 2, 0]
    xz = factors.planes[1][0, :1, 2, 2:4].mean(1) * factors.lines[1][0, :1, 1, 0]
    torch.testing.assert_close(middle[0], xy.sum() + yz.sum() + xz.sum())
    torch.testing.assert_close(middle, (low + high) / 2)  # along z alone each product is linear


def test_doubling_the_cells_changes_nothing(factors: TensorVm) -> None:
    larger = factors.resized((9, 7, 11))
    points = torch.rand(200, 3, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(larger.values(points), factors.values(points), rtol=0, atol=1e-5)


def test_variation_of_a_ramp(factors: TensorVm) -> None:
    with torch.no_grad():
        for plane in factors.planes:
            plane.copy_(0.5 * torch.arange(plane.shape[2]).view(-1, 1).expand_as(plane))
    density, features = factors.variation()
    assert float(density.detach()) == pytest.approx(3 * 0.02 * 0.25)
    assert float(features.detach()) == pytest.approx(3 * 0.02 * 0.25)


def test_a_field_of_factors_comes_back() -> None:
    torch.manual_seed(0)
    space = Space("bounded", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    config = FieldConfig(channels=3, hidden=8, vm=CONFIG)
    field = RadianceField(space, torch.ones(4, 3, 5, dtype=torch.bool), config, 0.2)
    field.make_transparent(0.1)
    assert field.table.numel() == 0
    grid, network = (field.parameters()[name] for name in ("grid", "network"))
    assert {id(part) for part in grid} == {id(part) for part in (*field.factors.planes, *field.factors.lines)}
    assert any(part is field.factors.basis.weight for part in network)
    again = RadianceField.from_state(field.state(), space, config, "cpu")
    points = torch.rand(50, 3)
    assert torch.equal(again.factors.values(points), field.factors.values(points))
    assert field.solid(0.0).all()


@pytest.mark.parametrize("name", ["voxel_grid", "four_k_nerf"])
def test_methods_learn_on_factors(room: Setting, name: str) -> None:
    """Some steps of the encoder phase in the room: the loss falls, and the stages grow the factors."""
    field = {"channels": 4, "hidden": 16, "view_frequencies": 1, "vm": {"density": [4, 4, 4], "features": [4, 4, 4]}}
    fit = {
        "rays": 512,
        "opacity": 0.05,
        "grid_rate": 0.02,
        "network_rate": 0.005,
        "penalties": {"tv_density": 0.01},
        "stages": [{"voxels": 2000, "steps": 80}, {"voxels": 8000, "steps": 40}],
    }
    part = {"field": field, "fit": fit}
    torch.manual_seed(0)
    method = METHODS[name]("encoder", Recipe({"encoder": {"bounded": part, "forward": part}}), room)
    before = [tuple(plane.shape) for plane in method.field.factors.planes]
    told = []
    for segment in method.segments():
        optimizer = method.optimizers(segment)["field"]
        for step in range(segment.steps):
            batch = method.batch(segment, step, torch.Generator().manual_seed(step))
            terms = method.losses(batch, segment)["field"]
            assert terms["variation"] > 0
            optimizer.zero_grad()
            sum(terms.values()).backward()
            optimizer.step()
            told.append(terms["colour"].item())
            method.after_step(segment, step)
    assert sum(told[-5:]) < 0.3 * sum(told[:5])
    assert [tuple(plane.shape) for plane in method.field.factors.planes] != before
