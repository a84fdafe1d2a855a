"""Mutual-Channel Loss in a loop of one's own."""

import torch
import torch.nn.functional as F
from torch import nn

from fgvc_lib.losses.mutual_channel import MutualChannelLoss

network = nn.Sequential(nn.Conv2d(3, 30, 3, stride=2), nn.ReLU())  # yours; ends in 10 classes × 3 channels
classifier = nn.Linear(30, 10)  # yours
optimizer = torch.optim.SGD([*network.parameters(), *classifier.parameters()], lr=0.01)
loader = [(torch.randn(8, 3, 32, 32), torch.randint(10, (8,))) for _ in range(2)]  # yours

# ---- lifted ----
mutual_channel = MutualChannelLoss(num_classes=10, mu=1.5, lam=10.0)  # no parameters, no state
for images, labels in loader:
    features = network(images)  # (B, 30, h, w), the map before its pooling
    loss = F.cross_entropy(classifier(features.amax((2, 3))), labels)
    loss = loss + sum(mutual_channel(features, labels).values())  # the terms "dis" and "div", weighted
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
