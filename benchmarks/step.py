"""Where does the time of a training step go, method by method, and what does a prediction take?

    python benchmarks/step.py                      # cuda if there is one
    python benchmarks/step.py --device cpu         # half a minute on an idle machine

The methods and their settings are those of the comparison under one budget, experiment ``compare`` of chapter 8:
synthetic birds of 64 px (TASN: 128), a narrow ResNet. All methods take a step in every round, and
each part of it is clocked alone:

``data``        a batch, gathered, cropped, flipped and normalized
``forward``     prediction and loss
``backward``    gradients
``optimizer``   SGD with momentum, and clearing the gradients
``after step``  what no optimizer owns: the centers of Center Loss

A *prediction* is of a batch of test images that lies ready, in evaluation mode. Ratios to the first row are of an
image, medians over the rounds, beside the ratio of multiply-adds; the claim that one stage predicts faster than two
is judged by the ratio of AP-CNN's prediction to CIN's. On a CPU one thread
works and its processor time counts. Memory is the most that operators had allocated at once in a step, beyond
weights and momentum. Writes data/benchmarks/step-<device>.json.
"""

from __future__ import annotations

import statistics

import torch
from timing import arguments, clock, peak_bytes, write
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel

from fgvc_lib.config import Config
from fgvc_lib.data import Loader, load
from fgvc_lib.data.dataset import ImageData
from fgvc_lib.train import build
from fgvc_lib.train.model import build_for
from fgvc_lib.train.schedule import start_phase
from fgvc_study import estimate, plan

PARTS = ("data", "forward", "backward", "optimizer", "after step")


class Steps:
    """One method and its batches; calling it takes a step and gives the seconds of each part."""

    def __init__(self, config: Config, data: ImageData, device: torch.device) -> None:
        self.config, self.data, self.device = config, data, device
        self.method = build(config, data).to(device).train()
        self.optimizer = start_phase(self.method, self.method.phases()[-1], config)
        self.loader = Loader(
            data, "train", config.batch_size, train=True, seed=0, device=device, sampler=self.method.sampler
        )
        self.epoch = 0

    def __call__(self) -> dict[str, float]:
        times = [clock(self.device)]

        def lap() -> None:
            times.append(clock(self.device))

        # the last batch of an epoch, after which nothing is gathered ahead
        images, labels, _ = next(self.loader.epoch(self.epoch, start=len(self.loader) - 1))
        lap()
        output = self.method(images, labels)
        loss = output.loss
        lap()
        loss.backward()
        lap()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        lap()
        with torch.no_grad():
            self.method.after_step([output.state])
        lap()
        self.epoch += 1
        return {part: end - start for part, start, end in zip(PARTS, times[:-1], times[1:], strict=True)}

    def predict(self) -> float:
        """Seconds of the prediction of a batch of test images."""
        data, batch = self.data, self.config.batch_size
        images, _, _ = next(Loader(data, "test", batch, train=False, seed=0, device=self.device).epoch(0))
        self.method.eval()
        start = clock(self.device)
        with torch.no_grad():
            self.method(images)
        seconds = clock(self.device) - start
        self.method.train()
        return seconds

    def shape(self) -> estimate.Shape:
        """Of its images."""
        data = self.data
        return estimate.Shape(len(data.classes), len(data.train), len(data.test), image_size=data.image_size)

    def multiply_adds(self) -> float:
        """Of a training step, an image; counted on tensors without values."""
        shape, batch = self.shape(), self.config.batch_size
        with FakeTensorMode(), sdpa_kernel(SDPBackend.MATH):
            method = build_for(self.config, num_classes=shape.classes, channels=3, image_size=shape.image_size)
            return estimate.step(method.train(), shape, batch)[1] / 2 / batch


def main() -> None:
    """Run, print and write."""
    parser = arguments(__doc__)
    parser.add_argument("--repeats", type=int, default=12)
    args = parser.parse_args()
    device = torch.device(args.device)
    if device.type == "cpu":
        torch.set_num_threads(1)

    variants = plan.read("08_evidence", {"seeds": [0]}).experiments["compare"].variants
    configs = {name: config.replace(precision="float32") for name, (config,) in variants.items()}
    steps = {name: Steps(config, load(config.data, **config.data_args), device) for name, config in configs.items()}
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in steps}
    for i in range(2 + args.repeats):
        for name, step in steps.items():
            parts, predicted = step(), step.predict()
            if i >= 2:
                rounds[name].append({**parts, "step": sum(parts.values()), "prediction": predicted})

    batches = {name: step.config.batch_size for name, step in steps.items()}
    counts = {name: step.multiply_adds() for name, step in steps.items()}
    peaks = {name: peak_bytes(step, device) for name, step in steps.items()}
    first = next(iter(steps))

    def ratio(part: str, one: str, other: str) -> float:
        pairs = zip(rounds[one], rounds[other], strict=True)
        return statistics.median(a[part] / batches[one] / (b[part] / batches[other]) for a, b in pairs)

    methods = {
        name: {
            "batch": batches[name],
            **{part: statistics.median(row[part] for row in rounds[name]) for part in (*PARTS, "step", "prediction")},
            "over_baseline": ratio("step", name, first),
            "prediction_over_baseline": ratio("prediction", name, first),
            "multiply_adds_per_image": counts[name],
            "multiply_adds_over_baseline": counts[name] / counts[first],
            "peak_bytes": peaks[name],
        }
        for name in steps
    }
    stages = ratio("prediction", "AP-CNN", "CIN")
    found = {"repeats": args.repeats, "methods": methods, "prediction_of_two_stages_over_one": stages}
    write("step", device, found, note=args.note)


if __name__ == "__main__":
    main()
