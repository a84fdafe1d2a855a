"""Birds drawn from numbers, many at once, with the place of every part.

Lengths are in *bird units*: the bird looks to the right, its body is about one unit long, y points up.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fgvc_lib.data.shapes import Array, Canvas, Draws, F, ellipse, leaf, turn, value_noise

PARTS = ("crown", "eye", "beak", "breast", "wing", "tail")
"""The parts in the order of masks, boxes and points."""

WHITE, BLACK, RED, YELLOW, ORANGE, BLUE = (
    (0.96, 0.95, 0.92),
    (0.08, 0.08, 0.10),
    (0.80, 0.12, 0.12),
    (0.95, 0.80, 0.15),
    (0.93, 0.50, 0.12),
    (0.25, 0.45, 0.85),
)

# back, belly
PLUMAGES = np.array(
    [
        [(0.50, 0.38, 0.27), (0.80, 0.70, 0.56)],
        [(0.45, 0.48, 0.52), (0.78, 0.79, 0.78)],
        [(0.44, 0.47, 0.28), (0.76, 0.75, 0.52)],
        [(0.36, 0.46, 0.58), (0.74, 0.78, 0.80)],
        [(0.58, 0.44, 0.40), (0.84, 0.74, 0.68)],
    ],
    F,
)
BERRIES = np.array([WHITE, BLACK, RED, YELLOW, ORANGE, BLUE], F)

PLAIN: dict[str, float | tuple[float, float, float]] = {
    "cap": 0.0,
    "cap_color": BLACK,
    "ring": 0.0,
    "eyeline": 0.0,
    "beak_length": 0.27,
    "beak_width": 0.085,
    "spot": 0.0,
    "streaks": 0.0,
    "bar": -1.0,
    "bar2": -1.0,
    "bar_color": WHITE,
    "tail_from": 2.0,
    "tail_to": 2.0,
    "tail_color": WHITE,
}
"""The look of a bird without a mark: sizes in bird units, colors as red, green, blue."""


class Drawing(NamedTuple):
    """``images`` uint8 ``(B, 3, S, S)``; ``masks`` bool ``(B, P, S, S)``, where each part is to be seen."""

    images: Array
    masks: Array


DRAWS = 128
"""Uniform numbers reserved per image."""


def draw_birds(uniform: Array, looks: dict[str, Array], discriminative: Array, *, size: int) -> Drawing:
    """Draw one bird per row.

    Args:
        uniform: ``(B, DRAWS)`` float32 in [0, 1): everything that varies between the images of a class.
        looks: the parameters of :data:`PLAIN`, each ``(B,)`` or ``(B, 3)``.
        discriminative: ``(B,)``, the part that nothing may hide.
        size: side of the images in pixels.
    """
    b = len(uniform)
    draws = Draws(uniform)
    look = {k: v.astype(F)[:, None, None] if v.ndim == 1 else v.astype(F) for k, v in looks.items()}

    # ---- pose: image coordinates in [-1, 1] → bird units
    steps = (np.arange(size, dtype=F) + F(0.5)) * F(2 / size) - 1
    x0, y0 = steps[None, None, :], -steps[None, :, None]
    scale = draws(0.74, 0.92)
    mirror = np.where(draws() < F(0.5), F(1), F(-1))
    tilt = draws(-0.10, 0.12)
    cx, cy = draws(-0.06, 0.06), draws(-0.12, 0.12)
    canvas = _background(draws, x0, y0, size)
    px, py = (x0 - cx) / scale * mirror, (y0 - cy) / scale
    canvas.pixels = scale * F(size / 2)
    x, y = turn(px, py, tilt)  # (B, S, S)

    # ---- perch and legs
    perch = ellipse(px, py + F(0.60) + draws(-0.06, 0.06) * px, 3.0, 0.055)
    canvas.paint(canvas.cover(perch), np.array((0.36, 0.26, 0.18), F), 1 + F(3) * (py + F(0.60)))
    for foot in (-0.10, 0.06):
        leg = np.maximum(np.abs(px - F(foot) - F(0.1) * (py + F(0.55))) - F(0.018), np.abs(py + F(0.47)) - F(0.13))
        canvas.paint(canvas.cover(leg), np.array((0.55, 0.38, 0.25), F))

    plumage = draws.choose(PLUMAGES) * (draws(0.88, 1.12)[:, :, 0, None])
    back, belly = plumage[:, 0], plumage[:, 1]
    light = 1 + F(0.22) * y

    # ---- tail: s runs along it, n across
    s, n = turn(x + F(0.42), y + F(0.04), draws(-0.16, 0.02))
    s = -s
    width = np.maximum(F(0.075) + F(0.06) * s, F(0.05))
    tail = canvas.cover(np.maximum(np.maximum(np.abs(n) - width, s - F(0.58)), -s))
    canvas.paint(tail, back * F(0.82), light)
    tail_band = tail * canvas.cover(np.maximum(look["tail_from"] - s, s - look["tail_to"]))
    canvas.paint(tail_band, look["tail_color"])
    tail_region = tail * canvas.cover(F(0.22) - s)

    # ---- beak, before the head that covers its root; hx, hy are the head's frame
    hx, hy = turn(x - F(0.40) - draws(-0.03, 0.03), y - F(0.34) - draws(-0.04, 0.03), draws(-0.10, 0.10))
    t = (hx - F(0.17)) / look["beak_length"]
    beak_shape = np.abs(hy + F(0.01) + F(0.02) * t * t) - look["beak_width"] * (1 - t)
    beak = canvas.cover(np.maximum(beak_shape, np.maximum(-t, t - 1) * look["beak_length"]))
    canvas.paint(beak, np.array((0.25, 0.22, 0.20), F), 1 + F(2.2) * hy)

    # ---- body and head in one outline
    bx, by = turn(x + F(0.04), y + F(0.08), 0.17)
    body = ellipse(bx, by, 0.52, 0.335)
    head = ellipse(hx, hy, 0.235, 0.215)
    blend = np.maximum(F(0.20) - np.abs(body - head), F(0))
    outline = canvas.cover(np.minimum(body, head) - blend * blend * F(1 / 0.8))
    canvas.paint(outline, back, light)
    # the belly, with a soft edge
    lower = np.clip(F(0.5) - (by + F(0.05) - F(0.45) * bx) * F(5), F(0), F(1))
    canvas.paint(outline * lower, belly, light)

    # ---- breast
    ux, uy = x - F(0.31), y - F(0.01)
    breast_region = outline * canvas.cover(ellipse(ux, uy, 0.17, 0.17))
    spot = canvas.cover(ellipse(ux - F(0.02), uy, 0.11, 0.11)) * (look["spot"] > 0)
    stripe = np.abs(ux * F(12) - np.floor(ux * F(12)) - F(0.5)) * F(1 / 12) - F(0.018)
    streaks = canvas.cover(stripe) * (look["streaks"] > 0)
    canvas.paint(breast_region * np.maximum(spot, streaks), np.array(BLACK, F))

    # ---- wing: feathers, then bars across it
    wx, wy = turn(x + F(0.22), y, 0.10)
    wing_shape = leaf(wx - F(0.04), wy + F(0.3) * wx * wx, 0.46, 0.19)
    wing = outline * canvas.cover(wing_shape)
    feather = wx * F(9) + wy * F(6)
    feather = np.abs(feather - np.floor(feather) - F(0.5)) * F(0.22)
    canvas.paint(wing, back * F(0.74), light - feather)
    across = wx - F(0.55) * wy
    bars = np.minimum(np.abs(across - F(0.13)) - look["bar"], np.abs(across + F(0.04)) - look["bar2"])
    canvas.paint(wing * canvas.cover(bars), look["bar_color"])
    breast_region = breast_region * (1 - wing)
    wing_region = wing * canvas.cover(np.abs(across - F(0.05)) - F(0.17))

    # ---- crown and eye
    cap_line = F(0.055) - hy - F(0.25) * hx
    cap_region = outline * canvas.cover(np.maximum(head, cap_line))
    canvas.paint(cap_region * look["cap"], look["cap_color"])
    ex, ey = hx - F(0.085), hy - F(0.02)
    eye_region = canvas.cover(ellipse(ex, ey, 0.105, 0.105))
    canvas.paint(eye_region * look["ring"], np.array(WHITE, F))
    line = canvas.cover(np.maximum(np.abs(ey) - F(0.05), np.abs(ex) - F(0.20))) * outline
    canvas.paint(line * look["eyeline"], np.array(BLACK, F))
    eye_region = np.maximum(eye_region, line * look["eyeline"])
    canvas.paint(canvas.cover(ellipse(ex, ey, 0.05, 0.05)), np.array((0.05, 0.04, 0.04), F))
    canvas.paint(canvas.cover(ellipse(ex - F(0.015), ey - F(0.018), 0.014, 0.014)), np.array(WHITE, F))

    regions = [cap_region, eye_region, beak, breast_region, wing_region, tail_region]
    masks = np.stack([r > F(0.5) for r in regions], 1)  # (B, P, S, S)
    hidden = _occlude(draws, canvas, x0, y0, masks, discriminative, size)
    masks[:, 2] &= outline <= F(0.5)  # the head covers the root of the beak
    masks &= ~hidden[:, None]

    # ---- color cast, then 8 bits
    cast = F(1) + F(0.24) * (np.concatenate([draws() for _ in range(3)], 2)[:, 0] - F(0.5))  # (B, 3)
    image = canvas.rows.reshape(b, size * size, 3) * cast[:, None]
    levels = np.floor(np.clip(image, F(0), F(1)) * F(255) + F(0.5)).astype(np.uint8)
    images = np.ascontiguousarray(levels.transpose(0, 2, 1)).reshape(b, 3, size, size)
    return Drawing(images, masks)


def _background(draws: Draws, x: Array, y: Array, size: int) -> Canvas:
    """Blurred foliage: two colors mixed by coarse and fine noise, a gradient, and berries in the colors of marks."""
    palette = np.array(
        [
            [(0.55, 0.70, 0.80), (0.70, 0.78, 0.72)],
            [(0.30, 0.42, 0.25), (0.58, 0.66, 0.38)],
            [(0.62, 0.56, 0.42), (0.42, 0.40, 0.30)],
            [(0.74, 0.66, 0.60), (0.50, 0.55, 0.62)],
            [(0.22, 0.30, 0.28), (0.45, 0.52, 0.40)],
        ],
        F,
    )
    pair = draws.choose(palette)  # (B, 2, 3)
    mix = value_noise(draws, 4, size) + F(0.5) * (value_noise(draws, 6, size) - F(0.5))
    mix = np.clip(mix + draws(-0.4, 0.4) * y, F(0), F(1))
    image = pair[:, None, None, 0] + mix[..., None] * (pair[:, 1] - pair[:, 0])[:, None, None]  # (B, S, S, 3)
    canvas = Canvas(image, np.full((len(pair), 1, 1), size / 2, F))
    for _ in range(4):
        bx, by, radius = draws(-1, 1), draws(-1, 1), draws(0.03, 0.07)
        canvas.paint(canvas.cover(ellipse(x - bx, y - by, radius, radius)), draws.choose(BERRIES))
    return canvas


def _occlude(draws: Draws, canvas: Canvas, x: Array, y: Array, masks: Array, discriminative: Array, size: int) -> Array:
    """Paint two leaves anywhere but on the discriminative part; the pixels they hide, ``(B, S, S)``."""
    keep = masks[np.arange(len(masks)), discriminative]
    hidden = np.zeros(keep.shape, bool)
    canvas.pixels = np.full((len(masks), 1, 1), size / 2, F)
    for _ in range(2):
        cx, cy = draws(-0.8, 0.8), draws(-0.8, 0.8)
        lx, ly = turn(x - cx, y - cy, draws(-1, 1))
        cover = canvas.cover(leaf(lx, ly, draws(0.22, 0.36), draws(0.08, 0.14)))
        # a leaf that would touch the discriminative part is not there
        cover *= ~(keep & (cover > 0)).any((1, 2), keepdims=True)
        green = np.array([(0.30, 0.50, 0.18), (0.45, 0.55, 0.20), (0.55, 0.42, 0.16)], F)
        canvas.paint(cover, draws.choose(green), 1 - F(0.25) * (np.abs(ly) < F(0.012)))
        hidden |= cover > F(0.5)
    return hidden
