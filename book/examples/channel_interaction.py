"""Self-channel interaction and a contrastive loss in a loop of one's own."""

import torch
import torch.nn.functional as F
from torch import nn

from fgvc_lib.layers.channel_interaction import SelfChannelInteraction
from fgvc_lib.losses.contrastive import contrastive_loss
from fgvc_lib.losses.pairs import disjoint_pairs

network = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2), nn.ReLU())  # yours
classifier = nn.Linear(16, 4)  # yours
# yours; several images of a class in each batch
loader = [(torch.randn(8, 3, 32, 32), torch.arange(8) % 4) for _ in range(2)]

# ---- lifted ----
sci = SelfChannelInteraction(16)
parts = nn.ModuleList([network, sci, classifier])
optimizer = torch.optim.SGD(parts.parameters(), lr=0.01)
for images, labels in loader:
    features = sci(network(images)).mean((2, 3))  # (B, 16)
    a, b = disjoint_pairs(labels)  # half of the pairs of one class, half of two
    same = labels[a] == labels[b]
    contrast = contrastive_loss(features[a], features[b], same, margin=0.5)
    loss = F.cross_entropy(classifier(features), labels) + 2.0 * contrast
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
