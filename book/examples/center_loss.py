"""Center Loss in a loop of one's own."""

import torch
import torch.nn.functional as F
from torch import nn

from fgvc_lib.losses.center import CenterLoss

map_net = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2), nn.ReLU())  # yours
network = nn.Sequential(map_net, nn.AdaptiveAvgPool2d(1), nn.Flatten())
classifier = nn.Linear(16, 10, bias=False)  # yours
optimizer = torch.optim.SGD([*network.parameters(), *classifier.parameters()], lr=0.01)
# yours
loader = [(torch.randn(8, 3, 32, 32), torch.randint(10, (8,))) for _ in range(2)]

# ---- lifted ----
center = CenterLoss(num_classes=10, feature_dim=16)  # nothing to optimize
for images, labels in loader:
    features = network(images)  # (B, 16)
    loss = F.cross_entropy(classifier(features), labels)
    loss = loss + 0.003 * center(features, labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    center.update(features.detach(), labels)  # after the step
