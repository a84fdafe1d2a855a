"""The attention pyramid and the boxes that it draws, in a loop of one's own."""

import torch
import torch.nn.functional as F
from torch import nn

from fgvc_lib.layers.attention_pyramid import AttentionPyramid, feature_pyramid
from fgvc_lib.layers.roi_pyramid import ROIPyramid
from fgvc_lib.layers.roi_zoom import roi_zoom, union_box

# yours: 64 px → 16 × 16 → 8 × 8
lower = nn.Sequential(nn.Conv2d(3, 16, 3, stride=4, padding=1), nn.ReLU())
upper = nn.Sequential(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU())
# yours
loader = [(torch.randn(8, 3, 64, 64), torch.randint(10, (8,))) for _ in range(2)]

# ---- lifted ----
pyramid, attention = feature_pyramid([16, 32], 24), AttentionPyramid(24, levels=2)
rois = ROIPyramid(sizes=(1 / 4, 1 / 2), top_k=(3, 1))
heads = nn.ModuleList(nn.Linear(24, 10) for _ in range(2))
modules = nn.ModuleList([lower, upper, pyramid, attention, heads])
optimizer = torch.optim.SGD(modules.parameters(), lr=0.01)
for images, labels in loader:
    low, loss = lower(images), 0.0
    for stage in (1, 2):  # the second pass sees what the first one's boxes enclose
        maps = pyramid({"low": low, "high": upper(low)})  # each (B, 24, h, w)
        attended = attention(list(maps.values()))
        for head, f in zip(heads, attended.features, strict=True):
            loss = loss + F.cross_entropy(head(f.mean((2, 3))), labels)
        if stage == 1:
            boxes = torch.cat(rois(attended.masks, (64, 64)), dim=1)  # (B, 4, 4)
            low = roi_zoom(low, union_box(boxes, (64, 64)), (64, 64))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
