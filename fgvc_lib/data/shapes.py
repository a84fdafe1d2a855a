"""Signed-distance shapes with anti-aliased edges, laid over many images at once.

Everything is element-wise float32 arithmetic of ``+ - × ÷ √`` with min, max and floor, which IEEE 754 fixes to the bit:
the pixels are the same on every machine. (That is why turns are given by the tangent of the half angle, and why no
sum, sine or matrix product occurs.)
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray
F = np.float32


class Draws:
    """Uniform numbers, one column after the other, each as ``(B, 1, 1)``."""

    def __init__(self, uniform: Array) -> None:
        self.uniform, self.column = uniform, 0

    def __call__(self, low: float = 0.0, high: float = 1.0) -> Array:
        self.column += 1
        return F(low) + F(high - low) * self.uniform[:, self.column - 1, None, None]

    def choose(self, table: Array) -> Array:
        """A row of ``table`` for each image."""
        return table[(self().ravel() * F(len(table))).astype(np.int64)]


class Canvas:
    """Images as rows of red, green, blue, one row a pixel, and how many pixels a unit of length has."""

    def __init__(self, image: Array, pixels: Array) -> None:
        self.rows, self.per_image, self.pixels = image.reshape(-1, 3), image[0, :, :, 0].size, pixels

    def cover(self, distance: Array) -> Array:
        """Share of each pixel inside a shape, from the signed distance (negative inside)."""
        cover: Array = np.clip(F(0.5) - distance * self.pixels, F(0), F(1))
        return cover

    def paint(self, cover: Array, color: Array, shade: Array | None = None) -> None:
        """Lay ``color``, ``(B, 3)`` or ``(3,)``, times ``shade`` over the image, as far as ``cover`` is not zero."""
        touched = np.flatnonzero(cover)
        paint = np.broadcast_to(color, (len(cover), 3))[touched // self.per_image]  # (n, 3)
        if shade is not None:
            paint = paint * np.broadcast_to(shade, cover.shape).ravel()[touched, None]
        rows = self.rows[touched]
        self.rows[touched] = rows + cover.ravel()[touched, None] * (paint - rows)


def turn(x: Array, y: Array, tangent: Array | float) -> tuple[Array, Array]:
    """Coordinates in a frame turned counter-clockwise by an angle, given as the tangent of its half."""
    t = np.asarray(tangent, F)
    cosine, sine = (F(1) - t * t) / (F(1) + t * t), F(2) * t / (F(1) + t * t)
    return cosine * x + sine * y, cosine * y - sine * x


def ellipse(x: Array, y: Array, a: float | Array, b: float | Array) -> Array:
    """Approximate signed distance to an ellipse with half axes ``a`` and ``b``."""
    q = np.sqrt((x / F(a)) * (x / F(a)) + (y / F(b)) * (y / F(b)))
    distance: Array = (q - 1) * np.minimum(F(a), F(b))
    return distance


def leaf(x: Array, y: Array, length: float | Array, width: float | Array) -> Array:
    """A pointed leaf along x between ``±length``, bounded by two parabolas."""
    t = x / F(length)
    distance: Array = np.abs(y) - F(width) * (1 - t * t)
    return distance


def value_noise(draws: Draws, cells: int, size: int) -> Array:
    """Smooth random field in [0, 1): a grid of ``cells``² numbers, interpolated, ``(B, S, S)``."""
    grid = np.concatenate([draws() for _ in range(cells * cells)], 1).reshape(-1, cells, cells)
    t = (np.arange(size, dtype=F) + F(0.5)) * F((cells - 1) / size)
    low = np.minimum(t.astype(np.int64), cells - 2)
    f = t - low.astype(F)
    f = f * f * (3 - 2 * f)
    rows = grid[:, low] + f[:, None] * (grid[:, low + 1] - grid[:, low])  # (B, S, cells)
    field: Array = rows[:, :, low] + f * (rows[:, :, low + 1] - rows[:, :, low])
    return field
