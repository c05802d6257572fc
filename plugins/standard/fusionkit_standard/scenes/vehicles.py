"""Cars, trucks and buses: what is put on their bodies."""

from __future__ import annotations

from math import hypot

from .body import Body, Pose
from .painter import BLACK
from .profiles import (
    BUS_PAINT,
    CAR_WINDOWS,
    ESTATE,
    GLASS,
    HATCHBACK,
    OFFROAD,
    PAINT,
    PICKUP,
    RUBBER,
    SEDAN,
    VAN,
)
from .stage import Stage, grey, tint


def _heat(stage: Stage, running: bool) -> dict[str, float]:
    """Temperatures of body, engine cover, tyres, glass and exhaust end in degC."""
    chance, weather = stage.chance, stage.weather
    # Lacquer mirrors the sky more or less, and the sun heats dark paint more than light one.
    body = weather.air + chance.uniform(-4.5, 2.5) + weather.heat * chance.uniform(0.2, 1.3)
    return {
        "body": body,
        "engine": body + (chance.uniform(6, 22) if running else chance.uniform(-0.5, 2.5)),
        "tyre": weather.air + (chance.uniform(6, 20) if running else chance.uniform(-1, 2.5)),
        "glass": weather.air - chance.uniform(1, 5) + (2.0 if running else 0.0),
        "low": body + (chance.uniform(3, 10) if running else -0.5),
        "roof": body - chance.uniform(1.0, 4.0) * (1.0 - weather.sun) + weather.heat * 0.6,
    }


def _footprint(body: Body, running: bool) -> None:
    length, half = body.pose.length, body.pose.width / 2 * 1.08
    corners = [
        body.ground(a, s)
        for a, s in (
            (-0.15, -half),
            (length + 0.15, -half),
            (length + 0.15, half),
            (-0.15, half),
        )
    ]
    if body.stage.weather.sun > 0.2:
        reach = 0.9 if body.pose.x > 0 else -0.9
        corners = [(x + (reach if k in (2, 3) else 0), z) for k, (x, z) in enumerate(corners)]
    warmth = body.stage.chance.uniform(1.5, 8.0) if running else -1.0
    body.stage.shadow(corners, 0.25, warmth)


def draw_car(stage: Stage, x: float, z: float, heading: float, running: bool) -> None:
    """A sedan, estate, hatchback, off-road car, van or pickup centred at (x, z)."""
    chance = stage.chance
    model = chance.choice((SEDAN, SEDAN, ESTATE, HATCHBACK, OFFROAD, OFFROAD, VAN, PICKUP))
    tall = chance.uniform(0.94, 1.07)
    profile = tuple((a, y * tall, w, kind) for a, y, w, kind in model)
    size = chance.uniform(4.0, 4.8)
    if model is HATCHBACK:
        size = chance.uniform(3.6, 4.2)
    elif model in (VAN, PICKUP):
        size = chance.uniform(4.6, 5.4)
    pose = Pose(x, z, heading, size, chance.uniform(1.7, 1.9) * tall)
    body = Body(stage, "car", stage.thing("car"), pose)
    _footprint(body, running)
    heat, paint = _heat(stage, running), tint(chance.choice(PAINT), chance.uniform(0.7, 1.25))
    shade = body.shade
    roof = body.part(tint(paint, shade["top"]), heat["roof"])
    glass_bright = chance.uniform(0.8, 2.5) * (1 + 2 * stage.weather.sun)
    parts = {
        "u": body.part(tint(paint, 0.55), heat["low"], heat_grain=0.9),
        "l": body.part(tint(paint, shade["end"]), heat["body"]),
        "b": roof,
        "r": roof,
        "g": body.part(tint(GLASS, glass_bright), heat["glass"], grain=0.15),
        "e": body.part(tint(paint, shade["top"]), heat["engine"], heat_grain=0.9),
        "n": body.part(tint(paint, shade["end"]), heat["engine"] - 2.0),
    }
    side = body.part(tint(paint, shade["side"]), heat["body"] - 0.5)
    tyre = body.part(RUBBER, heat["tyre"])
    hub = body.part((0.25, 0.25, 0.26), heat["tyre"] + 3.0)
    length = pose.length
    if not body.side:
        body.wheels((), 0.34, tyre, hub)
    body.extrude(profile, parts, side)
    if body.side:
        s = body.side * pose.width / 2
        # The lower half of a door mirrors the road: warmer than the upper half, and darker.
        door = body.part(tint(paint, shade["side"] * 0.75), heat["body"] + chance.uniform(0.0, 4.0))
        body.side_panel(0.03 * length, 0.97 * length, 0.36, 0.66 * tall, door)
        for window in CAR_WINDOWS[model]:
            body.face(
                [(a * length, s * (0.96 if y < 1.3 else 0.83), y * tall) for a, y in window],
                parts["g"],
            )
        sill = body.part(tint(paint, 0.4), heat["low"])
        body.side_panel(0.1 * length, 0.92 * length, 0.26, 0.38, sill)
        body.wheels((0.19 * length, 0.82 * length), 0.34, tyre, hub)
    if running and body.rear_visible():
        exhaust = body.part((0.1, 0.1, 0.1), heat["engine"] + chance.uniform(8.0, 30.0))
        at = chance.choice((-0.55, 0.55)) * pose.width / 2
        body.end_panel(-0.02, at - 0.09, at + 0.09, 0.24, 0.38, exhaust)
    body.lights(0.66 if model in (SEDAN, ESTATE, HATCHBACK) else 0.8, 0.17, running)


