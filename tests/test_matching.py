"""Matches in the database: of the pairs that were chosen and no others, whatever the photos' names and bodies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from test_poses import CONFIG, HEIGHT, WIDTH, photograph, texture, true_camera

from loupe import matching
from loupe.images import write_image
from loupe.matching import MORE, USUAL, Matches, SfmConfig, detect, match, own_lenses, workspace
from loupe.photos import Photo
from loupe.undistort import Lens


def photo(file: str, width: int = WIDTH, height: int = HEIGHT) -> Photo:
    return Photo(Path(file).stem, file, width, height, width, height, 1, None, "", 1.0, 0.5)


@pytest.fixture(scope="module")
def two_places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Photo]]:
    """Three photos of the squares and three of a wall, in turn, under names that a list cannot hold."""
    folder = tmp_path_factory.mktemp("two places")
    lens = Lens(WIDTH, HEIGHT, 300.0, 300.0, WIDTH / 2, HEIGHT / 2)
    wall = texture(7).clip(0, 255).astype(np.uint8)
    photos = []
    for index in range(3):
        write_image(folder / f"a, {index} (1).png", photograph(true_camera(index), lens))
        turned = cv2.warpAffine(wall, cv2.getRotationMatrix2D((160, 120), 9.0 * index, 1.0), (WIDTH, HEIGHT))
        write_image(folder / f"wall {index}.png", turned)
        photos += [photo(f"a, {index} (1).png"), photo(f"wall {index}.png")]
    return folder, photos


def matches_of(
    two_places: tuple[Path, list[Photo]], is_walk: bool, config: SfmConfig
) -> tuple[Matches, set[frozenset[str]]]:
    """The matches, and the names of each two photos that were compared with success."""
    import pycolmap

    folder, photos = two_places
    with workspace() as work:
        detect(work / "a.db", own_lenses(photos), photos, folder, config, USUAL)
        found = match(work / "a.db", photos, is_walk, config, USUAL)
        with pycolmap.Database.open(work / "a.db") as opened:
            names = {image.image_id: image.name for image in opened.read_all_images()}
            pairs = [pycolmap.pair_id_to_image_pair(pair) for pair in opened.read_all_matches()[0]]
    assert set(names.values()) == {one.file for one in photos}
    return found, {frozenset(names[number] for number in pair) for pair in pairs}


def test_photos_of_two_places_hang_together_in_two_groups(two_places: tuple[Path, list[Photo]]) -> None:
    found, _ = matches_of(two_places, False, CONFIG)
    squares, wall = ([one.file for one in two_places[1][start::2]] for start in (0, 1))
    assert found.groups == [squares, wall]
    assert (found.compared, found.matching) == (15, 6)
    assert found.flat >= 3  # the wall's at least
    assert "photos hang together in groups of 3, 3" in str(found)


def test_of_many_photos_those_that_look_alike_are_compared(two_places: tuple[Path, list[Photo]]) -> None:
    """Names and order say nothing here: in both, photos of two places take turns."""
    config = CONFIG.model_copy(update={"exhaustive_up_to": 4})
    found, pairs = matches_of(two_places, False, config)
    assert (found.compared, found.matching, [len(group) for group in found.groups]) == (6, 6, [3, 3])
    assert all(len({name[0] for name in pair}) == 1 for pair in pairs)


def test_a_walk_is_matched_along_its_order(
    two_places: tuple[Path, list[Photo]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching, "pairs_along_walk", lambda count, most: [(0, 2), (count - 2, count - 4)])
    found, pairs = matches_of(two_places, True, CONFIG)
    assert (found.compared, found.matching) == (2, 2)
    assert pairs == {frozenset({f"a, {one} (1).png", f"a, {one + 1} (1).png"}) for one in (0, 1)}


def test_the_dearer_setting_compares_more() -> None:
    config = CONFIG.model_copy(update={"exhaustive_up_to": 5})
    assert len(matching._choose(Path(), range(15), False, config, MORE)) == 15 * 14 / 2


def test_each_body_size_and_zoom_has_a_lens_of_its_own() -> None:
    wide = replace(photo("wide.jpg"), focal=300.0, camera="Maker One")
    photos = [photo("a.jpg"), photo("b.jpg"), photo("tall.jpg", HEIGHT, WIDTH), wide]
    photos += [replace(wide, focal=500.0), replace(wide, camera="Maker Two"), replace(wide, name="again")]
    lenses = own_lenses(photos)
    assert [len(group) for group in lenses.values()] == [2, 1, 2, 1, 1]
    assert [lens.params for lens in lenses][:3] == [(), (), (300.0, WIDTH / 2, HEIGHT / 2, 0.0)]


def test_photos_of_two_sizes_have_two_cameras(tmp_path: Path) -> None:
    import pycolmap

    files = {"small.png": (80, 60), "large.png": (160, 120), "other.png": (80, 60)}
    for file, (width, height) in files.items():
        write_image(tmp_path / file, np.full((height, width, 3), 90, np.uint8))
    photos = [photo(file, *size) for file, size in files.items()]
    with workspace() as work:
        detect(work / "a.db", own_lenses(photos), photos, tmp_path, CONFIG, USUAL)
        with pycolmap.Database.open(work / "a.db") as opened:
            cameras = {image.name: opened.read_camera(image.camera_id) for image in opened.read_all_images()}
    assert {name: (camera.width, camera.height) for name, camera in cameras.items()} == files
    assert cameras["small.png"].camera_id == cameras["other.png"].camera_id != cameras["large.png"].camera_id
