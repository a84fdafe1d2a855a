"""Every method predicts in any precision."""

import pytest
import torch

from fgvc_lib.backbones import resnet
from fgvc_lib.methods import METHODS

NET = {"backbone": "resnet", "depth": "small", "width": 4, "strides": [1, 1, 2]}
ARGUMENTS = {
    "ap_cnn": {"pyramid": {"channels": 8}, "hidden": 6},
    "mutual_channel": {"hidden": 6},
    "tasn": {"attention": {"backbone": NET, "input_size": 16}, "input_size": 16, "predict": "average"},
}


def make(name):
    torch.manual_seed(0)
    return METHODS[name](resnet("small", width=4), 3, **ARGUMENTS.get(name, {})).eval()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_network_of_any_precision_predicts(name, dtype):
    method, images = make(name), torch.randn(4, 3, 32, 32)
    expected = method(images).logits.detach()
    logits = method.to(dtype)(images.to(dtype)).logits
    # half precision chooses other boxes where scores are near: it has to be finite and of the right size
    assert logits.dtype in ({dtype} if dtype == torch.float64 else {dtype, torch.float32})
    tolerance = 1e-4 if dtype == torch.float64 else 0.2 * float(expected.abs().max()) + 0.2
    torch.testing.assert_close(logits.to(expected), expected, atol=tolerance, rtol=0)
