"""Bilinear CNN: second-order pooling of one or two networks, and a linear classifier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from pydantic import PositiveFloat
from torch import Tensor, nn

from fgvc_lib.backbones import Backbone, from_settings
from fgvc_lib.config import Fraction, checked
from fgvc_lib.layers.bilinear import BilinearPool, bilinear_pool
from fgvc_lib.methods.base import Method, Output, Phase


class BilinearCNN(Method):
    r"""Bilinear CNN (Lin, RoyChowdhury, Maji; ICCV 2015).

    .. math:: \Phi = \frac1L \sum_l f_A(l)\, f_B(l)^\top, \qquad
        z = \frac{y}{\lVert y \rVert_2}, \; y = \mathrm{sign}(\Phi)\sqrt{|\Phi|}, \\
        L = -\frac1B \sum_i \log \mathrm{softmax}(V z_i + v)_{y_i}

    ========  =================  =======  ===============================================================
    symbol    argument           default  source
    ========  =================  =======  ===============================================================
    f_A       ``backbone``                paper: VGG-16 up to relu5_3 (D-Net)
    f_B       ``second``         None     None: f_B = f_A, the paper's [D,D]
    \         ``root``           True     paper
    \         ``normalize``      True     paper
    ε         ``eps``            1e-5     PyTorch port; see :func:`fgvc_lib.layers.bilinear.signed_sqrt`
    \         ``head_fraction``  0.5      PyTorch port: 80 epochs of head, 80 of everything (or 55 and 25)
    \         ``head_lr_scale``  10       PyTorch port: 1.0 against 0.01, i.e. 100
    ========  =================  =======  ===============================================================

    Training has two phases, as in the paper: first the classifier on frozen features, at a large learning rate (z has
    length one, so its gradients are small), then everything. The run's learning rate is that of the second
    phase. ``head_lr_scale=10`` gives the classifier the port's 1.0 at this library's default rate of 0.1; set
    100 with the port's fine-tuning rate of 0.01. A backbone without pretrained weights has no features worth
    freezing: ``head_fraction=0`` trains everything from the start.

    Differences from the paper and from a widely used PyTorch port of it:
        Softmax cross-entropy is the final classifier; the paper trains linear SVMs on z for its final scores. The
        signed root is smooth at zero. Two maps of different size are averaged down to the smaller height and
        width. torch's default initialization of the classifier; the port has Kaiming's normal one, and lowers the
        learning rate by *test* accuracy; here the schedule does not look at any.

    Args:
        backbone: f_A, its last stage.
        num_classes: number of classes.
        second: f_B as plain data, a key of ``BACKBONES`` and its arguments: ``{"backbone": "vgg", "depth": 11}``.
        root, normalize, eps: of :class:`~fgvc_lib.layers.bilinear.BilinearPool`.
        head_fraction: fraction of the epochs for the first phase, in [0, 1).
        head_lr_scale: factor on the learning rate in the first phase.

    Output: ``terms`` ``ce``; ``maps`` ``features`` ``(B, M, h, w)`` of the backbone, ``bilinear`` ``(B, M, N)``, Φ, and
    with a second backbone ``features_second`` ``(B, N, h', w')``.
    """

    @checked
    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        second: Mapping[str, Any] | None = None,
        root: bool = True,
        normalize: bool = True,
        eps: float = 1e-5,
        head_fraction: Fraction = 0.5,
        head_lr_scale: PositiveFloat = 10.0,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.second = None if second is None else from_settings(second, "second")
        self.pool = BilinearPool(root=root, normalize=normalize, eps=eps)
        columns = backbone.out_channels if self.second is None else self.second.out_channels
        self.head = nn.Linear(backbone.out_channels * columns, num_classes)
        self.head_fraction = head_fraction
        self.head_lr_scale = head_lr_scale

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Output:
        labels = self.check_batch(images, labels)
        a = self.backbone(images)[self.backbone.last]  # (B, M, h, w)
        maps = {"features": a.detach()}
        b = None
        if self.second is not None:
            b = self.second(images)[self.second.last]  # (B, N, h', w')
            maps["features_second"] = b.detach()
            size = (min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3]))
            a, b = F.adaptive_avg_pool2d(a, size), F.adaptive_avg_pool2d(b, size)
        phi = bilinear_pool(a, b)  # (B, M, N)
        logits = self.head(self.pool.vector(phi).to(self.head.weight.dtype))  # (B, num_classes)
        terms = {"ce": self.cross_entropy(logits, labels)} if self.training and labels is not None else {}
        return Output(logits, terms, {**maps, "bilinear": phi.detach()})

    def phases(self) -> list[Phase]:
        """The classifier on frozen features, then everything."""
        everything = Phase([{"params": list(self.parameters())}], 1 - self.head_fraction)
        if self.head_fraction == 0:
            return [everything]
        head = {"params": list(self.head.parameters()), "lr_scale": self.head_lr_scale}
        return [Phase([head], self.head_fraction, "head"), everything]
