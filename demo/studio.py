"""The only file that knows Mitsuba 3: parts and lamps in, photos and true depth out.

Radiance is linear RGB; a photo is sRGB uint8 (H, W, 3), or straight-alpha RGBA (H, W, 4) on a transparent ground; depth
is the distance along the camera's z axis in scene units, 0 where nothing was hit. Cameras as in `cameras`.
"""

from dataclasses import dataclass

import numpy as np
from cameras import Lens
from denoise import denoise
from shapes import Shape

LANES = 4_000_000  # paths traced at once; this bounds the memory for a picture of any size
RAYS_ACROSS = 4  # and down a pixel, to find how much of it is covered
FIREFLY = 3.0  # radiance at which a pixel is cut off; white paper reflects about 1


@dataclass(frozen=True)
class Part:
    """A shape and what it is made of: its texture (RGB uint8, sRGB), its finish, and the finish's roughness."""

    shape: Shape
    colour: np.ndarray
    finish: str = "matte"  # matte | gloss | metal
    roughness: float = 0.2


@dataclass(frozen=True)
class Lamp:
    """A square of light of side `size` at `at`, facing `target`, with a constant `radiance` (RGB)."""

    at: tuple[float, float, float]
    target: tuple[float, float, float]
    size: float
    radiance: tuple[float, float, float]


def start_mitsuba():
    """Import Mitsuba with its vectorised CPU variant; one clear sentence where something is missing."""
    try:
        import mitsuba as mi
    except ImportError:
        raise SystemExit("render_capture: Mitsuba 3 is missing; `pip install mitsuba opencv-python-headless`") from None
    try:
        mi.set_variant("llvm_ad_rgb")
        mi.Float(0) + 1
    except Exception:  # Dr.Jit has said on stderr where it looked
        raise SystemExit("render_capture: LLVM was not found; install libllvm19, or set DRJIT_LIBLLVM_PATH") from None
    return mi


