"""The kernels against the definition: interpreted on the CPU, compiled for a GPU that need not be there, and on one."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from splat_cases import CASES
from torch import Tensor

from loupe.camera import Camera
from loupe.splat import render_points

HERE = Path(__file__).parent
Found = dict[str, dict[str, list[Tensor]]]

pytest.importorskip("triton")


def rendered(folder: Path, device: str, interpret: bool) -> Found:
    """What the two routes give for the cases, on a device."""
    out = folder / "found.pt"
    environment = os.environ | {"TRITON_INTERPRET": str(int(interpret))}
    subprocess.run([sys.executable, HERE / "splat_cases.py", out, device], env=environment, check=True)
    found: Found = torch.load(out)
    return found


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return rendered(tmp_path_factory.mktemp("interpreted"), "cpu", interpret=True)


def assert_same(found: Found, case: str) -> None:
    """To rounding; but where light runs out, kernels drop the last 1e-4, and 1e-4 / (1 - alpha) of a gradient."""
    definition, kernels = (found[case][route] for route in ("definition", "kernels"))
    for index, (one, other) in enumerate(zip(definition, kernels, strict=True)):
        dropped = 0.0 if case != "opaque" else 0.01 if index else 2e-4
        assert one.abs().max() > 0.1
        torch.testing.assert_close(other, one, rtol=1e-4, atol=(dropped + 1e-6) * float(one.abs().max()))


@pytest.mark.parametrize("case", CASES)
def test_interpreted_kernels_agree_with_the_definition(interpreted: Found, case: str) -> None:
    assert_same(interpreted, case)


def test_kernels_stop_where_no_light_is_left(interpreted: Found) -> None:
    """Or the case for it would try nothing: there must be a trace of what they left out."""
    one, other = (interpreted["opaque"][route][0] for route in ("definition", "kernels"))
    assert (one - other).abs().max() > 1e-5


@pytest.mark.parametrize("channels", [5, 16])
@pytest.mark.parametrize("name", ["_forward", "_backward"])
def test_kernels_compile_for_hopper(name: str, channels: int) -> None:
    """The interpreter takes much that the compiler refuses."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from loupe import splat_triton

    kernel = getattr(splat_triton, name)
    fixed = {"CHANNELS": channels, "PADDED": triton.next_power_of_2(channels), "SIDE": 16, "STEP": 8}
    whole = {"entries", "starts", "behind"}
    types = dict.fromkeys(kernel.arg_names, "*fp32") | dict.fromkeys(whole & set(kernel.arg_names), "*i32")
    types |= {key: "i32" for key in ("width", "height", "layers") if key in types}
    types |= {key: "constexpr" for key in fixed if key in types}
    values = {(kernel.arg_names.index(key),): value for key, value in fixed.items() if key in types}
    compiled = triton.compile(ASTSource(kernel, types, constexprs=values), target=GPUTarget("cuda", 90, 32))
    assert "cubin" in compiled.asm


on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.gpu
@on_gpu
def test_kernels_agree_with_the_definition_on_a_gpu(tmp_path: Path) -> None:
    found = rendered(tmp_path, "cuda", interpret=False)
    for case in CASES:
        assert_same(found, case)


@pytest.mark.gpu
@on_gpu
def test_a_gpu_draws_what_a_cpu_draws() -> None:
    """But for the pixels on the very rim of a sprite, where rounding decides what is a hit."""
    generator = torch.Generator().manual_seed(0)
    points = torch.nn.functional.normalize(torch.randn(20_000, 3, generator=generator), dim=1)
    given = points, torch.rand(20_000, 3, generator=generator), torch.full((20_000,), 0.02), torch.full((20_000,), 0.9)
    pose = np.eye(4)
    pose[2, 3] = 3
    camera = Camera(640, 480, 600.0, 600.0, 320.0, 240.0, pose)
    maps = [render_points(*(part.to(device) for part in given), camera, 15) for device in ("cpu", "cuda")]
    for one, other in zip(*maps, strict=True):
        differs = (one - other.cpu()).abs() > 1e-3
        assert differs.float().mean() < 1e-3
