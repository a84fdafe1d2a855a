"""Diagrams of architectures: boxes for layers, stacks for feature maps, arrows with the shapes that flow along them.

diagram = Diagram(7, 2)
image = diagram.box("image", at=(0.6, 1))
maps = diagram.stack("features", at=(2.6, 1), color=COLORS[0])
diagram.arrow(image, maps, "(B, 3, H, W)")
show(diagram.figure, drawing=True, name="fig-…", caption="…", alt="…")
"""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch, Patch, Rectangle

from fgvc_study.figures import COLORS

GRAY = COLORS[6]


class Diagram:
    """A sheet of ``width`` by ``height`` inches, with the origin at the lower left."""

    def __init__(self, width: float, height: float) -> None:
        self.figure = plt.figure(figsize=(width, height), layout="none")
        self.axes = self.figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
        self.axes.set_axis_off()

    def box(
        self, text: str, *, at: tuple[float, float], size: tuple[float, float] = (1.1, 0.5), color: str = GRAY
    ) -> Patch:
        """A layer, centered ``at`` a point; ``size`` is width and height in inches."""
        low = at[0] - size[0] / 2, at[1] - size[1] / 2
        patch = FancyBboxPatch(low, *size, boxstyle="round,pad=0,rounding_size=0.08", fc=f"{color}22", ec=color, lw=1.2)
        self.axes.add_patch(patch)
        self.note(text, at=at)
        return patch

    def stack(
        self,
        text: str,
        *,
        at: tuple[float, float],
        size: tuple[float, float] = (0.6, 0.6),
        color: str = GRAY,
        count: int = 4,
    ) -> Patch:
        """Feature maps: ``count`` sheets, one behind the other, the front one ``at`` a point, ``text`` below."""
        for back in reversed(range(count)):
            low = at[0] - size[0] / 2 + 0.07 * back, at[1] - size[1] / 2 + 0.07 * back
            patch = Rectangle(low, *size, fc="white" if back else f"{color}44", ec=color, lw=1)
            self.axes.add_patch(patch)
        self.note(text, at=(at[0], at[1] - size[1] / 2 - 0.14))
        return patch

    def arrow(
        self, start: Patch, end: Patch, text: str = "", *, bend: float = 0.0, dashed: bool = False, color: str = "black"
    ) -> None:
        """From the edge of one shape to that of another, with ``text`` above its middle; ``bend`` curves it."""
        (x1, y1), (x2, y2) = (_center(patch) for patch in (start, end))
        style = {
            "arrowstyle": "-|>",
            "patchA": start,
            "patchB": end,
            "shrinkA": 1,
            "shrinkB": 1,
            "connectionstyle": f"arc3,rad={bend}",
            "linestyle": "--" if dashed else "-",
            "color": color,
        }
        self.axes.annotate("", (x2, y2), (x1, y1), arrowprops=style)
        middle = (x1 + x2) / 2 + bend * (y2 - y1) / 2, (y1 + y2) / 2 - bend * (x2 - x1) / 2
        self.note(text, at=(middle[0], middle[1] + 0.1), color=color)

    def note(self, text: str, *, at: tuple[float, float], color: str = "black") -> None:
        """Words without a shape, centered ``at`` a point."""
        self.axes.text(*at, text, ha="center", va="center", fontsize=8.5, color=color)


def _center(patch: Patch) -> tuple[float, float]:
    box = patch.get_path().get_extents(patch.get_patch_transform())
    return (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
