"""The visible camera: light on surfaces, lamps, bloom, smoke, exposure and sensor noise."""

from __future__ import annotations

import numpy as np

from .noise import Grain, blur, grain, smear, white
from .painter import Fields
from .stage import Stage

GAMMA = 1 / 2.2
NEAREST_LAMPS = 6  # farther ones light nothing that can be seen
SMEARED = 0.12  # share of visible pictures with motion blur, more at night
MONOCHROME = 0.08
_LUMA = np.array((0.299, 0.587, 0.114), np.float32)
# What lamps and a camera's white balance make of a night: yellow, blue, magenta, green.
CASTS = ((1.25, 1.05, 0.45), (0.75, 0.95, 1.4), (1.2, 0.8, 1.15), (0.9, 1.15, 0.85))
_CURVE = (255.0 * (np.arange(4097, dtype=np.float64) / 4096) ** (2 * GAMMA)).astype(np.float32)
# Light of the sky and of the surroundings by daytime: sky zenith, sky horizon, ambient.
SKY = {
    "day": ((0.28, 0.50, 0.90), (0.85, 0.92, 1.0)),
    "dusk": ((0.10, 0.14, 0.30), (0.75, 0.42, 0.24)),
    "night": ((0.010, 0.013, 0.028), (0.055, 0.045, 0.045)),
}
AMBIENT = {"day": (1.0, 1.0, 1.0), "dusk": (0.36, 0.34, 0.42), "night": (0.055, 0.06, 0.085)}
TARGET = {"day": 0.42, "dusk": 0.21, "night": 0.10}  # mean linear value the exposure aims at


def render_visible(
    stage: Stage, fields: Fields, shared: Grain, smoke: np.ndarray | None, rng: np.random.Generator
) -> np.ndarray:
    """The visible picture (H, W, 3) uint8, sRGB-like gamma. `smoke` is an opacity map or None."""
    weather, chance = stage.weather, stage.chance
    height = fields.depth.shape[0]
    sky_part = fields.classes == 0
    texture = 1.0 + fields.grain * (0.65 * shared.fine + 0.6 * shared.middle + 0.5 * shared.coarse)
    texture += np.where(fields.grounded, 0.10 * shared.wide, 0.04 * shared.wide)
    np.clip(texture, 0.15, 3.0, out=texture)
    light = _light(stage, fields)
    radiance = fields.albedo * (light * texture) + fields.emission
    _paint_sky(stage, radiance, sky_part, rng)
    veil = np.array(SKY[weather.daytime][1], np.float32) * (
        0.8 if weather.daytime != "night" else 0.4
    )
    thickness = chance.uniform(150.0, 900.0)
    clear = np.where(sky_part, 1.0, np.exp(fields.depth * np.float32(-1.0 / thickness)))
    radiance *= clear
    radiance += veil[:, None, None] * (1.0 - clear)
    if weather.dark or weather.daytime == "day":
        _bloom(radiance, fields.emission, height, chance)
    if weather.daytime != "night" and chance.random() < 0.15:
        _face_the_sun(radiance, chance)
    if smoke is not None:
        tone = np.float32(0.65 * np.mean(AMBIENT[weather.daytime]) * chance.uniform(0.6, 1.2))
        radiance *= 1.0 - smoke
        radiance += tone * smoke * (1.0 + 0.12 * shared.coarse)
    blurred = SMEARED if weather.daytime != "night" else 2 * SMEARED
    if chance.random() < blurred:
        radiance = smear(radiance, chance.uniform(0.012, 0.035) * radiance.shape[-1])
    return _expose(stage, radiance, rng)


def _light(stage: Stage, fields: Fields) -> np.ndarray:
    """Irradiance (3, H, W) or (3, 1, 1): the sky, street lamps and the camera's own headlights."""
    weather, chance = stage.weather, stage.chance
    ambient = np.array(AMBIENT[weather.daytime], np.float32)[:, None, None]
    if not weather.dark:
        return ambient
    light = np.broadcast_to(ambient, (3, *fields.depth.shape)).copy()
    for lamp in sorted(stage.lamps, key=lambda lamp: lamp.z)[:NEAREST_LAMPS]:
        across, along = fields.across - lamp.x, fields.depth - lamp.z
        below = fields.upright - lamp.y
        square = across * across
        square += along * along
        square += below * below
        # A lamp shines downward: light falls off with distance and above the lamp's height.
        pool = (30.0 * lamp.strength) / (square + 8.0)
        pool *= np.clip(0.35 - 0.25 * below, 0.05, 1.0)
        for channel, share in zip(light, lamp.tint, strict=True):
            channel += np.float32(share) * pool
    if stage.camera.altitude < 3.0 and chance.random() < 0.6:
        reach = 60.0 / (fields.depth * fields.depth + 60.0)
        beam = reach * np.exp(-((fields.across / (0.25 * fields.depth + 1.0)) ** 2))
        beam *= np.where(fields.upright < 2.2, np.float32(0.8), np.float32(0.25))
        light += beam * np.array((1.0, 0.95, 0.85), np.float32)[:, None, None]
    return light