def draw_truck(stage: Stage, x: float, z: float, heading: float, running: bool) -> None:
    """A lorry: a warm cab in front of a taller cargo box, tank or open bed."""
    chance = stage.chance
    length, width = chance.uniform(6.0, 8.5), chance.uniform(2.2, 2.5)
    instance = stage.thing("truck")
    cab_length = chance.uniform(1.7, 2.1)
    whole = Body(stage, "truck", instance, Pose(x, z, heading, length, width))
    _footprint(whole, running)
    heat, paint = _heat(stage, running), chance.choice(PAINT + BUS_PAINT)
    cargo_paint = chance.choice(((0.72, 0.72, 0.70), (0.55, 0.55, 0.52), paint, (0.25, 0.2, 0.12)))
    shade = whole.shade
    cargo_heat = stage.weather.air + chance.uniform(-4, 1) + stage.weather.heat * 0.6
    top = chance.uniform(2.7, 3.5)
    fx, fz = whole.forward
    rear_length = length - cab_length - 0.15
    shift_rear, shift_cab = (rear_length - length) / 2, (length - cab_length) / 2
    rear = Body(
        stage,
        "truck",
        instance,
        Pose(x + shift_rear * fx, z + shift_rear * fz, heading, rear_length, width),
    )
    cab = Body(
        stage,
        "truck",
        instance,
        Pose(x + shift_cab * fx, z + shift_cab * fz, heading, cab_length, width * 0.95),
    )
    tyre = whole.part(RUBBER, heat["tyre"])
    hub = whole.part((0.2, 0.2, 0.2), heat["tyre"] + 3.0)
    frame = whole.part((0.05, 0.05, 0.05), heat["low"], heat_grain=0.9)
    glass = whole.part(tint(GLASS, 1 + 2 * stage.weather.sun), heat["glass"], grain=0.15)

    def draw_rear() -> None:
        end = rear.part(tint(cargo_paint, shade["end"]), cargo_heat)
        roof = rear.part(tint(cargo_paint, shade["top"]), cargo_heat - 1.0)
        side = rear.part(tint(cargo_paint, shade["side"]), cargo_heat - 0.5, heat_grain=0.35)
        rib = rear.part(tint(cargo_paint, shade["side"] * 0.8), cargo_heat + 0.8)
        rear.side_panel(0.0, rear_length, 0.45, 0.95, frame)
        if rear.rear_visible():
            rear.end_panel(0.0, -width / 2, width / 2, 0.45, 0.95, frame)
        profile = (
            (0.0, 0.95, 1.0, "d"),
            (0.0, top, 1.0, "r"),
            (1.0, top, 1.0, "d"),
            (1.0, 0.95, 1.0, ""),
        )
        rear.extrude(profile, {"d": end, "r": roof}, side)
        for k in range(1, 6):
            rear.side_panel(
                k * rear_length / 6 - 0.05, k * rear_length / 6 + 0.05, 1.0, top - 0.05, rib
            )
        if rear.rear_visible():
            rear.end_panel(-0.01, -0.04, 0.04, 1.0, top - 0.1, rib)
            rear.end_panel(-0.01, -width / 2, width / 2, 0.9, 1.02, rib)
            rear.lights(0.7, 0.2, running)
        rear.wheels((0.8, 1.9) if rear_length > 4.8 else (1.0,), 0.47, tyre, hub)

    def draw_cab() -> None:
        height = min(top - 0.2, chance.uniform(2.3, 2.8))
        parts = {
            "u": frame,
            "n": cab.part(tint(paint, shade["end"]), heat["engine"], heat_grain=0.9),
            "g": glass,
            "r": cab.part(tint(paint, shade["top"]), heat["roof"]),
            "b": cab.part(tint(paint, shade["end"]), heat["body"]),
        }
        side = cab.part(tint(paint, shade["side"]), heat["body"] + 1.0)
        profile = (
            (0.0, 0.45, 1.0, "b"),
            (0.0, height, 0.96, "r"),
            (0.86, height, 0.94, "g"),
            (0.98, 1.5, 1.0, "n"),
            (1.0, 0.75, 1.0, "u"),
            (1.0, 0.4, 1.0, ""),
        )
        cab.extrude(profile, parts, side)
        cab.side_panel(0.3, cab_length * 0.88, 1.5, height - 0.25, glass, 0.99)
        if cab.front_visible():
            cab.lights(0.8, 0.22, running)
        cab.wheels((cab_length * 0.6,), 0.47, tyre, hub)

    # Whichever half is farther from the camera goes first.
    order = (draw_rear, draw_cab)
    if hypot(cab.pose.x, cab.pose.z) > hypot(rear.pose.x, rear.pose.z):
        order = (draw_cab, draw_rear)
    for draw in order:
        draw()


