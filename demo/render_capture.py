"""Render the demo's captures: photos, true cameras and, with `--depth`, true depth.

`shelf` writes JPEG photos to `--out` and cameras.json (and depth/) to `--truth`. `object` writes RGBA pictures in the
layout of the NeRF-synthetic data sets to `--out`: train/, test/, transforms_train.json, transforms_test.json. Every
eighth view, starting with the first, is held out: it alone has depth, and it belongs to `test`.
`dancer` films: it writes EasyMocap's layout to `--out` (images/, masks/, intri.yml, extri.yml), with `--views` cameras,
the last quarter of which is meant to be held out, and to `--truth` tracks.npy: spots of her surface, followed through
all frames, (frames, spots, 3). Depth is that of the held-out cameras at the first and the middle frame.
"""

import argparse
import json
import re
import sys
from pathlib import Path

import cameras
import cv2
import numpy as np
from cameras import Lens, held_out

DEPTH_SCALE = 1e-4
JPEG_QUALITY = 92
# Of a costume in such colours, JPEG at half the resolution of colour would leave 31 dB; so 35.
FULL_COLOUR = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444, cv2.IMWRITE_JPEG_OPTIMIZE, 1)
SMALL_PNG = (cv2.IMWRITE_PNG_COMPRESSION, 9)
ARC_FOCAL, DOME_FOCAL, RINGS_FOCAL = 1.05, 0.5 / np.tan(0.6911112 / 2), 1.3  # in widths of the picture
RINGS_DISTANCE, RINGS_DEPTH = 4.0, 1.25  # of the cameras from the dancer's middle, and of her before and behind it


def picture_size(text: str) -> tuple[int, int]:
    """(width, height) of '1024x768'; both must divide by four, since depth has a quarter of the size."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match or any(int(n) < 4 or int(n) % 4 for n in match.groups()):
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 1024x768 (both sides multiples of 4)")
    return int(match[1]), int(match[2])


def positive(text: str) -> int:
    """A whole number above zero."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above zero")
    return int(text)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line; ends the program with one line if it makes no sense."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", choices=["shelf", "object", "dancer"])
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    parser.add_argument("--truth", type=Path, help="folder for the truth (shelf and dancer only)")
    parser.add_argument("--size", type=picture_size, default=(1024, 768), help="WIDTHxHEIGHT in pixels")
    parser.add_argument("--views", type=positive, default=28, help="how many, held-out views included")
    parser.add_argument("--frames", type=positive, default=8, help="moments (dancer only)")
    parser.add_argument("--samples", type=positive, default=64, help="paths traced for each pixel, a square number")
    parser.add_argument("--seed", type=int, default=7, help="fixes the scene, the cameras and the noise")
    parser.add_argument("--depth", action="store_true", help="also write true depth of the held-out views, at 1/4 size")
    options = parser.parse_args(arguments)
    if not hasattr(cv2, "FontFace"):
        parser.error("OpenCV 5 is needed, whose built-in letters the textures are printed with")
    if (options.scene == "object") != (options.truth is None):
        parser.error("--truth goes with `shelf` and `dancer`, and they need it")
    return options


def write_picture(path: Path, picture: np.ndarray, settings: tuple[int, ...] = ()) -> None:
    """Write RGB or RGBA uint8, a uint8 mask or uint16 depth in the format that the suffix names; `settings` are
    OpenCV's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if picture.ndim == 3:
        picture = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR if picture.shape[2] == 3 else cv2.COLOR_RGBA2BGRA)
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if path.suffix == ".jpg" else []
    if not cv2.imwrite(str(path), picture, [*quality, *settings]):
        raise SystemExit(f"render_capture: cannot write {path}")


def write_json(path: Path, content: dict) -> None:
    """Write indented JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def write_depth(path: Path, depth: np.ndarray) -> None:
    """Write depth as 16-bit PNG in steps of DEPTH_SCALE; 0 means that nothing was hit."""
    write_picture(path, np.round(depth / DEPTH_SCALE).clip(0, 65535).astype(np.uint16))


def render_shelf(options: argparse.Namespace) -> None:
    """Photos of the shelf, and the truth about them."""
    import shelf_scene
    from studio import Studio, start_mitsuba

    lens = Lens(*options.size, ARC_FOCAL * options.size[0])
    scene_seed, camera_seed = np.random.SeedSequence(options.seed).spawn(2)
    poses = cameras.hand_held_arc(options.views, np.random.default_rng(camera_seed))
    names = [f"view_{index:02d}" for index in range(len(poses))]
    records = {f"{n}.jpg": cameras.colmap_record(lens, p) for n, p in zip(names, poses, strict=True)}
    mitsuba = start_mitsuba()
    parts = shelf_scene.shelf(np.random.default_rng(scene_seed))
    studio = Studio(mitsuba, parts, shelf_scene.LAMPS, shelf_scene.AMBIENT)
    write_json(options.truth / "cameras.json", records)
    for index, (name, pose) in enumerate(zip(names, poses, strict=True)):
        photo = studio.photograph(lens, pose, options.samples, options.seed + index)
        write_picture(options.out / f"{name}.jpg", photo)
        if options.depth and held_out(index):
            write_depth(options.truth / "depth" / f"{name}.png", studio.depth(lens.scaled(1 / 4), pose))
    if options.depth:
        write_json(options.truth / "depth" / "depth.json", {"scale": DEPTH_SCALE})


