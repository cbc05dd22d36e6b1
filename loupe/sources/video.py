"""One video, taken while walking through a scene that holds still, and nothing else that is a picture."""

from __future__ import annotations

from pathlib import Path

from loupe.errors import InputError
from loupe.photos import Shot, check_view_name, find_photos
from loupe.video import find_videos


def recognises(capture: Path) -> bool:
    """Whether there is a video and no photo."""
    return bool(find_videos(capture)) and not find_photos(capture)


def shots(capture: Path) -> list[Shot]:
    """The video; raises `InputError` if there are several."""
    videos = find_videos(capture)
    if len(videos) != 1:
        names = ", ".join(video.name for video in videos) or "none"
        raise InputError(f"{capture}: expected one video, found {names}; put each walk into a capture of its own")
    check_view_name(videos[0].stem, repr(str(videos[0])))
    return [Shot(videos[0].stem, videos[0], is_walk=True)]
