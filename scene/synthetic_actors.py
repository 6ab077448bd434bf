"""Builds and places what walks through the built-in capture; knows no photos and no masks."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy.random import Generator

from scene import synthetic_textures as paint
from scene.synthetic_room import HALF_LENGTH, HALF_WIDTH, Room
from scene.synthetic_solids import Solid, View, box, ellipsoid, rod
from scene.synthetic_textures import Texture

Ground = Float64[np.ndarray, "2"]
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


Builder = Callable[[Cast, Generator, Ground], list[Solid]]


def hire_cast(rng: Generator) -> Cast:
    """Paints the clothes and things of all actors."""
    colors: list[tuple[paint.Rgb, paint.Rgb, paint.Rgb]] = [
        ((0.9, 0.12, 0.1), (0.95, 0.92, 0.9), (0.12, 0.16, 0.36)),
        ((0.98, 0.8, 0.1), (0.1, 0.1, 0.12), (0.25, 0.25, 0.27)),
        ((0.12, 0.65, 0.9), (0.05, 0.2, 0.5), (0.62, 0.55, 0.42)),
        ((0.85, 0.2, 0.75), (0.98, 0.75, 0.92), (0.1, 0.1, 0.11)),
    ]
    people = []
    for k, (first, second, legs) in enumerate(colors):
        shirt = (
            paint.stripes(96, 96, (first, second), 14, down=k % 2 == 0)
            if k < 3
            else paint.checks(96, 96, first, second, (10, 14))
        )
        people.append(
            Outfit(
                shirt,
                paint.mottled(rng, 64, 64, legs, 16, 0.3),
                paint.mottled(
                    rng, 32, 32, (0.82 - 0.14 * k, 0.62 - 0.13 * k, 0.5 - 0.12 * k), 6, 0.08
                ),
                paint.mottled(rng, 48, 48, (0.3 - 0.06 * k, 0.18 - 0.03 * k, 0.1), 24, 0.4),
                paint.mottled(rng, 48, 48, (0.15, 0.5, 0.2), 10, 0.3),
                float(rng.uniform(1.6, 1.86)),
            )
        )
    gores = ((0.95, 0.2, 0.15), (0.98, 0.95, 0.9), (0.15, 0.35, 0.85), (0.98, 0.85, 0.15))
    return Cast(
        tuple(people),
        ball=paint.stripes(96, 192, gores, 8, down=False),
        umbrella=paint.stripes(64, 192, ((0.1, 0.6, 0.5), (0.95, 0.4, 0.1)), 12, down=False),
        suitcase=paint.stripes(96, 96, ((0.95, 0.45, 0.05), (0.75, 0.3, 0.03)), 16, down=False),
        cart=paint.tiles(rng, 96, 96, (3, 4), ((0.2, 0.75, 0.25), (0.85, 0.85, 0.2))),
        dark=paint.mottled(rng, 32, 32, (0.1, 0.1, 0.11), 8, 0.2),
        balloons=tuple(
            paint.mottled(rng, 32, 32, c, 6, 0.1)
            for c in ((0.95, 0.1, 0.3), (0.2, 0.8, 0.3), (0.5, 0.2, 0.9))
        ),
    )


def person(outfit: Outfit, rng: Generator, at: Ground, *, heading: float, bag: bool) -> list[Solid]:
    """Someone in mid-stride at a place on the floor."""
    scale = outfit.height / 1.75
    forward = np.array([np.cos(heading), np.sin(heading), 0.0])
    side = np.array([-forward[1], forward[0], 0.0])
    stride = float(rng.uniform(-0.3, 0.3))
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
    def build(cast: Cast, rng: Generator, at: Ground) -> list[Solid]:
        heading = float(rng.uniform(0, 2 * np.pi))
        return person(cast.people[number], rng, at, heading=heading, bag=number % 2 == 1)

    return build


def _with_umbrella(cast: Cast, rng: Generator, at: Ground) -> list[Solid]:
    heading = float(rng.uniform(0, 2 * np.pi))
    grip = (at[0] + 0.2 * np.cos(heading), at[1] + 0.2 * np.sin(heading))
    return [
        *person(cast.people[2], rng, at, heading=heading, bag=False),
        rod((*grip, 1.05), (*grip, 2.0), 0.015, cast.dark),
        ellipsoid((*grip, 2.0), (0.55, 0.55, 0.16), cast.umbrella),
    ]


def _ball(cast: Cast, rng: Generator, at: Ground) -> list[Solid]:
    size = float(rng.uniform(0.22, 0.32))
    height = float(rng.uniform(size, 1.7))
    return [
        ellipsoid((*at, height), (size,) * 3, cast.ball, yaw=float(rng.uniform(0, 6)), gloss=0.25)
    ]


def _suitcase(cast: Cast, rng: Generator, at: Ground) -> list[Solid]:
    yaw = float(rng.uniform(0, np.pi))
    reach = 0.2 * np.array([-np.sin(yaw), np.cos(yaw)])
    bars = [
        rod((*(at + sign * reach), 0.85), (*(at + sign * reach), 1.15), 0.015, cast.dark)
        for sign in (-1, 1)
    ]
    bar = rod((*(at - reach), 1.15), (*(at + reach), 1.15), 0.02, cast.dark)
    return [box((*at, 0.46), (0.16, 0.29, 0.4), cast.suitcase, yaw=yaw, gloss=0.25), *bars, bar]


def _cart(cast: Cast, rng: Generator, at: Ground) -> list[Solid]:
    """A small delivery car: body, cabin, four wheels."""
    yaw = float(rng.uniform(0, 2 * np.pi))
    along = np.array([np.cos(yaw), np.sin(yaw)])
    across = np.array([-along[1], along[0]])
    wheels = []
    for ahead in (-0.3, 0.3):
        for sign in (-1, 1):
            inner = at + ahead * along + sign * 0.24 * across
            outer = inner + sign * 0.06 * across
            wheels.append(rod((*inner, 0.13), (*outer, 0.13), 0.13, cast.dark))
    cabin = at - 0.12 * along
    return [
        box((*at, 0.36), (0.5, 0.25, 0.18), cast.cart, yaw=yaw, gloss=0.3),
        box((*cabin, 0.66), (0.28, 0.22, 0.15), cast.cart, yaw=yaw, gloss=0.3),
        *wheels,
    ]


def _balloon_bunch(cast: Cast, rng: Generator, at: Ground) -> list[Solid]:
    parts: list[Solid] = []
    for texture in cast.balloons:
        shift = rng.uniform(-0.22, 0.22, 2)
        height = float(rng.uniform(1.3, 2.0))
        center = (at[0] + shift[0], at[1] + shift[1], height)
        parts.append(ellipsoid(center, (0.17, 0.17, 0.21), texture, gloss=0.35))
        parts.append(rod((*at, 0.9), (*center[:2], height - 0.2), 0.008, cast.dark))
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


@dataclass(frozen=True)
class Extras:
    """The moving solids of each photo, in photo order."""

    solids: tuple[tuple[Solid, ...], ...]


def place_extras(rng: Generator, cast: Cast, views: tuple[View, ...], room: Room) -> Extras:
    """Up to three actors in front of each camera, and one who waits through several photos."""
    photos = len(views)
    cluttered = rng.permutation(photos) < round(CLUTTERED_SHARE * photos)
    waits = min(STAND_STILL, photos // 2)
    first = photos // 3
    waiting_place = _place(rng, views[first + waits // 2], room, near=1.7, far=2.1)
    heading = float(rng.uniform(0, 2 * np.pi))
    solids: list[tuple[Solid, ...]] = []
    for number, view in enumerate(views):
        chosen: list[Solid] = []
        if first <= number < first + waits:
            at = waiting_place + rng.normal(0, 0.015, 2)
            pose = np.random.default_rng(7)  # the same stance in every photo: this one stands
            chosen += person(cast.people[3], pose, at, heading=heading, bag=True)
        elif cluttered[number]:
            count = int(rng.choice((1, 2, 3), p=(0.25, 0.5, 0.25)))
            kinds = rng.choice(len(BUILDERS), size=count, replace=False, p=CHANCES)
            for order, kind in enumerate(kinds):
                near, far = (1.2, 2.0) if order == 0 else (1.6, 4.0)
                at = _place(rng, view, room, near=near, far=far)
                chosen += BUILDERS[kind](cast, rng, at)
        solids.append(tuple(chosen))
    return Extras(tuple(solids))


def _place(rng: Generator, view: View, room: Room, *, near: float, far: float) -> Ground:
    """A free place on the floor inside the view; the last try when none of 60 is free."""
    ahead = view.rotation[2, :2] / np.linalg.norm(view.rotation[2, :2])
    side = np.array([ahead[1], -ahead[0]])
    spread = 0.75 * view.width / 2 / view.focal
    place = view.position[:2] + near * ahead
    for _ in range(60):
        distance = rng.uniform(near, far)
        place = view.position[:2] + distance * (ahead + rng.uniform(-spread, spread) * side)
        inside = abs(place[0]) < HALF_LENGTH - 0.5 and abs(place[1]) < HALF_WIDTH - 0.5
        gap = np.linalg.norm(room.obstacles[:, :2] - place, axis=1) - room.obstacles[:, 2]
        if inside and gap.min() > 0.1:
            break
    return place
