"""Losses, one a file; each public file needs torch only and can be copied into another project as it is."""

from fgvc_lib.losses.center import CenterLoss, center_loss, update_centers
from fgvc_lib.losses.contrastive import ContrastiveLoss, contrastive_loss
from fgvc_lib.losses.distillation import DistillationLoss, distillation_loss
from fgvc_lib.losses.mutual_channel import MutualChannelLoss, MutualChannelTerms, channel_mask, mutual_channel_loss
from fgvc_lib.losses.pairs import all_triplets, disjoint_pairs
from fgvc_lib.losses.pairwise_confusion import PairwiseConfusion, pairwise_confusion

__all__ = [
    "CenterLoss",
    "ContrastiveLoss",
    "DistillationLoss",
    "MutualChannelLoss",
    "MutualChannelTerms",
    "PairwiseConfusion",
    "all_triplets",
    "center_loss",
    "channel_mask",
    "contrastive_loss",
    "disjoint_pairs",
    "distillation_loss",
    "mutual_channel_loss",
    "pairwise_confusion",
    "update_centers",
]
