"""Memory and work of a run, against counts by hand and against what the real thing does."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fgvc_lib.config import Config
from fgvc_lib.methods import METHODS, Method, Output, Phase
from fgvc_study import estimate as module
from fgvc_study.estimate import AliveBytes, Shape, estimate, evaluation, operation_counter, step

TINY = Shape(classes=3, train=40, test=2, image_size=16)
SMALL = {"backbone": "resnet", "backbone_args": {"depth": "small", "width": 8}, "batch_size": 8, "epochs": 2}


class Linear(Method):
    """y = W x of all pixels; the mean of y is minimised."""

    def __init__(self, backbone, num_classes, *, head_fraction=0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_classes, 3 * 16 * 16))
        self.bias = nn.Parameter(torch.zeros(num_classes))
        self.head_fraction = head_fraction

    def forward(self, images, labels=None):
        y = torch.addmm(self.bias, images.contiguous().flatten(1), self.weight.t())
        return Output(y, {"mean": y.mean()} if self.training else {})

    def phases(self):
        everything = Phase([{"params": [self.weight, self.bias]}], 1 - self.head_fraction)
        return [Phase([{"params": [self.bias]}], self.head_fraction, "bias"), everything][self.head_fraction == 0 :]


@pytest.fixture
def linear(monkeypatch):
    monkeypatch.setitem(METHODS, "linear", Linear)
    return Config(method="linear", **SMALL)


def test_bytes_alive_by_hand():
    with AliveBytes() as alive:
        a = torch.zeros(1000)  # 4,000
        b = a + 1  # 8,000
        b.add_(1).view(10, 100)  # in place, and a view: nothing new
        del a  # 4,000
        c = b.double()  # 4,000 + 8,000
        del b, c
    assert alive.peak == 12_000
    assert alive.now == 0


def test_a_step_and_a_prediction_by_hand():
    batch, pixels = 5, 3 * 16 * 16
    method = Linear(None, 3).train()
    peak, flops = step(method, TINY, batch)
    images, flat, logits, weight = (4 * n for n in (batch * pixels, batch * pixels, batch * 3, 3 * pixels))
    # going backward: both forms of the images, the labels, the logits' gradient and the weight's, and a few numbers
    assert images + flat + 8 * batch + weight <= peak <= images + flat + 8 * batch + weight + 4 * logits + 64
    assert flops == 2 * (2 * batch * pixels * 3)  # W x, and the gradient of W
    assert method.weight.grad is None
    assert evaluation(method, TINY, 7) == 4 * 7 * (2 * pixels + 3)


@pytest.mark.parametrize("make", [nn.Conv2d, nn.ConvTranspose2d])
@pytest.mark.parametrize("groups", [1, 4])
def test_the_gradients_of_a_convolution_cost_what_it_costs_whatever_its_groups(make, groups):
    layer = make(8, 12, 3, stride=2, groups=groups, bias=False)
    x = torch.randn(2, 8, 9, 9, requires_grad=True)
    with operation_counter() as forward:
        y = layer(x)
    with operation_counter() as both:
        y.sum().backward(retain_graph=True)
    with operation_counter() as one:
        torch.autograd.grad(y.sum(), layer.weight)
    assert both.get_total_flops() == 2 * one.get_total_flops() == 2 * forward.get_total_flops() > 0
    if groups == 1:  # torch counts these too
        with FlopCounterMode(display=False) as torch_s:
            layer(x).sum().backward()
        assert torch_s.get_total_flops() == 3 * forward.get_total_flops()


def test_memory_and_work_of_a_run_by_hand(linear):
    parameters, pixels = 3 * 768 + 3, 768
    found = estimate(linear, TINY)
    fixed = 4 * parameters * 2  # weights and momentum
    step_bytes = 4 * 8 * (2 * pixels) + 8 * 8 + 4 * 3 * pixels
    assert fixed + step_bytes <= found.memory <= fixed + step_bytes + 4 * (4 * 8 * 3) + 64
    assert found.flops == 2 * 5 * 2 * (2 * 8 * pixels * 3)  # 2 epochs of 5 steps
    assert estimate(linear.replace(momentum=0.0), TINY).memory == found.memory - 4 * parameters
    # two devices: half the batch each, and the copy of the gradients that they exchange
    two = estimate(linear, TINY, processes=2)
    assert two.flops == found.flops
    assert found.memory - two.memory == pytest.approx(4 * 4 * 2 * pixels - 4 * parameters, abs=300)
    assert estimate(linear.replace(grad_accum_steps=2), TINY).flops == found.flops
    assert estimate(linear.replace(max_steps=1), TINY).flops == found.flops / 10


def test_a_phase_that_trains_little_works_little(linear):
    half = estimate(linear.replace(method_args={"head_fraction": 0.5}), TINY)
    assert half.flops == estimate(linear, TINY).flops * 3 / 4  # no gradient of W in the first half


@pytest.mark.parametrize("name", [name for name in METHODS if name != "linear"])
def test_without_values_as_with_values(name):
    """The bytes and FLOP of a step on real tensors are those of tensors that have none."""
    arguments = {
        "mutual_channel": {"hidden": 8},
        "cin": {"embedding": 4, "sampler": [2, 4]},
        "tasn": {
            "input_size": 8,
            "attention": {
                "backbone": {"backbone": "resnet", "depth": "small", "width": 8, "strides": [1, 1, 1]},
                "input_size": 16,
            },
        },
        "ap_cnn": {"pyramid": {"channels": 8, "gate_reduction": 2}, "hidden": 8},
    }
    config = Config(method=name, method_args=arguments.get(name, {}), **SMALL)
    real = module.build_for(config, num_classes=3, channels=3, image_size=16).train()
    bytes_, flops = step(real, TINY, 8)
    with module.FakeTensorMode(), module.sdpa_kernel(module.SDPBackend.MATH):
        method = module.build_for(config, num_classes=3, channels=3, image_size=16).train()
        without_bytes, without_flops = step(method, TINY, 8)
    assert without_bytes == pytest.approx(bytes_, rel=0.35)  # kernels on a CPU pick their own temporaries
    if name != "cin":  # whose fused attention the counter does not know on a CPU
        assert without_flops == flops
    assert estimate(config, TINY).memory > without_bytes


def test_half_precision_keeps_smaller_activations():
    config = Config(method="baseline", **SMALL)
    assert estimate(config.replace(precision="bfloat16"), TINY).memory < estimate(config, TINY).memory


def test_what_does_not_fit_is_refused(linear):
    with pytest.raises(ValueError, match="does not split evenly over 3 processes"):
        estimate(linear, TINY, processes=3)
    with pytest.raises(ValueError, match="a batch of 64 is larger than the 40 training images"):
        estimate(linear.replace(batch_size=64), TINY)