def _paint_sky(stage: Stage, radiance, sky_part, rng) -> None:
    weather, chance = stage.weather, stage.chance
    height, width = sky_part.shape
    zenith, horizon = (np.array(c, np.float32) for c in SKY[weather.daytime])
    if weather.daytime == "day":
        pale = np.float32(0.25 + 0.75 * weather.overcast)
        zenith = zenith + (np.float32(0.85) - zenith) * pale
    rows = np.arange(height, dtype=np.float32) / max(stage.camera.horizon / 2, 1.0)
    mix = np.clip(rows, 0.0, 1.0) ** 1.5
    cloud = 0.6 * grain(rng, height, width, height / 9, 2.5)
    cloud += 0.4 * grain(rng, height, width, height / 20, 2.0)
    cover = np.clip(0.35 * cloud + weather.overcast - 0.45, 0.0, 0.8)
    bright = {"day": 0.95, "dusk": 0.30, "night": 0.04}[weather.daytime]
    glare = chance.uniform(0.8, 1.25)
    for channel, top, low in zip(radiance, zenith, horizon, strict=True):
        base = (top + (low - top) * mix)[:, None]
        value = base + cover * (np.float32(bright) - base)
        np.copyto(channel, value * np.float32(glare), where=sky_part)


def _bloom(radiance: np.ndarray, emission: np.ndarray, height: int, chance) -> None:
    """Light scattered in the lens: a small and a wide blur of whatever glows, and streaks."""
    near, wide = chance.uniform(0.15, 0.6), chance.uniform(0.1, 0.6)
    streak = chance.uniform(0.05, 0.3) if chance.random() < 0.3 else 0.0
    for channel, glow in zip(radiance, emission, strict=True):
        if glow.max() > 0.3:
            channel += near * blur(glow, height / 40) + wide * blur(glow, height / 12)
            if streak:
                # Drops and grease on the glass drag a light along one line.
                channel += streak * smear(glow, height / 6)


def _face_the_sun(radiance: np.ndarray, chance) -> None:
    """The low sun in front of the lens: a bright spot, and a veil over everything around it."""
    _, height, width = radiance.shape
    rows = np.arange(height, dtype=np.float32) / height - np.float32(chance.uniform(-0.1, 0.3))
    columns = np.arange(width, dtype=np.float32) / width - np.float32(chance.uniform(0.0, 1.0))
    square = rows[:, None] ** 2 + columns[None, :] ** 2
    veil = np.float32(chance.uniform(0.2, 0.7)) * np.exp(square * np.float32(-5.0))
    veil += np.float32(2.0) * np.exp(square * np.float32(-60.0))
    for channel, share in zip(radiance, (1.0, 0.95, 0.85), strict=True):
        channel += np.float32(share) * veil


def _expose(stage: Stage, radiance: np.ndarray, rng) -> np.ndarray:
    weather, chance = stage.weather, stage.chance
    mean = float(np.minimum(radiance, 1.5).mean())
    wanted = TARGET[weather.daytime] * chance.uniform(0.7, 1.6)
    gain = min(wanted / max(mean, 1e-3), 7.0)
    balance = np.array((1 + chance.uniform(-0.06, 0.08), 1.0, 1 + chance.uniform(-0.08, 0.06)))
    if weather.dark and chance.random() < 0.6:
        cast = chance.random()
        balance *= 1 + cast * (np.array(chance.choice(CASTS)) - 1)
    radiance *= (gain * balance).astype(np.float32)[:, None, None]
    # A soft shoulder keeps the sky from turning into one flat white.
    np.maximum(radiance, 0.0, out=radiance)
    radiance /= 1.0 + 0.25 * radiance
    radiance *= 1.25
    # The curve is looked up on a square-root scale, where 4096 steps are fine enough for shadows.
    np.minimum(radiance, 1.0, out=radiance)
    np.sqrt(radiance, out=radiance)
    radiance *= 4096.0
    picture = _CURVE.take(radiance.astype(np.intp))
    _, height, width = picture.shape
    # Pale colours and black that is no black: cheap cameras, dirty glass, stray light.
    colourful = 0.0 if chance.random() < MONOCHROME else chance.uniform(0.35, 1.05)
    lift = chance.uniform(0.0, 75.0) if chance.random() < 0.6 else 0.0
    lift *= 0.4 if weather.daytime == "night" else 1.0
    luma = np.tensordot(_LUMA, picture, 1)
    luma *= np.float32(1 - colourful)
    picture *= np.float32(colourful)
    picture += luma
    picture *= np.float32(1 - lift / 255)
    picture += np.float32(lift)
    sigma = {"day": 1.0, "dusk": 1.8, "night": 3.0}[weather.daytime] * chance.uniform(0.6, 1.4)
    picture += sigma * white(rng, height, width)
    if colourful:
        picture += np.float32(0.5 * sigma) * rng.standard_normal(picture.shape, dtype=np.float32)
    np.clip(picture, 0.0, 255.0, out=picture)
    return np.ascontiguousarray(np.moveaxis((picture + 0.5).astype(np.uint8), 0, 2))
