"""Blocks behind the stages of a backbone."""

import pytest
import torch
from torch import nn

from fgvc_lib.backbones import resnet, vgg
from fgvc_lib.layers.attach import attach
from fgvc_lib.layers.channel_interaction import SelfChannelInteraction


class Double(nn.Module):
    def forward(self, x):
        return 2 * x


@pytest.mark.parametrize("make", [lambda: resnet("small", width=4), lambda: vgg(11, width=8, blocks=3)])
def test_every_stage_of_a_backbone(make):
    images = torch.randn(2, 3, 16, 16)
    for position, stage in enumerate(make().stages):
        backbone = make().eval()
        plain = backbone(images)
        attach(backbone, stage, Double())
        out = backbone(images)
        torch.testing.assert_close(out[stage], 2 * plain[stage])
        for lower in backbone.stages[:position]:
            assert torch.equal(out[lower], plain[lower])
        resumed = backbone.resume(stage, out[stage])
        assert all(torch.equal(resumed[name], out[name]) for name in backbone.stages[position + 1 :])


def test_plain_checkpoints_still_load():
    plain, backbone = resnet("small", width=4), resnet("small", width=4)
    attach(backbone, "layer2", SelfChannelInteraction(8))
    result = backbone.load_state_dict(plain.state_dict(), strict=False)
    assert not result.unexpected_keys
    assert all(".block." in key for key in result.missing_keys)


def test_what_passed_is_seen_only_when_asked():
    backbone = resnet("small", width=4)
    attached = attach(backbone, "layer2", Double())
    backbone(torch.randn(2, 3, 16, 16))
    assert attached.seen is None
    attached.seen = seen = []
    out = backbone(torch.randn(2, 3, 16, 16))
    ((x, z),) = seen
    assert z is out["layer2"]
    assert torch.equal(z, 2 * x)


def test_bad_places_and_blocks_are_refused():
    backbone = resnet("small", width=4)
    with pytest.raises(ValueError, match="no stage 'layer9' to attach to: this backbone has layer1, layer2, layer3"):
        attach(backbone, "layer9", nn.Identity())
    attach(backbone, "layer1", nn.Conv2d(4, 5, 1))
    with pytest.raises(ValueError, match=r"must keep the shape of its map, \(1, 4, 8, 8\), got \(1, 5, 8, 8\)"):
        backbone(torch.zeros(1, 3, 16, 16))
