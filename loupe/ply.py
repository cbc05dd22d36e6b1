"""Writing coloured points and meshes as binary PLY, as other programs read it (MeshLab, Blender, trimesh, plyfile)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

COLOURS = ("red", "green", "blue")
_NOTHING: Mapping[str, NDArray[np.float32]] = MappingProxyType({})


def write_ply(
    path: Path,
    xyz: NDArray[np.float32],
    rgb: NDArray[np.uint8],
    more: Mapping[str, NDArray[np.float32]] = _NOTHING,
    faces: NDArray[np.int32] | None = None,
) -> None:
    """Write points (n, 3) and their colours (n, 3), little-endian.

    Args:
        more: further properties of the points, (n,) each; they stand after the colours.
        faces: triangles (f, 3) as numbers of points; None for points alone.
    """
    elements = [_vertices(xyz, rgb, more)] + ([] if faces is None else [_faces(faces)])
    lines = ["ply", "format binary_little_endian 1.0", *(line for header, _ in elements for line in header)]
    header = "\n".join([*lines, "end_header", ""]).encode("ascii")
    path.write_bytes(header + b"".join(rows.tobytes() for _, rows in elements))


def _vertices(
    xyz: NDArray[np.float32], rgb: NDArray[np.uint8], more: Mapping[str, NDArray[np.float32]]
) -> tuple[list[str], NDArray[Any]]:
    """Lines of the header, and what they announce."""
    columns: dict[str, NDArray[Any]] = dict(zip(("x", "y", "z", *COLOURS), (*xyz.T, *rgb.T), strict=True)) | dict(more)
    rows = np.empty(len(xyz), [(name, "u1" if name in COLOURS else "<f4") for name in columns])
    for name, column in columns.items():
        rows[name] = column
    properties = [f"property {'uchar' if name in COLOURS else 'float'} {name}" for name in columns]
    return [f"element vertex {len(rows)}", *properties], rows


def _faces(faces: NDArray[np.int32]) -> tuple[list[str], NDArray[Any]]:
    rows = np.empty(len(faces), [("corners", "u1"), ("vertex_indices", "<i4", 3)])
    rows["corners"], rows["vertex_indices"] = 3, faces
    return [f"element face {len(rows)}", "property list uchar int vertex_indices"], rows
