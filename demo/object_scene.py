"""The scene `object`: one potted plant on a transparent ground, seen from all around.

Scene units; the camera's target is the origin, the cameras stand 4 away from it.
"""

import numpy as np
from shelf_scene import moved, potted_bush
from studio import Lamp, Part

LAMPS = [Lamp((-4, -5, 7), (0, 0, 0), 4.0, (13.0, 12.5, 11.7)), Lamp((5, 4, 5), (0, 0, 0), 3.0, (7.0, 7.6, 8.6))]
AMBIENT = 0.6
SCALE = 1.7


def plant(rng: np.random.Generator) -> list[Part]:
    """The house plant of the shelf, centred about the origin and as large as the picture allows."""
    parts = moved(potted_bush(rng), (0, 0, -0.66))
    return [Part(p.shape._replace(vertices=SCALE * p.shape.vertices), p.colour, p.finish, p.roughness) for p in parts]
