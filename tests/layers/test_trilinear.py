"""Trilinear attention against its formula in loops, and the choice of maps."""

import math

import pytest
import torch

from fgvc_lib.layers.trilinear import TrilinearAttention, average_map, random_maps, trilinear_attention, unique_maps


def loops(features, *, spatial_norm, relation_norm, scale):
    """M = N(N(sX) Xᵀ) X, one number at a time."""
    out = torch.zeros_like(features)
    batch, channels, height, width = features.shape
    for b in range(batch):
        x = [[float(v) for v in features[b, c].flatten()] for c in range(channels)]
        where = []
        for row in x:
            total = sum(math.exp(scale * v) for v in row)
            where.append([math.exp(scale * v) / total for v in row] if spatial_norm else row)
        for i in range(channels):
            relation = [sum(where[i][k] * x[j][k] for k in range(height * width)) for j in range(channels)]
            if relation_norm:
                total = sum(math.exp(r) for r in relation)
                relation = [math.exp(r) / total for r in relation]
            for k in range(height * width):
                out[b, i].view(-1)[k] = sum(relation[j] * x[j][k] for j in range(channels))
    return out


@pytest.mark.parametrize("spatial_norm", [True, False])
@pytest.mark.parametrize("relation_norm", [True, False])
@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_equal_to_the_formula_in_loops(spatial_norm, relation_norm, scale):
    scale = scale if spatial_norm else 1.0
    x = torch.rand(2, 3, 2, 4, dtype=torch.float64)
    settings = {"spatial_norm": spatial_norm, "relation_norm": relation_norm, "scale": scale}
    torch.testing.assert_close(trilinear_attention(x, **settings), loops(x, **settings))
    torch.testing.assert_close(TrilinearAttention(**settings)(x), trilinear_attention(x, **settings))


def test_two_channels_on_two_cells_by_hand():
    # X = [[1, 0], [0, 2]]: X Xᵀ = [[1, 0], [0, 4]], so (X Xᵀ) X = [[1, 0], [0, 8]]
    x = torch.tensor([[[[1.0, 0.0]], [[0.0, 2.0]]]])
    plain = trilinear_attention(x, spatial_norm=False, relation_norm=False)
    torch.testing.assert_close(plain, torch.tensor([[[[1.0, 0.0]], [[0.0, 8.0]]]]))
    # the relation's rows through a softmax: channel 1 keeps e / (e + 1) of itself and 1 / (e + 1) of channel 2
    e = math.e
    related = trilinear_attention(x, spatial_norm=False, relation_norm=True)
    torch.testing.assert_close(related[0, 0, 0], torch.tensor([e / (e + 1), 2 / (e + 1)]))


def test_a_large_scale_makes_each_channel_look_at_its_peak_only():
    x = torch.rand(1, 4, 3, 3, dtype=torch.float64)
    flat = x[0].flatten(1)
    peaks = flat[:, flat.argmax(1)].T  # (C, C): what every channel says at channel i's peak
    expected = (peaks @ flat).view(1, 4, 3, 3)
    torch.testing.assert_close(trilinear_attention(x, relation_norm=False, scale=1e4), expected)


def test_gradcheck():
    x = torch.rand(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: trilinear_attention(x, scale=7.0), x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_float32_and_finite_inside_autocast(dtype):
    x = (100 * torch.rand(2, 3, 4, 4)).to(dtype)
    with torch.autocast("cpu", dtype=dtype):
        for spatial_norm in (True, False):
            maps = trilinear_attention(x, spatial_norm=spatial_norm, relation_norm=False)
            assert maps.dtype == torch.float32
            assert maps.isfinite().all()


def test_permuting_channels_or_cells_permutes_the_maps():
    x = torch.rand(1, 4, 2, 3)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(trilinear_attention(x[:, order]), trilinear_attention(x)[:, order])
    torch.testing.assert_close(trilinear_attention(x.flip(3)), trilinear_attention(x).flip(3))


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"\(B, C, h, w\), got shape \(2, 3\)"):
        trilinear_attention(torch.rand(2, 3))
    with pytest.raises(ValueError, match="spatial_norm=False leave it 1, got 7"):
        trilinear_attention(torch.rand(1, 2, 2, 2), spatial_norm=False, scale=7)
    with pytest.raises(ValueError, match="between 1 and the number of maps, 2, got 3"):
        random_maps(torch.rand(1, 2, 2, 2), count=3, generator=torch.Generator())


def test_silent_channels_share_one_map_which_counts_once():
    x = torch.rand(2, 6, 3, 3)
    x[0, [1, 4, 5]] = 0
    maps = trilinear_attention(x)
    keep = unique_maps(maps)
    # which of the equal ones stands for them follows the sort; here the first
    assert keep.tolist() == [[True, True, True, True, False, False], [True] * 6]
    torch.testing.assert_close(average_map(maps, unique=True)[0, 0], maps[0, :4].mean(0))
    torch.testing.assert_close(average_map(maps, unique=True)[1], average_map(maps)[1])
    torch.testing.assert_close(average_map(maps)[:, 0], maps.mean(1))
    chosen = random_maps(maps, count=4, unique=True, generator=torch.Generator())
    assert len({float(m.sum()) for m in chosen[0]}) == 4


def test_the_choice_of_maps_is_the_generators():
    maps = torch.arange(40.0).view(4, 10, 1, 1)
    choose = lambda seed: random_maps(maps, count=3, generator=torch.Generator().manual_seed(seed))  # noqa: E731
    torch.manual_seed(1)
    first = choose(0)
    torch.manual_seed(2)
    assert torch.equal(first, choose(0))
    assert not torch.equal(first, choose(1))
    # of each image its own maps, all different, not the same ones for every image
    assert (first.flatten(1) // 10 == torch.arange(4)[:, None]).all()
    assert all(len(set(row.tolist())) == 3 for row in first.flatten(1))
    assert len({tuple(row.tolist()) for row in first.flatten(1) % 10}) > 1
    # every map is drawn equally often
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([random_maps(maps, generator=generator).flatten() for _ in range(1000)])
    counts = drawn.long().bincount(minlength=40)
    assert counts.min() > 60
    assert counts.max() < 140
