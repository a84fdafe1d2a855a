"""TASN: Looking for the Devil in the Details (Zheng, Fu, Zha, Luo; CVPR 2019)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from fgvc_lib.backbones import Backbone, from_settings
from fgvc_lib.config import GROUP, checked
from fgvc_lib.layers.attention_net import AttentionNet
from fgvc_lib.layers.attention_sampler import sample_at, sampling_grid
from fgvc_lib.layers.trilinear import TrilinearAttention, average_map, random_maps
from fgvc_lib.losses.distillation import DistillationLoss
from fgvc_lib.methods.base import Method, Output

Source = Literal["attention", "uniform", "resize"]
Size = PositiveInt | tuple[PositiveInt, PositiveInt]


@dataclass(frozen=True, kw_only=True, config=GROUP)
class Attention:
    """The attention net and what is made of its features.

    Attributes:
        backbone: a backbone as plain data, ``{"backbone": name, **its arguments}``; the default is the published net,
            with a 28×28 map at 224 px.
        dilations: of the multi-dilation convolutions; ``[]`` for none.
        input_size: side, or height and width, of the net's input, resized from the image.
        spatial_norm, relation_norm, scale: of :func:`~fgvc_lib.layers.trilinear.trilinear_attention`.
        unique: count equal maps once in the average and in the random choice, see
            :func:`~fgvc_lib.layers.trilinear.unique_maps`.
    """

    backbone: Mapping[str, Any] = Field(
        default_factory=lambda: {"backbone": "resnet", "depth": 18, "strides": [1, 1, 2, 1]}
    )
    dilations: Sequence[Sequence[int]] = ((1, 2), (1, 2, 3))
    input_size: Size = 224
    spatial_norm: bool = True
    relation_norm: bool = True
    scale: float = 1.0
    unique: bool = False


@dataclass(frozen=True, kw_only=True, config=GROUP)
class Sampling:
    """How a map samples the image.

    Attributes:
        limit, equal_zoom: of :func:`~fgvc_lib.layers.attention_sampler.axis_magnification`.
        resize_map: first resize maps to the image's size, corners aligned, which smooths the steps between cells.
        structure_power: exponent of the average map; the official implementation squares it. (It sums where the paper
            averages: the sampler cannot tell.)
        gradient: let the master's and part net's losses train the attention net through the sampled positions. Off in
            the official implementation.
    """

    limit: float | None = 4.0
    equal_zoom: bool = False
    resize_map: bool = False
    structure_power: float = 1.0
    gradient: bool = False


@dataclass(frozen=True, kw_only=True, config=GROUP)
class Distillation:
    """From the part net to the master.

    Attributes:
        weight: λ; 0 for no distillation.
        temperature, detach_teacher, square_temperature: of
            :func:`~fgvc_lib.losses.distillation.distillation_loss`.
    """

    weight: float = 1.0
    temperature: PositiveFloat = 10.0
    detach_teacher: bool = True
    square_temperature: bool = False


RELEASED: dict[str, Any] = {
    "attention": {"scale": 7.0, "unique": True},
    "sampling": {"equal_zoom": True, "resize_map": True, "structure_power": 2.0},
    "distillation": {"detach_teacher": False},
    "shared_classifier": True,
    "master_weight": 0.5,
    "part_weight": 0.5,
}
"""What the official MXNet code does and the paper does not say, as arguments of :class:`TASN`."""


class TASN(Method):
    r"""Trilinear attention sampling network.

    An attention net turns the image into one map per channel, :math:`M(X)`. The average map samples the
    *structure-preserved* image :math:`I_s`, a random one the *detail-preserved* image :math:`I_d`. A master net learns
    from :math:`I_s`, a part net with the same convolutions from :math:`I_d`, and what the part net sees is distilled
    into the master:

    .. math::
        L = w_a L_{cls}(a, y) + w_m L_{cls}(q_s, y) + w_d L_{cls}(q_d, y) + \lambda L_{soft}(q_s, q_d)

    At test the attention net and the master alone predict. The images are the high-resolution source, normally at
    least twice ``input_size``: otherwise there is nothing to magnify.

    =================== ============================ ========= =====================================================
    symbol              argument                     default   source
    =================== ============================ ========= =====================================================
    A(M), R(M)          ``structure``, ``detail``    attention paper
    largest zoom        ``sampling.limit``           4         official implementation, first round; none in paper
    λ                   ``distillation.weight``      1         official implementation
    T                   ``distillation.temperature`` 10        official implementation
    :math:`w_a`         ``attention_weight``         1         official implementation
    :math:`w_m, w_d`    ``master_, part_weight``     1         paper; officially ½, on two classifiers each
    =================== ============================ ========= =====================================================

    Part and master images pass the shared convolutions as one batch, as in the official implementation: in training
    BatchNorm normalizes both by the same statistics. Deviations: those of
    :class:`~fgvc_lib.layers.attention_net.AttentionNet` and of the sampler. :data:`RELEASED` holds what the official
    implementation adds to the paper.

    Args:
        backbone: the part and master nets' convolutions; its last stage is average-pooled.
        num_classes: number of classes.
        attention, sampling, distillation: :class:`Attention`, :class:`Sampling` and :class:`Distillation`, or plain
            mappings with some of their fields.
        input_size: side, or height and width, of the part and master nets' input.
        structure: where the master's image comes from: ``"attention"``; ``"uniform"``, the same sampler with equal
            steps; ``"resize"``, plain antialiased resizing, the baseline at equal input.
        detail: the same for the part net; None for no part net.
        num_details: detail images, of different maps, per image and step; the paper has 1.
        predict: the test prediction: ``"master"``; ``"average"`` of the master's and part net's logits; ``"concat"``, a
            further classifier on both features, trained beside the others.
        attention_weight, master_weight, part_weight: of the cross-entropies. 0 leaves a term in with a zero gradient.
        shared_classifier: a further classifier, trained on both features with the two weights, that predicts in place
            of the master's own, which is then left to distillation, as in the official implementation.

    Output: ``terms`` ``ce_attention, ce_master, ce_part, ce_master_shared, ce_part_shared, ce_concat, distill``, those
    that apply. ``maps`` ``features`` ``(B, C, h, w)`` of the master; with attention ``attention`` ``(B, C', h', w')``,
    the trilinear maps, and ``structure_map`` ``(B, 1, h', w')`` as the sampler gets it; ``structure_image``
    ``(B, 3, H, W)`` and ``structure_grid`` ``(B, H, W, 2)``, the sampled points (x, y) in [-1, 1]; where the part net
    runs (in training, and at test unless the master predicts) ``detail_map``, ``detail_image`` and ``detail_grid``
    alike, with a second dimension of ``num_details``. At test the detail map is the average of all maps, equal ones
    included, as in the official implementation. Without attention there are no maps of it, and no grid after plain
    resizing.
    """

    @checked
    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        attention: Attention = Attention(),  # noqa: B008 - frozen
        sampling: Sampling = Sampling(),  # noqa: B008 - frozen
        distillation: Distillation = Distillation(),  # noqa: B008 - frozen
        input_size: Size = 224,
        structure: Source = "attention",
        detail: Source | None = "attention",
        num_details: int = 1,
        predict: Literal["master", "average", "concat"] = "master",
        attention_weight: float = 1.0,
        master_weight: float = 1.0,
        part_weight: float = 1.0,
        shared_classifier: bool = False,
    ) -> None:
        super().__init__()
        if detail is None and predict != "master":
            raise ValueError(f"predict={predict!r} needs a part net: set detail, or predict='master'")
        self.backbone = backbone
        self.input_size = _pair(input_size)
        self.attention_size = _pair(attention.input_size)
        self.structure: Source = structure
        self.detail: Source | None = detail
        self.num_details = num_details
        self.predict = predict
        self.trilinear = TrilinearAttention(
            spatial_norm=attention.spatial_norm, relation_norm=attention.relation_norm, scale=attention.scale
        )
        self.unique = attention.unique
        self.sampling = sampling
        teach = asdict(distillation)
        self.distillation_weight = teach.pop("weight")
        self.distillation = DistillationLoss(**teach)
        self.attention_weight = attention_weight
        self.master_weight = master_weight
        self.part_weight = part_weight

        channels = backbone.out_channels
        self.attention_net: AttentionNet | None = None
        if "attention" in (structure, detail):
            net = from_settings(attention.backbone, "attention.backbone")
            self.attention_net = AttentionNet(net, num_classes, dilations=attention.dilations)
            if not 1 <= num_details <= net.out_channels:
                raise ValueError(f"num_details must be 1 to the attention net's {net.out_channels}, got {num_details}")
        self.master_head = nn.Linear(channels, num_classes)
        self.part_head = nn.Linear(channels, num_classes) if detail is not None else None
        self.shared_head = nn.Linear(channels, num_classes) if shared_classifier else None
        self.concat_head = nn.Linear(2 * channels, num_classes) if predict == "concat" else None

    def attend(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The attention net's trilinear maps ``(B, C', h', w')`` of the images, and its logits ``(B, num_classes)``."""
        if self.attention_net is None:
            raise ValueError("there is no attention net: neither structure nor detail is 'attention'")
        features, logits = self.attention_net(_resize(images, self.attention_size))
        if not self.sampling.gradient:
            features = features.detach()
        return self.trilinear(features), logits

    def sample(self, images: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Images ``(B, 3, H, W)`` sampled by K maps each, ``(B, K, h', w')``.

        Returns ``(B, K, 3, *input_size)`` images and ``(B, K, *input_size, 2)`` grids.
        """
        shape = maps.shape[:2]  # B, K
        grid = sampling_grid(
            maps.flatten(0, 1), self.input_size, limit=self.sampling.limit, equal_zoom=self.sampling.equal_zoom
        )
        repeated = images.repeat_interleave(shape[1], 0) if shape[1] > 1 else images
        sampled = sample_at(repeated, grid)  # (B K, 3, *input_size)
        return sampled.reshape(*shape, *sampled.shape[1:]), grid.view(*shape, *grid.shape[1:])

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Output:
        labels = self.check_batch(images, labels)
        terms: dict[str, Tensor] = {}
        maps: dict[str, Tensor] = {}
        attention: Tensor | None = None
        train_labels = labels if self.training else None
        if self.attention_net is not None:
            attention, attention_logits = self.attend(images)
            maps["attention"] = attention.detach()
            if train_labels is not None:
                terms["ce_attention"] = self.attention_weight * self.cross_entropy(attention_logits, train_labels)

        inputs = [self._input(images, attention, "structure", maps)[:, 0]]  # (B, 3, H, W)
        count = 0
        if self.detail is not None and (self.training or self.predict != "master"):
            details = self._input(images, attention, "detail", maps)  # (B, K, 3, H, W)
            count = details.shape[1]
            inputs.append(details.flatten(0, 1))
        features = self.backbone(torch.cat(inputs))[self.backbone.last]  # (B + B K, C, h, w)
        maps["features"] = features[: images.shape[0]].detach()
        pooled = features.mean((2, 3))
        master, part = pooled[: images.shape[0]], pooled[images.shape[0] :]  # (B, C), (B K, C)

        master_logits = self.master_head(master)  # (B, num_classes)
        logits = master_logits if self.shared_head is None else self.shared_head(master)
        if train_labels is not None:
            terms["ce_master"] = self.master_weight * self.cross_entropy(master_logits, train_labels)
            if self.shared_head is not None:
                terms["ce_master_shared"] = self.master_weight * self.cross_entropy(logits, train_labels)
        if count == 0:
            return Output(logits, terms, maps)

        assert self.part_head is not None
        part_logits = self.part_head(part)  # (B K, num_classes)
        predicted = part_logits if self.shared_head is None else self.shared_head(part)
        if train_labels is not None:
            repeated = train_labels.repeat_interleave(count)
            terms["ce_part"] = self.part_weight * self.cross_entropy(part_logits, repeated)
            if self.shared_head is not None:
                terms["ce_part_shared"] = self.part_weight * self.cross_entropy(predicted, repeated)
            if self.distillation_weight:
                student = master_logits.repeat_interleave(count, 0)
                terms["distill"] = self.distillation_weight * self.distillation(student, part_logits)
        if self.predict == "average":
            logits = (logits + predicted.unflatten(0, (-1, count)).mean(1)) / 2
        elif self.concat_head is not None:
            logits = self.concat_head(torch.cat([master, part.unflatten(0, (-1, count)).mean(1)], 1))
            if train_labels is not None:
                terms["ce_concat"] = self.cross_entropy(logits, train_labels)
        return Output(logits, terms, maps)

    def _input(
        self, images: Tensor, attention: Tensor | None, name: Literal["structure", "detail"], maps: dict[str, Tensor]
    ) -> Tensor:
        """The net's input ``(B, K, 3, *input_size)``; notes the map, the image and the grid in ``maps``."""
        sampling = self.structure if name == "structure" else self.detail
        if sampling == "attention":
            assert attention is not None
            if name == "detail" and self.training:
                chosen = random_maps(
                    attention, count=self.num_details, unique=self.unique, generator=self.rank_generator
                )
            else:
                chosen = average_map(attention, unique=self.unique and name == "structure")
            if self.sampling.resize_map:
                chosen = F.interpolate(chosen, images.shape[2:], mode="bilinear", align_corners=True)
            if name == "structure":
                chosen = chosen**self.sampling.structure_power
            maps[f"{name}_map"] = chosen.detach()
            sampled, grid = self.sample(images, chosen)
        elif sampling == "uniform":
            sampled, grid = self.sample(images, images.new_ones((images.shape[0], 1, 1, 1)))
        else:
            sampled, grid = _resize(images, self.input_size)[:, None], None
        # the one structure image of an image needs no second dimension
        maps[f"{name}_image"] = (sampled[:, 0] if name == "structure" else sampled).detach()
        if grid is not None:
            maps[f"{name}_grid"] = (grid[:, 0] if name == "structure" else grid).detach()
        return sampled


def _resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Plain antialiased bilinear resizing, in float32 at least: its CPU kernel has no half precision."""
    if images.shape[2:] == size:
        return images
    wide = images.to(torch.promote_types(images.dtype, torch.float32))
    return F.interpolate(wide, size, mode="bilinear", align_corners=False, antialias=True).to(images.dtype)


def _pair(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size