def render_object(options: argparse.Namespace) -> None:
    """Pictures of the plant on a transparent ground, all around it."""
    import object_scene
    from studio import Studio, start_mitsuba

    lens = Lens(*options.size, DOME_FOCAL * options.size[0])
    scene_seed, camera_seed = np.random.SeedSequence(options.seed).spawn(2)
    poses = cameras.dome(options.views, np.random.default_rng(camera_seed))
    mitsuba = start_mitsuba()
    parts = object_scene.plant(np.random.default_rng(scene_seed))
    studio = Studio(mitsuba, parts, object_scene.LAMPS, object_scene.AMBIENT, transparent=True)
    frames = {"train": [], "test": []}
    for index, pose in enumerate(poses):
        split = "test" if held_out(index) else "train"
        name = f"./{split}/r_{len(frames[split]):03d}"
        frames[split].append(cameras.blender_record(name, pose))
        picture = studio.photograph(lens, pose, options.samples, options.seed + index)
        write_picture(options.out / f"{name}.png", picture)
        if options.depth and held_out(index):
            write_depth(options.out / f"{name}_depth.png", studio.depth(lens.scaled(1 / 4), pose))
    angle = 2 * np.arctan(lens.width / 2 / lens.focal)
    for split, records in frames.items():
        write_json(options.out / f"transforms_{split}.json", {"camera_angle_x": angle, "frames": records})


def render_dancer(options: argparse.Namespace) -> None:
    """A film by calibrated cameras all around the dancer, her masks, and the truth about her."""
    import dancer_scene
    from studio import Studio, start_mitsuba

    lens = Lens(*options.size, RINGS_FOCAL * options.size[0])
    poses = cameras.rings(options.views, dancer_scene.MIDDLE, RINGS_DISTANCE)
    names = [f"{index:02d}" for index in range(len(poses))]
    bounds = RINGS_DISTANCE - RINGS_DEPTH, RINGS_DISTANCE + RINGS_DEPTH
    write_easymocap(options.out, lens, dict(zip(names, poses, strict=True)), *bounds)
    skins, room = dancer_scene.costume(np.random.default_rng(options.seed)), dancer_scene.studio_room()
    mitsuba = start_mitsuba()
    bodies = [dancer_scene.dancer(frame / options.frames) for frame in range(options.frames)]
    options.truth.mkdir(parents=True, exist_ok=True)
    np.save(options.truth / "tracks.npy", np.stack([dancer_scene.followed(body) for body in bodies]).astype(np.float32))
    for frame, body in enumerate(bodies):
        parts = dancer_scene.dressed(body, skins)
        alone = Studio(mitsuba, parts, [], 0)
        studio = Studio(mitsuba, [*parts, *room], dancer_scene.LAMPS, dancer_scene.AMBIENT)
        for index, (name, pose) in enumerate(zip(names, poses, strict=True)):
            photo = studio.photograph(lens, pose, options.samples, options.seed + frame * len(poses) + index)
            write_picture(options.out / f"images/{name}/{frame:06d}.jpg", photo, FULL_COLOUR)
            write_picture(options.out / f"masks/{name}/{frame:06d}.png", alone.coverage(lens, pose), SMALL_PNG)
            if options.depth and index >= len(poses) - len(poses) // 4 and frame in (0, options.frames // 2):
                depth = alone.depth(lens.scaled(1 / 4), pose)
                write_depth(options.truth / "depth" / f"{name}_{frame:06d}.png", depth)
    if options.depth:
        write_json(options.truth / "depth" / "depth.json", {"scale": DEPTH_SCALE})


def write_easymocap(folder: Path, lens: Lens, poses: dict[str, np.ndarray], near: float, far: float) -> None:
    """Write intri.yml and extri.yml of cameras by name; near and far are the z-depths between which she stays."""
    folder.mkdir(parents=True, exist_ok=True)
    bounds = {"n": near, "f": far}
    files = {
        "intri.yml": dict.fromkeys(poses, cameras.opencv_lens(lens)),
        "extri.yml": {name: cameras.opencv_pose(pose) | bounds for name, pose in poses.items()},
    }
    for file, entries in files.items():
        storage = cv2.FileStorage(str(folder / file), cv2.FILE_STORAGE_WRITE)
        storage.startWriteStruct("names", cv2.FILE_NODE_SEQ)
        for name in poses:
            storage.write("", name)
        storage.endWriteStruct()
        for name, values in entries.items():
            for key, value in values.items():
                storage.write(f"{key}_{name}", value)
        storage.release()


if __name__ == "__main__":
    chosen = parse(sys.argv[1:])
    {"shelf": render_shelf, "object": render_object, "dancer": render_dancer}[chosen.scene](chosen)
