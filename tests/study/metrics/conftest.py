"""A method whose maps are given."""

import pytest
import torch

from fgvc_lib.backbones import resnet
from fgvc_lib.methods.mutual_channel import MutualChannel


@pytest.fixture
def with_features():
    """A maker of methods of two classes, from the cell of a 4 × 4 map in which each channel is 1."""

    def made(cells):
        """A method of two classes whose channel k is 1 in ``cells[k]`` and 0 elsewhere, None for a silent channel."""
        method = MutualChannel(resnet("small", width=4, last_channels=len(cells)), 2)
        maps = torch.zeros(1, len(cells), 4, 4)
        for k, cell in enumerate(cells):
            if cell is not None:
                maps[0, k, cell[0], cell[1]] = 1
        method.backbone.forward = lambda images: {method.backbone.last: maps.expand(len(images), -1, -1, -1)}
        return method

    return made
