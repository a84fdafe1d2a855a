"""Bilinear pooling against the sum of outer products it stands for."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fgvc_lib.layers.bilinear import BilinearPool, bilinear_pool, signed_sqrt


def reference(a, b):
    """The mean over locations of the outer products, one location at a time."""
    total = torch.zeros(a.shape[0], a.shape[1], b.shape[1], dtype=a.dtype)
    for y in range(a.shape[2]):
        for x in range(a.shape[3]):
            for i in range(a.shape[0]):
                total[i] += torch.outer(a[i, :, y, x], b[i, :, y, x])
    return total / (a.shape[2] * a.shape[3])


def test_by_hand():
    # two locations: features (1, 2) and (3, -1)
    a = torch.tensor([[1.0, 3.0], [2.0, -1.0]]).view(1, 2, 1, 2)
    phi = bilinear_pool(a)
    torch.testing.assert_close(phi, torch.tensor([[[5.0, -0.5], [-0.5, 2.5]]]))
    z = BilinearPool(eps=1e-12)(a)
    root = torch.tensor([5.0**0.5, -(0.5**0.5), -(0.5**0.5), 2.5**0.5])
    torch.testing.assert_close(z, (root / 8.5**0.5)[None])


@given(batch=st.integers(1, 3), m=st.integers(1, 5), n=st.integers(1, 5), h=st.integers(1, 4), w=st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_two_streams_of_any_shape_equal_the_loop(batch, m, n, h, w):
    a, b = torch.randn(batch, m, h, w).double(), torch.randn(batch, n, h, w).double()
    torch.testing.assert_close(bilinear_pool(a, b), reference(a, b))
    torch.testing.assert_close(bilinear_pool(b, a), bilinear_pool(a, b).mT)


def test_one_stream_is_symmetric_and_positive_semidefinite():
    phi = bilinear_pool(torch.randn(2, 6, 3, 5).double())
    torch.testing.assert_close(phi, phi.mT)
    assert torch.linalg.eigvalsh(phi).min() > -1e-12


def test_where_things_stand_changes_nothing():
    a, b = torch.randn(2, 4, 3, 5).double(), torch.randn(2, 6, 3, 5).double()
    order = torch.randperm(15)
    shuffled = (x.flatten(2)[:, :, order].view_as(x) for x in (a, b))
    pool = BilinearPool()
    torch.testing.assert_close(pool(*shuffled), pool(a, b))


def test_average_and_sum_over_locations_give_the_same_z():
    a = torch.randn(2, 4, 3, 5).double()
    phi = bilinear_pool(a)
    summed = BilinearPool(eps=15e-5).vector(15 * phi)
    torch.testing.assert_close(BilinearPool(eps=1e-5).vector(phi), summed, rtol=1e-12, atol=1e-12)


def test_gradient_is_the_papers():
    a, b = (torch.randn(1, c, 2, 3).double().requires_grad_() for c in (3, 4))
    g = torch.randn(1, 3, 4).double()
    da, db = torch.autograd.grad(bilinear_pool(a, b), (a, b), g)
    # with A (L × M) and B (L × N) of one image: dL/dA = B (dL/dΦ)ᵀ / L, dL/dB = A (dL/dΦ) / L
    rows_a, rows_b = a.detach().flatten(2)[0].T, b.detach().flatten(2)[0].T
    torch.testing.assert_close(da.flatten(2)[0].T, rows_b @ g[0].T / 6)
    torch.testing.assert_close(db.flatten(2)[0].T, rows_a @ g[0] / 6)


@pytest.mark.parametrize("root", [True, False])
@pytest.mark.parametrize("normalize", [True, False])
def test_gradcheck(root, normalize):
    a, b = (torch.randn(2, c, 2, 2).double().requires_grad_() for c in (2, 3))
    torch.autograd.gradcheck(BilinearPool(root=root, normalize=normalize), (a, b))
    torch.autograd.gradcheck(BilinearPool(root=root, normalize=normalize), (a,))


def test_signed_sqrt_is_odd_and_close_to_the_root():
    x = torch.linspace(-3, 3, 601).double()
    torch.testing.assert_close(signed_sqrt(-x), -signed_sqrt(x))
    assert (signed_sqrt(x) - x.sign() * x.abs().sqrt()).abs().max() < 2e-3
    assert (signed_sqrt(x).diff() > 0).all()


def test_signed_sqrt_has_the_stated_slope_at_zero():
    x = torch.zeros(3).double().requires_grad_()
    y = signed_sqrt(x, eps=1e-4)
    assert torch.equal(y, torch.zeros(3).double())
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(slope, torch.full((3,), 100.0).double())
    torch.autograd.gradcheck(lambda t: signed_sqrt(t, eps=0.1), x)


def test_dead_images_and_channels_give_finite_gradients():
    a = torch.rand(3, 4, 2, 2)
    a[0] = 0
    a[1, 2] = 0
    a.requires_grad_()
    z = BilinearPool()(a)
    assert torch.equal(z[0], torch.zeros(16))
    (g,) = torch.autograd.grad((z * torch.randn(3, 16)).sum(), a)
    assert g.isfinite().all()


def test_z_has_length_one_and_forgets_contrast():
    a = torch.randn(2, 3, 4, 4).double()
    pool = BilinearPool(eps=1e-12)
    torch.testing.assert_close(pool(a).norm(dim=1), torch.ones(2).double())
    torch.testing.assert_close(pool(10 * a), pool(a))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_stays_float32_inside_autocast(dtype):
    a = (300 * torch.rand(2, 3, 8, 8)).to(dtype).requires_grad_()  # sums of squares overflow float16
    with torch.autocast("cpu", dtype=dtype):
        z = BilinearPool()(a)
    assert z.dtype == torch.float32
    torch.testing.assert_close(z, BilinearPool()(a.float()))
    z.sum().backward()
    assert a.grad.isfinite().all()


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"same batch and locations, got \(1, 2, 3, 3\) and \(1, 2, 3, 4\): resample"):
        bilinear_pool(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 4))
    with pytest.raises(ValueError, match=r"must be \(B, C, h, w\), got \(2, 3\)"):
        bilinear_pool(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="eps must be positive"):
        BilinearPool(eps=0)


def test_switches_turn_parts_off():
    a = torch.randn(2, 3, 4, 4)
    phi = bilinear_pool(a).flatten(1)
    assert torch.equal(BilinearPool(root=False, normalize=False)(a), phi)
    torch.testing.assert_close(BilinearPool(root=False)(a), F.normalize(phi))
    torch.testing.assert_close(BilinearPool(normalize=False)(a), signed_sqrt(phi))
