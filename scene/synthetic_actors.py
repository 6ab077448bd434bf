"""Builds and places what walks through the built-in capture; knows no photos and no masks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy.random import Generator

from scene import synthetic_textures as paint
from scene.synthetic_room import HALF_LENGTH, HALF_WIDTH, Room
from scene.synthetic_solids import Solid, View, box, ellipsoid, rod
from scene.synthetic_textures import Texture

Ground = Float64[np.ndarray, "2"]
AT_ONCE = 3  # actors in a cluttered photo
LONGEST_STAY = 4  # photos that see the same actor
STEP = 0.22  # metres that an actor walks from photo to photo
TOO_NEAR = 0.8  # metres; nearer actors would fill the photo
STAND_STILL = 6  # photos in a row that see the one who waits
CLUTTERED_SHARE = 0.85  # of the training photos


@dataclass(frozen=True)
class Outfit:
    """The textures of one person, who comes back in many photos in the same clothes."""

    shirt: Texture
    trousers: Texture
    skin: Texture
    hair: Texture
    bag: Texture
    height: float


@dataclass(frozen=True)
class Cast:
    """Everybody and everything that moves."""

    people: tuple[Outfit, ...]
    ball: Texture
    umbrella: Texture
    suitcase: Texture
    cart: Texture
    dark: Texture
    balloons: tuple[Texture, ...]


def hire_cast(rng: Generator) -> Cast:
    """Paints the clothes and things of all actors."""
    looks: list[tuple[paint.Rgb, paint.Rgb]] = [  # shirt and trousers
        ((0.9, 0.1, 0.12), (0.2, 0.3, 0.8)),
        ((0.98, 0.8, 0.08), (0.8, 0.35, 0.1)),
        ((0.1, 0.62, 0.95), (0.92, 0.9, 0.84)),
        ((0.9, 0.2, 0.75), (0.15, 0.65, 0.62)),
    ]
    people = []
    for k, (shirt, legs) in enumerate(looks):
        skin = (0.82 - 0.14 * k, 0.62 - 0.13 * k, 0.5 - 0.12 * k)
        hair = (0.3 - 0.06 * k, 0.18 - 0.03 * k, 0.1)
        people.append(
            Outfit(
                shirt=paint.mottled(rng, 96, 96, shirt, 10, 0.22),
                trousers=paint.mottled(rng, 64, 64, legs, 16, 0.25),
                skin=paint.mottled(rng, 32, 32, skin, 6, 0.08),
                hair=paint.mottled(rng, 48, 48, hair, 24, 0.4),
                bag=paint.mottled(rng, 48, 48, (0.15, 0.62, 0.2), 10, 0.25),
                height=float(rng.uniform(1.6, 1.86)),
            )
        )
    gores = ((0.95, 0.2, 0.15), (0.98, 0.95, 0.9), (0.15, 0.35, 0.85), (0.98, 0.85, 0.15))
    return Cast(
        tuple(people),
        ball=paint.stripes(96, 192, gores, 8, down=False),
        umbrella=paint.stripes(64, 192, ((0.1, 0.7, 0.55), (0.98, 0.45, 0.1)), 6, down=False),
        suitcase=paint.stripes(96, 96, ((0.98, 0.5, 0.05), (0.88, 0.42, 0.04)), 16, down=False),
        cart=paint.tiles(rng, 96, 96, (3, 4), ((0.3, 0.85, 0.25), (0.45, 0.92, 0.3))),
        dark=paint.mottled(rng, 32, 32, (0.1, 0.1, 0.11), 8, 0.2),
        balloons=tuple(
            paint.mottled(rng, 32, 32, c, 6, 0.1)
            for c in ((0.95, 0.1, 0.3), (0.2, 0.8, 0.3), (0.5, 0.2, 0.9))
        ),
    )


@dataclass(frozen=True)
class Pose:
    """Where an actor stands on the floor, which way it goes, and how far into its stride it is."""

    at: Ground
    heading: float
    phase: float


Builder = Callable[[Cast, Generator, Pose], list[Solid]]


def person(outfit: Outfit, pose: Pose, *, bag: bool) -> list[Solid]:
    """Someone in mid-stride at a place on the floor."""
    scale, heading, at = outfit.height / 1.75, pose.heading, pose.at
    forward = np.array([np.cos(heading), np.sin(heading), 0.0])
    side = np.array([-forward[1], forward[0], 0.0])
    stride = 0.28 * float(np.sin(pose.phase))
    swing = -stride

    def spot(ahead: float | int, left: float | int, up: float) -> Float64[np.ndarray, "3"]:
        place = ahead * forward + left * side + np.array([0.0, 0.0, up])
        return np.array([at[0], at[1], 0.0]) + scale * place

    torso = spot(0, 0, 1.14)
    head = spot(0.03, 0, 1.6)
    parts = [
        ellipsoid(torso, scale * np.array([0.14, 0.22, 0.36]), outfit.shirt, yaw=heading),
        ellipsoid(head, scale * np.array([0.105, 0.09, 0.13]), outfit.skin, yaw=heading),
        ellipsoid(
            spot(-0.02, 0, 1.65), scale * np.array([0.11, 0.1, 0.11]), outfit.hair, yaw=heading
        ),
    ]
    for sign in (-1, 1):
        hip, foot = spot(0, sign * 0.1, 0.9), spot(sign * stride, sign * 0.11, 0.05)
        parts.append(rod(hip, foot, 0.085 * scale, outfit.trousers))
        shoe = spot(sign * stride + 0.06, sign * 0.11, 0.05)
        parts.append(ellipsoid(shoe, (0.14, 0.06, 0.06), outfit.hair, yaw=heading))
        shoulder = spot(0, sign * 0.2, 1.38)
        hand = spot(sign * swing, sign * 0.3, 0.85)
        parts.append(rod(shoulder, hand, 0.05 * scale, outfit.shirt))
        parts.append(ellipsoid(hand, (0.06,) * 3, outfit.skin))
    if bag:
        parts.append(box(spot(-0.24, 0, 1.2), (0.1, 0.16, 0.22), outfit.bag, yaw=heading))
    return parts


def _walker(number: int) -> Builder:
    def build(cast: Cast, _: Generator, pose: Pose) -> list[Solid]:
        return person(cast.people[number], pose, bag=number % 2 == 1)

    return build


def _with_umbrella(cast: Cast, _: Generator, pose: Pose) -> list[Solid]:
    ahead = np.array([np.cos(pose.heading), np.sin(pose.heading)])
    grip = pose.at + 0.2 * ahead
    return [
        *person(cast.people[2], pose, bag=False),
        rod((*grip, 1.05), (*grip, 2.0), 0.015, cast.dark),
        ellipsoid((*grip, 2.0), (0.55, 0.55, 0.16), cast.umbrella, yaw=pose.heading),
    ]


def _ball(cast: Cast, rng: Generator, pose: Pose) -> list[Solid]:
    size = float(rng.uniform(0.24, 0.36))
    height = float(rng.uniform(size, 1.7))
    return [ellipsoid((*pose.at, height), (size,) * 3, cast.ball, yaw=pose.heading, gloss=0.25)]


def _suitcase(cast: Cast, _: Generator, pose: Pose) -> list[Solid]:
    reach = 0.2 * np.array([-np.sin(pose.heading), np.cos(pose.heading)])
    left, right = pose.at - reach, pose.at + reach
    return [
        box((*pose.at, 0.46), (0.16, 0.29, 0.4), cast.suitcase, yaw=pose.heading, gloss=0.25),
        rod((*left, 0.85), (*left, 1.15), 0.015, cast.dark),
        rod((*right, 0.85), (*right, 1.15), 0.015, cast.dark),
        rod((*left, 1.15), (*right, 1.15), 0.02, cast.dark),
    ]


def _cart(cast: Cast, _: Generator, pose: Pose) -> list[Solid]:
    """A small delivery car: body, cabin, four wheels."""
    along = np.array([np.cos(pose.heading), np.sin(pose.heading)])
    across = np.array([-along[1], along[0]])
    wheels = []
    for ahead in (-0.3, 0.3):
        for sign in (-1, 1):
            inner = pose.at + ahead * along + sign * 0.24 * across
            outer = inner + sign * 0.06 * across
            wheels.append(rod((*inner, 0.13), (*outer, 0.13), 0.13, cast.dark))
    cabin = pose.at - 0.12 * along
    return [
        box((*pose.at, 0.36), (0.5, 0.25, 0.18), cast.cart, yaw=pose.heading, gloss=0.3),
        box((*cabin, 0.66), (0.28, 0.22, 0.15), cast.cart, yaw=pose.heading, gloss=0.3),
        *wheels,
    ]


def _balloon_bunch(cast: Cast, rng: Generator, pose: Pose) -> list[Solid]:
    parts: list[Solid] = []
    for texture in cast.balloons:
        shift = rng.uniform(-0.22, 0.22, 2)
        height = float(rng.uniform(1.3, 2.0))
        center = (pose.at[0] + shift[0], pose.at[1] + shift[1], height)
        parts.append(ellipsoid(center, (0.17, 0.17, 0.21), texture, gloss=0.35))
        parts.append(rod((*pose.at, 0.9), (*center[:2], height - 0.2), 0.008, cast.dark))
    return parts


BUILDERS: tuple[Builder, ...] = (
    _walker(0),
    _walker(1),
    _walker(2),
    _walker(3),
    _with_umbrella,
    _ball,
    _suitcase,
    _cart,
    _balloon_bunch,
)
CHANCES = np.array([0.17, 0.15, 0.12, 0.12, 0.1, 0.11, 0.08, 0.08, 0.07])
WAITING_KIND = 3


@dataclass(frozen=True)
class Appearance:
    """One actor's way through the room, from photo `first` to photo `last`.

    Attributes:
        step: metres from photo to photo.
        seed: of what stays the same about it, such as the size of a ball.
    """

    kind: int
    first: int
    last: int
    start: Ground
    step: Ground
    heading: float
    seed: int

    def solids(self, cast: Cast, photo: int) -> list[Solid]:
        """The actor as that photo sees it."""
        gone = photo - self.first
        pose = Pose(self.start + gone * self.step, self.heading, 2.1 * gone + self.seed % 7)
        return BUILDERS[self.kind](cast, np.random.default_rng(self.seed), pose)

    def is_there(self, photo: int, view: View) -> bool:
        """The actor is in the room, and not so near that it fills the photo."""
        return self.first <= photo <= self.last and bool(self._seen_at(photo, view)[2] > TOO_NEAR)

    def is_seen(self, photo: int, view: View) -> bool:
        """The middle of the actor is in the photo."""
        column = self._seen_at(photo, view)[0]
        return self.is_there(photo, view) and bool(0 < column < view.width)

    def _seen_at(self, photo: int, view: View) -> Float64[np.ndarray, "3"]:
        place = self.start + (photo - self.first) * self.step
        return view.project(np.array([[*place, 1.0]]))[0]


def place_extras(
    rng: Generator, cast: Cast, views: tuple[View, ...], room: Room
) -> tuple[tuple[Solid, ...], ...]:
    """The moving solids of each photo.

    Actors appear in front of the camera, walk on for a few photos and are gone; one stands nearly
    still for STAND_STILL photos. Some photos see none of them.
    """
    photos = len(views)
    empty = rng.permutation(photos) < round((1 - CLUTTERED_SHARE) * photos)
    waits = range(photos // 3, photos // 3 + min(STAND_STILL, photos // 2))
    place = _place(rng, views[waits[len(waits) // 2]], room, 1.7, 2.1)
    still = Appearance(
        WAITING_KIND, waits[0], waits[-1], place, rng.normal(0, 0.012, 2), rng.uniform(0, 6.2), 7
    )
    appearances = [still]
    for photo, view in enumerate(views):
        here = [a for a in appearances if a.is_seen(photo, view)]
        for order in range(len(here), AT_ONCE):
            taken = [a.kind for a in here]
            here.append(_enter(rng, photo, view, room, taken, near=order == 0))
            appearances.append(here[-1])
    return tuple(
        ()
        if empty[photo] and photo not in waits
        else tuple(
            solid
            for actor in appearances
            if actor.is_there(photo, view)
            for solid in actor.solids(cast, photo)
        )
        for photo, view in enumerate(views)
    )


def _enter(
    rng: Generator, photo: int, view: View, room: Room, taken: Sequence[int], *, near: bool
) -> Appearance:
    """An actor of a kind that is not `taken`, new in the view, for one to LONGEST_STAY photos."""
    last = photo + int(rng.integers(0, LONGEST_STAY))
    start = _place(rng, view, room, *((1.2, 1.9) if near else (1.5, 3.4)))
    heading, step = 0.0, np.zeros(2)
    for _ in range(20):
        heading = float(rng.uniform(0, 2 * np.pi))
        step = STEP * np.array([np.cos(heading), np.sin(heading)])
        if _is_free(start + (last - photo) * step, room):
            break
    chances = CHANCES.copy()
    chances[list(taken)] = 0
    kind = int(rng.choice(len(BUILDERS), p=chances / chances.sum()))
    return Appearance(kind, photo, last, start, step, heading, int(rng.integers(1 << 30)))


def _place(rng: Generator, view: View, room: Room, near: float, far: float) -> Ground:
    """A free place on the floor inside the view; the last try when none of 60 is free."""
    ahead = view.rotation[2, :2] / np.linalg.norm(view.rotation[2, :2])
    side = np.array([ahead[1], -ahead[0]])
    spread = 0.75 * view.width / 2 / view.focal
    place = view.position[:2] + near * ahead
    for _ in range(60):
        distance = rng.uniform(near, far)
        place = view.position[:2] + distance * (ahead + rng.uniform(-spread, spread) * side)
        if _is_free(place, room):
            break
    return place


def _is_free(place: Ground, room: Room) -> bool:
    """Nothing stands there, and it is away from the walls."""
    inside = abs(place[0]) < HALF_LENGTH - 0.5 and abs(place[1]) < HALF_WIDTH - 0.5
    gap = np.linalg.norm(room.obstacles[:, :2] - place, axis=1) - room.obstacles[:, 2]
    return bool(inside and gap.min() > 0.1)
