"""Mutual-Channel Loss in a loop of one's own."""

import torch
import torch.nn.functional as F
from torch import nn

from fgvc_lib.losses.mutual_channel import MutualChannelLoss

# yours; ends in 10 classes × 3 channels
network = nn.Sequential(nn.Conv2d(3, 30, 3, stride=2), nn.ReLU())
classifier = nn.Linear(30, 10)  # yours
optimizer = torch.optim.SGD([*network.parameters(), *classifier.parameters()], lr=0.01)
# yours
loader = [(torch.randn(8, 3, 32, 32), torch.randint(10, (8,))) for _ in range(2)]

# ---- lifted ----
mutual_channel = MutualChannelLoss(num_classes=10, mu=1.5, lam=10.0)  # no parameters
for images, labels in loader:
    features = network(images)  # (B, 30, h, w), the map before its pooling
    loss = F.cross_entropy(classifier(features.amax((2, 3))), labels)
    terms = mutual_channel(features, labels)  # "dis" and "div", weighted
    loss = loss + sum(terms.values())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
