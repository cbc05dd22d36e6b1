"""The scene `object`: one potted plant on a transparent ground, seen from all around.

Scene units; the camera's target is the origin, the cameras stand 4 away from it.
"""

import numpy as np
from shelf_scene import moved, potted_bush
from studio import Lamp, Part

LAMPS = [Lamp((-4, -5, 7), (0, 0, 0), 4.0, (5.0, 4.8, 4.5)), Lamp((5, 4, 5), (0, 0, 0), 3.0, (2.6, 2.8, 3.2))]
AMBIENT = 0.4
SCALE = 1.5


def plant(rng: np.random.Generator) -> list[Part]:
    """The house plant of the shelf, centred about the origin and as large as the picture allows."""
    parts = moved(potted_bush(rng), (0, 0, -0.66))
    return [Part(p.shape._replace(vertices=SCALE * p.shape.vertices), p.colour, p.finish, p.roughness) for p in parts]
