"""A method's numbers change only together with its revision: a few steps of each, compared with ``golden.json``.

After a change that is meant, raise the ``revision`` of the method and write the file anew::

    python -m tests.methods.test_revisions
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from fgvc_lib.backbones import resnet
from fgvc_lib.methods import METHODS, Method

GOLDEN = Path(__file__).with_name("golden.json")
ARGUMENTS: dict[str, dict[str, Any]] = {
    "ap_cnn": {"pyramid": {"channels": 8}, "hidden": 8},
    "mutual_channel": {"xi": 4, "hidden": 8},
    "tasn": {
        "attention": {"backbone": {"backbone": "resnet", "depth": "small", "width": 8}, "input_size": 32},
        "input_size": 32,
    },
}
"""What makes a method small; all else has its default."""


def numbers(name: str) -> list[float]:
    """The loss of three training steps, then that of the prediction.

    In float64, so that another machine or version of torch, which rounds otherwise, cannot decide a near tie.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(20, 3, 32, 32, generator=generator, dtype=torch.float64)
    labels = torch.arange(20) // 5  # CIN pairs images of one class
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        method: Method = METHODS[name](resnet("small", width=8), 4, **ARGUMENTS.get(name, {}))  # type: ignore[call-arg]
        method.double().train()
    optimizer = torch.optim.SGD(method.parameters(), lr=0.01)
    losses = []
    for _ in range(3):
        output = method(images, labels)
        losses.append(output.loss.item())
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        method.after_step([output.state])
    logits = method.eval()(images).logits
    return [float(f"{loss:.9g}") for loss in (*losses, F.cross_entropy(logits, labels).item())]


@pytest.mark.parametrize("name", METHODS)
def test_the_numbers_of_a_method_are_those_of_its_revision(name: str) -> None:
    golden = json.loads(GOLDEN.read_text())[name]
    write = "`python -m tests.methods.test_revisions`"
    if METHODS[name].revision != golden["revision"]:
        pytest.fail(f"{name} has revision {METHODS[name].revision}, golden.json has {golden['revision']}: run {write}")
    found = numbers(name)
    if found != pytest.approx(golden["losses"], rel=1e-5):
        pytest.fail(f"the numbers of {name} changed, {golden['losses']} → {found}: raise its revision and run {write}")


if __name__ == "__main__":
    golden = {name: {"revision": METHODS[name].revision, "losses": numbers(name)} for name in METHODS}
    GOLDEN.write_text(json.dumps(golden, indent=2) + "\n")
