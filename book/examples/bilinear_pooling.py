"""Bilinear pooling in a network of one's own."""

import torch
import torch.nn.functional as F
from torch import nn

from fgvc_lib.layers.bilinear import BilinearPool

network = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2), nn.ReLU())  # yours, unpooled
# yours
loader = [(torch.randn(8, 3, 32, 32), torch.randint(10, (8,))) for _ in range(2)]

# ---- lifted ----
pool = BilinearPool()  # outer product, signed square root, length one
classifier = nn.Linear(16 * 16, 10)  # 16 channels with 16 channels
optimizer = torch.optim.SGD([*network.parameters(), *classifier.parameters()], lr=0.01)
for images, labels in loader:
    z = pool(network(images))  # (B, 16, h, w) → (B, 256)
    loss = F.cross_entropy(classifier(z), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
