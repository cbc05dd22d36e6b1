"""Published numbers, for captures whose name and picture size say that they are the same photos."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A table of a paper: `source`, and for each method its scores by name."""

    source: str
    rows: Mapping[str, Mapping[str, float]]


def _row(lpips_alex: float, niqe: float, psnr: float, ssim: float) -> dict[str, float]:
    return {"psnr": psnr, "ssim": ssim, "lpips_alex": lpips_alex, "niqe": niqe}


PUBLISHED: Mapping[tuple[str, tuple[int, int]], Published] = {
    ("fern", (4032, 3024)): Published(
        "4K-NeRF (Wang et al. 2022), table 8: LLFF fern at 4032x3024, every 8th photo held out; LPIPS over AlexNet",
        {
            "Plenoxels": _row(0.456, 7.72, 23.84, 0.772),
            "DVGO": _row(0.424, 6.91, 23.74, 0.771),
            "JaxNeRF": _row(0.399, 5.62, 23.47, 0.758),
            "MipNeRF-360": _row(0.348, 5.23, 23.87, 0.786),
            "NeRF-SR": _row(0.516, 7.36, 22.89, 0.735),
            "4K-NeRF, L1 only": _row(0.353, 6.38, 23.69, 0.778),
            "4K-NeRF": _row(0.190, 4.20, 23.49, 0.771),
        },
    )
}
