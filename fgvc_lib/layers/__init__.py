"""Building blocks of the six methods; one paper's idea a file."""

from fgvc_lib.layers.attach import Attached, attach
from fgvc_lib.layers.attention_net import AttentionNet, MultiDilationConv
from fgvc_lib.layers.attention_pyramid import AttentionPyramid, ChannelGate, PooledLateral, SpatialGate, feature_pyramid
from fgvc_lib.layers.attention_sampler import attention_sample, sampling_grid
from fgvc_lib.layers.bilinear import BilinearPool, bilinear_pool, signed_sqrt
from fgvc_lib.layers.channel_interaction import ContrastiveChannelInteraction, SelfChannelInteraction
from fgvc_lib.layers.head import bn_elu_head, make_head
from fgvc_lib.layers.non_local import NonLocalBlock
from fgvc_lib.layers.roi_drop import roi_drop
from fgvc_lib.layers.roi_pyramid import ROIPyramid, roi_boxes
from fgvc_lib.layers.roi_zoom import roi_zoom, union_box
from fgvc_lib.layers.trilinear import TrilinearAttention, trilinear_attention

__all__ = [
    "Attached",
    "AttentionNet",
    "AttentionPyramid",
    "BilinearPool",
    "ChannelGate",
    "ContrastiveChannelInteraction",
    "MultiDilationConv",
    "NonLocalBlock",
    "PooledLateral",
    "ROIPyramid",
    "SelfChannelInteraction",
    "SpatialGate",
    "TrilinearAttention",
    "attach",
    "attention_sample",
    "bilinear_pool",
    "bn_elu_head",
    "feature_pyramid",
    "make_head",
    "roi_boxes",
    "roi_drop",
    "roi_zoom",
    "sampling_grid",
    "signed_sqrt",
    "trilinear_attention",
    "union_box",
]
