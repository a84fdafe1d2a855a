"""Trilinear attention sampling and distillation in a loop of one's own."""

import torch
import torch.nn.functional as F
from torch import nn

from fgvc_lib.layers.attention_sampler import attention_sample
from fgvc_lib.layers.trilinear import TrilinearAttention, average_map, random_maps
from fgvc_lib.losses.distillation import DistillationLoss

attention_net = nn.Sequential(nn.Conv2d(3, 16, 3, stride=4), nn.ReLU())  # yours
map_net = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2), nn.ReLU())  # yours
network = nn.Sequential(map_net, nn.AdaptiveAvgPool2d(1), nn.Flatten())
names = ("attention", "master", "part")
heads = nn.ModuleDict({name: nn.Linear(16, 10) for name in names})
modules = nn.ModuleList([attention_net, network, heads])
optimizer = torch.optim.SGD(modules.parameters(), lr=0.01)
# yours; its images have twice the side that the network sees
loader = [(torch.randn(8, 3, 64, 64), torch.randint(10, (8,))) for _ in range(2)]

# ---- lifted ----
attend, distil = TrilinearAttention(), DistillationLoss(temperature=10)
generator = torch.Generator().manual_seed(0)
for images, labels in loader:
    seen = attention_net(images)  # (B, 16, h, w)
    maps = attend(seen.detach())  # a map for each channel
    whole = attention_sample(images, average_map(maps)[:, 0], (32, 32), limit=4)
    one = random_maps(maps, generator=generator)[:, 0]
    near = attention_sample(images, one, (32, 32), limit=4)
    master, part = heads["master"](network(whole)), heads["part"](network(near))
    logits = (heads["attention"](seen.mean((2, 3))), master, part)
    loss = sum(F.cross_entropy(x, labels) for x in logits) + distil(master, part)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