def draw_bus(stage: Stage, x: float, z: float, heading: float, running: bool) -> None:
    """A city bus: a long box with a band of windows, lit from inside when it is dark."""
    chance, weather = stage.chance, stage.weather
    length, width, top = chance.uniform(9.0, 12.0), 2.5, chance.uniform(2.9, 3.3)
    body = Body(stage, "bus", stage.thing("bus"), Pose(x, z, heading, length, width))
    _footprint(body, running)
    heat, paint = _heat(stage, running), chance.choice(BUS_PAINT)
    shade = body.shade
    lit = weather.dark and running
    glow = (0.42, 0.38, 0.27) if lit else BLACK
    inside = heat["glass"] + (chance.uniform(2, 7) if running else 0.0)
    glass = body.part(tint(GLASS, 1.5 + 2 * weather.sun), inside, grain=0.2, glow=glow)
    front_glass = body.part(
        tint(GLASS, 1.5 + 2 * weather.sun), inside - 1.5, grain=0.15, glow=tint(glow, 0.3)
    )
    end = body.part(tint(paint, shade["end"]), heat["body"])
    hot = body.part(tint(paint, shade["end"] * 0.9), heat["engine"], heat_grain=0.9)
    roof = body.part(tint(paint, shade["top"]), heat["roof"])
    side = body.part(tint(paint, shade["side"]), heat["body"] - 0.4, heat_grain=0.35)
    skirt = body.part(tint(grey(chance, 0.1, 0.6), shade["side"]), heat["low"])
    tyre = body.part(RUBBER, heat["tyre"])
    hub = body.part((0.3, 0.3, 0.3), heat["tyre"] + 3.0)
    profile = (
        (0.0, 0.3, 1.0, "h"),
        (0.0, 1.3, 1.0, "d"),
        (0.0, top, 0.98, "r"),
        (0.99, top, 0.98, "d"),
        (1.0, 1.2, 1.0, "d"),
        (1.0, 0.3, 1.0, ""),
    )
    body.extrude(profile, {"d": end, "r": roof, "h": hot}, side)
    half = width / 2
    if body.rear_visible():
        body.end_panel(-0.02, -half * 0.8, half * 0.8, 1.75, top - 0.45, glass)
    elif body.front_visible():
        body.end_panel(length, -half * 0.9, half * 0.9, 1.15, top - 0.5, front_glass)
        light = (1.8, 1.0, 0.1) if weather.dark else (0.25, 0.15, 0.0)
        sign = body.part((0.3, 0.2, 0.02), heat["body"] + 3, glow=light)
        body.end_panel(length, -half * 0.6, half * 0.6, top - 0.4, top - 0.12, sign)
    body.side_panel(0.1, length - 0.1, 0.35, 0.62, skirt)
    count = 7
    pitch = (length - 0.8) / count
    for k in range(count):
        body.side_panel(
            0.4 + k * pitch + 0.08, 0.4 + (k + 1) * pitch - 0.08, 1.35, top - 0.55, glass, 0.99
        )
    for door in (0.42, 0.86):
        body.side_panel(door * length, door * length + 1.0, 0.45, top - 0.6, front_glass, 0.99)
    body.wheels((0.22 * length, 0.78 * length), 0.48, tyre, hub)
    body.lights(0.62, 0.24, running)