class Studio:
    """A scene that was handed to Mitsuba, ready to be photographed."""

    def __init__(self, mitsuba, parts: list[Part], lamps: list[Lamp], ambient: float, transparent: bool = False):
        """`ambient` is the radiance from everywhere; with `transparent` the photos show only the parts."""
        self.mi = mi = mitsuba
        self.transparent = transparent
        scene = {"type": "scene", "ambient": {"type": "constant", "radiance": {"type": "rgb", "value": ambient}}}
        scene |= {f"lamp_{i}": self._lamp(lamp) for i, lamp in enumerate(lamps)}
        scene |= {f"part_{i}": self._mesh(f"part_{i}", part) for i, part in enumerate(parts)}
        self.scene = mi.load_dict(scene)
        self.path = mi.load_dict({"type": "path", "max_depth": 3, "hide_emitters": transparent})
        # a separate integrator: nested in one, Mitsuba 3.9 would trace every path twice
        self.layers = mi.load_dict({"type": "aov", "aovs": "colour:albedo,normal:sh_normal,position:position"})

    def _lamp(self, lamp: Lamp) -> dict:
        """Mitsuba's rectangle of light."""
        to_world = self.mi.ScalarTransform4f().look_at(origin=lamp.at, target=lamp.target, up=[0.1, 0.2, 1])
        to_world = to_world @ self.mi.ScalarTransform4f().scale(lamp.size / 2)
        emitter = {"type": "area", "radiance": {"type": "rgb", "value": list(lamp.radiance)}}
        return {"type": "rectangle", "to_world": to_world, "emitter": emitter}

    def _mesh(self, name: str, part: Part):
        """Mitsuba's mesh of a part, with smooth normals."""
        mi, shape = self.mi, part.shape
        properties = mi.Properties()
        properties["bsdf"] = mi.load_dict(self._material(part))
        mesh = mi.Mesh(
            name, len(shape.vertices), len(shape.faces), properties, has_vertex_normals=True, has_vertex_texcoords=True
        )
        arrays = mi.traverse(mesh)
        arrays["vertex_positions"] = shape.vertices.astype(np.float32).ravel()
        arrays["vertex_texcoords"] = (shape.uv * [1, -1] + [0, 1]).astype(np.float32).ravel()  # Mitsuba's v runs down
        arrays["faces"] = shape.faces.astype(np.uint32).ravel()
        arrays.update()
        return mesh

    def _material(self, part: Part) -> dict:
        """Mitsuba's two-sided material of a part."""
        rough = part.roughness
        bitmap = self.mi.Bitmap(np.ascontiguousarray(part.colour))
        colour = {"type": "bitmap", "bitmap": bitmap, "wrap_mode": "mirror"}
        finishes = {
            "matte": {"type": "diffuse", "reflectance": colour},
            "gloss": {"type": "roughplastic", "diffuse_reflectance": colour, "alpha": rough, "nonlinear": True},
            "metal": {"type": "roughconductor", "material": "none", "specular_reflectance": colour, "alpha": rough},
        }
        return {"type": "twosided", "material": finishes[part.finish]}

    def _sensor(self, lens: Lens, pose: np.ndarray, first_row: int, rows: int):
        """Mitsuba's pinhole for a band of rows; its camera axes are x left, y up, z forward."""
        mi = self.mi
        film = {
            "type": "hdrfilm",
            "width": lens.width,
            "height": lens.height,
            "crop_offset_x": 0,
            "crop_offset_y": first_row,
            "crop_width": lens.width,
            "crop_height": rows,
            "pixel_format": "rgba",
            "component_format": "float32",
            "filter": {"type": "box"},  # a pixel is the mean over its own area
        }
        to_world = mi.ScalarTransform4f(pose @ np.diag([-1, -1, 1, 1]))
        fov = float(np.degrees(2 * np.arctan(lens.width / 2 / lens.focal)))
        camera = {"type": "perspective", "fov": fov, "fov_axis": "x", "near_clip": 0.05, "far_clip": 100}
        return mi.load_dict(camera | {"to_world": to_world, "film": film, "sampler": {"type": "multijitter"}})

    def photograph(self, lens: Lens, pose: np.ndarray, samples: int, seed: int) -> np.ndarray:
        """One photo from `samples` paths a pixel, traced in bands of rows so that memory stays bounded."""
        rows = max(1, LANES // (lens.width * samples))
        bands = []
        for first_row in range(0, lens.height, rows):
            sensor = self._sensor(lens, pose, first_row, min(rows, lens.height - first_row))
            key = (seed * 8192 + first_row) % 2**32  # one key for both, so that they sample the same spots
            radiance, layers = (
                np.array(self.mi.render(self.scene, sensor=sensor, integrator=integrator, spp=samples, seed=key))
                for integrator in (self.path, self.layers)
            )
            bands.append(np.concatenate([radiance, layers[..., -9:]], axis=-1))
        picture = np.concatenate(bands)
        radiance, alpha = np.minimum(picture[..., :3], FIREFLY), picture[..., 3:4]
        clean = denoise(radiance, *(np.ascontiguousarray(picture[..., i : i + 3]) for i in (4, 7, 10)))
        return develop(np.concatenate([clean, alpha], axis=-1) if self.transparent else clean)

    def depth(self, lens: Lens, pose: np.ndarray) -> np.ndarray:
        """True depth (H, W) float32 through the centres of the pixels."""
        mi = self.mi
        y, x = np.mgrid[0 : lens.height, 0 : lens.width].reshape(2, -1) + 0.5
        ray = np.stack([(x - lens.width / 2) / lens.focal, (y - lens.height / 2) / lens.focal, np.ones(x.size)])
        direction = (pose[:3, :3] @ ray).astype(np.float32)
        origin = np.repeat(pose[:3, 3:].astype(np.float32), x.size, axis=1)
        # the directions have z = 1 in the camera, so the distance along such a ray is the depth
        hit = self.scene.ray_intersect_preliminary(mi.Ray3f(mi.Point3f(origin), mi.Vector3f(direction)))
        depth = np.array(hit.t)
        return np.where(np.isfinite(depth), depth, 0).astype(np.float32).reshape(lens.height, lens.width)

    def coverage(self, lens: Lens, pose: np.ndarray) -> np.ndarray:
        """The share of each pixel that some part covers, uint8 (H, W): 0 none, 255 all of it."""
        hit = self.depth(lens.scaled(RAYS_ACROSS), pose) > 0
        shares = hit.reshape(lens.height, RAYS_ACROSS, lens.width, RAYS_ACROSS).mean((1, 3))
        return np.round(255 * shares).astype(np.uint8)


def develop(radiance: np.ndarray) -> np.ndarray:
    """Linear radiance (H, W, 3 or premultiplied 4) to an 8-bit sRGB photo, with a soft shoulder for the lights."""
    colour, alpha = radiance[..., :3], np.clip(radiance[..., 3:], 0, 1)
    if alpha.size:
        colour = np.where(alpha > 0, colour / np.maximum(alpha, 1e-6), 0)
    knee = 0.6
    shoulder = knee + (1 - knee) * (1 - np.exp(-np.maximum(colour - knee, 0) / (1 - knee)))
    colour = np.where(colour > knee, shoulder, np.maximum(colour, 0))
    srgb = np.where(colour > 0.0031308, 1.055 * colour ** (1 / 2.4) - 0.055, 12.92 * colour)
    return np.round(255 * np.concatenate([srgb, alpha], axis=-1)).astype(np.uint8)
