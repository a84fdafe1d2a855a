"""The non-local block against its sum over locations."""

import pytest
import torch

from fgvc_lib.layers.non_local import NonLocalBlock


def alive(*args, **arguments):
    """A block that has left its start, where it is the identity."""
    block = NonLocalBlock(*args, **arguments)
    torch.nn.init.ones_(block.out[1].weight)
    return block


def test_equals_the_sum_over_locations():
    block = alive(4).double().eval()
    x = torch.randn(2, 4, 2, 3).double()
    theta, phi, g = (conv(x).flatten(2) for conv in (block.theta, block.phi, block.g))  # (2, 2, 6)
    y = torch.zeros(2, 2, 6).double()
    for image in range(2):
        for i in range(6):
            scores = torch.stack([theta[image, :, i] @ phi[image, :, j] for j in range(6)]).exp()
            for j in range(6):
                y[image, :, i] += scores[j] / scores.sum() * g[image, :, j]
    torch.testing.assert_close(block(x), x + block.out(y.view(2, 2, 2, 3)))


def test_starts_as_the_identity():
    block, x = NonLocalBlock(6), torch.randn(3, 6, 5, 4)
    assert torch.equal(block(x), x)
    block(x).square().sum().backward()
    assert block.out[1].weight.grad.any()


def test_gradcheck_and_narrow_maps():
    block = alive(1, reduction=2).double().eval()
    torch.autograd.gradcheck(block, (torch.randn(1, 1, 2, 2).double().requires_grad_(),))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_inside_autocast(dtype):
    block, x = alive(4), torch.randn(2, 4, 3, 3)
    with torch.autocast("cpu", dtype=dtype):
        z = block(x)
    z.float().sum().backward()
    assert z.isfinite().all()
    assert all(p.grad.isfinite().all() for p in block.parameters())
