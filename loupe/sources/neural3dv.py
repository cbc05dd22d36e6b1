"""Neural 3D Video's layout: one video for each camera that stands still, and `poses_bounds.npy` with a row for each.

Li et al. 2022, https://github.com/facebookresearch/Neural_3D_Video; the rows are LLFF's (`loupe.sources.llff`), in the
order of the videos' names. Frame n of every video is of one moment. The first camera tests, as in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from loupe.errors import InputError
from loupe.photos import Photo, Shot, check_view_name
from loupe.sources import llff
from loupe.sources.given import Given
from loupe.video import count_frames, find_videos


def recognises(capture: Path) -> bool:
    """Whether there are poses and videos."""
    return llff.recognises(capture) and bool(find_videos(capture))


def shots(capture: Path) -> list[Shot]:
    """Every frame of every video, named `cam00_000000`.

    Raises:
        InputError: the videos differ in length, or a name is not safe.
    """
    videos = find_videos(capture)
    lengths = {video: count_frames(video) for video in videos}
    shortest, longest = (pick(videos, key=lambda video: lengths[video]) for pick in (min, max))
    if lengths[shortest] != lengths[longest]:
        found = f"{shortest.name} has {lengths[shortest]} frames, {longest.name} {lengths[longest]}"
        raise InputError(f"{capture}: {found}; cut the videos to the same moments")
    for video in videos:
        check_view_name(video.stem, repr(str(video)))
    numbers = range(lengths[shortest])
    return [
        Shot(f"{video.stem}_{number:06d}", video, video.stem, number, still=number)
        for video in videos
        for number in numbers
    ]


def cameras(capture: Path, photos: Sequence[Photo]) -> list[Given]:
    """The given cameras, all frames of one camera alike. Raises `InputError` as LLFF's does."""
    names = [video.stem for video in find_videos(capture)]
    rows = llff.read_rows(capture, names)
    given = [llff.camera(capture, photo, rows[photo.camera_id]) for photo in photos]
    return [one._replace(part="test" if one.photo.camera_id == names[0] else "train") for one in given]
