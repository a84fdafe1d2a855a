# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   records: all
# ---

# %% [markdown]
# # The evidence
#
# What six papers claim, and what we measured. This page is drawn from files: the claims in `data/claims.yaml`, the
# experiments in `data/runs.yaml`, one record for each run in `data/results/`, and the benchmarks in `data/benchmarks/`.
# No number on it was typed. Change a record, and the verdicts below change with it.

# %% tags=["parameters"]
profile = "quick"
seeds = [0]
epochs = 8
train_limit = None
data = ""
device = "auto"

# %%
from collections import Counter
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from fgvc_lib.measures.predictions import bootstrap
from fgvc_lib.results import benchmarks, claims, published, recorded, wanted
from fgvc_lib.results.plots import COLORS, show, show_table, style
from fgvc_lib.results.tables import paired, plus_minus, provenance_line, summarise

device = None if device == "auto" else device
measure = partial(wanted.measure, profile=profile, device=device)
style()

# %% [markdown]
# ## How a verdict is reached
#
# Each claim of the form "A is better than B" is tested on runs of A and B that share their seeds: the same data, the same batches, the same
# first weights wherever the two have the same layers. For $n$ seeds with differences $d_1 \dots d_n$ we take Student's interval
#
# $$
# \bar d \pm t_{n-1,\,0.975}\, \frac{s_d}{\sqrt n} .
# $$ (eq-evidence-interval)
#
# With an equivalence band $[-\epsilon, \epsilon]$ of differences that nobody would care about, stated for each claim in the YAML file
# before the runs were made:
#
# | the interval lies | verdict |
# | --- | --- |
# | wholly on the claimed side, and not wholly inside the band | **reproduced** |
# | wholly on the other side, or wholly inside the band | **not reproduced** |
# | anywhere else | **inconclusive** |
#
# Three seeds make wide intervals ($t_{2,\,0.975} \approx 4.3$), so *inconclusive* is a frequent and honest answer: more seeds
# would settle it. A claim of equality ("α matters little") swaps the roles: it is reproduced where the interval lies inside the band.
#
# The rule in code, on intervals made up to show its four cases:

# %% tags=["table"]
cases = [(0.5, 2.0), (-2.0, -0.5), (-0.5, 2.0), (-0.05, 0.08)]
show_table(
    pd.DataFrame(
        {"interval": f"[{low}, {high}]", "band": "±0.1", "verdict": claims.decide(low, high, side="greater", band=0.1)}
        for low, high in cases
    )
)

# %% [markdown]
# ```{admonition} What these numbers are not
# :class: warning
# They are not the published benchmarks. Networks are trained **from scratch**, on small images and for a small budget, on synthetic birds or on the
# official *training* half of Stanford Cars cut to the cars' boxes. Numbers compare rows with each other under one budget. A claim
# that does not reproduce here may hold with ImageNet weights at 448 pixels, and the `paper` profile is there to find out.
# ```
#
# ## The ledger

# %% tags=["table", "hide-input"]
ledger = [(claim, claims.judge(claim)) for claim in claims.claims()]
methods = list(dict.fromkeys(claim.method for claim, _ in ledger))


def written(value, unit, sign="+"):
    """Points with one decimal, ratios and counts with three digits."""
    if unit in ("%", "points"):
        return f"{100 * value:{sign}.1f}"
    return f"{value:{sign},.0f}" if abs(value) >= 100 else f"{value:{sign}.3g}"


for method in methods:
    own = [(claim, verdict) for claim, verdict in ledger if claim.method == method]
    lines = []
    for claim, verdict in own:
        signed = "+" if verdict.records else ""  # a benchmark is a number, not a difference
        known = np.isfinite(verdict.effect)
        lines.append(
            {
                "claim": claim.claim,
                "verdict": verdict.verdict,
                "effect": f"{written(verdict.effect, verdict.unit, signed)} {verdict.unit}" if known else "",
                "95 % interval": f"[{written(verdict.low, verdict.unit)}, {written(verdict.high, verdict.unit)}]"
                if np.isfinite(verdict.low)
                else "",
                "pairs": verdict.seeds or "",
            }
        )
    show_table(
        pd.DataFrame(lines),
        title=method,
        links={"claim": [f"{claim.chapter}.html#{claim.anchor}" for claim, _ in own]},
    )

# %% [markdown]
# A claim leads to the figure or section that measures it; *pairs* are seeds. Where the effect is empty, the claim holds by construction and a test
# asserts it, or it cannot be tested here. Which rows were compared, which test, what keeps it from being tested, and where the paper claims it:

# %% tags=["table", "hide-cell"]
used = {record.id: record for _, verdict in ledger for record in verdict.records}
show_table(
    pd.DataFrame(
        {"claim": f"{claim.method}: {claim.claim}", "judged by": verdict.why, "claimed in": claim.source}
        for claim, verdict in ledger
    ),
    foot=provenance_line(list(used.values())),
)

# %% tags=["figure", "hide-input"]
order = list(claims.VERDICTS)
figure, ax = plt.subplots(figsize=(8, 3.2))
left = np.zeros(len(methods))
hatches = ("", "//", "..", "xx", "--")
for verdict, color, hatch in zip(
    order, COLORS[2:3] + COLORS[1:2] + COLORS[4:5] + COLORS[6:7] + ("#D9D9D9",), hatches, strict=True
):
    counts = np.array([sum(c.method == m and v.verdict == verdict for c, v in ledger) for m in methods])
    ax.barh(methods, counts, left=left, color=color, label=verdict, hatch=hatch, edgecolor="white")
    left += counts
ax.invert_yaxis()
ax.set(xlabel="claims", title="Verdicts by method")
ax.legend(bbox_to_anchor=(1.02, 1), loc="upper left")
show(
    figure,
    name="fig-evidence-verdicts",
    caption="How the claims of each paper fared under the rule.",
    alt="Stacked bars, one for each method: number of claims reproduced, not reproduced, inconclusive, untestable here, and not "
    "measured yet.",
)

# %% tags=["output"]
counts = Counter(verdict.verdict for _, verdict in ledger)
print(", ".join(f"{counts[v]} {v}" for v in claims.VERDICTS if counts[v]), f"of {len(ledger)} claims")

# %% [markdown]
# ## One budget, all methods
#
# All methods with one backbone, one augmentation and one number of epochs. The last epoch is reported, and the test split is used once.
# Methods that bring a head of their own meet a baseline that has that head too.
#
# A method must not win because its learning rate was tuned and its rival's was not. Each gets three rates: its default, a third of it and
# three times it, two runs each on seeds that are used for nothing else. The mean accuracy on the validation split chooses; a run that diverges counts as zero:

# %% tags=["table", "hide-input"]
found = wanted.records("compare/rates")
trials = wanted.table("compare/rates", found)
lines = []
for name, group in trials.groupby(trials["row"].str.split(" @ ").str[0], sort=False):
    runs = group.groupby("lr")["val_accuracy"]
    rates = runs.sum() / runs.count().max()
    line = {"method": name}
    for kind, (rate, accuracy) in zip(("a third", "default", "three times"), rates.items(), strict=True):
        mark = " ←" if rate == rates.idxmax() else ""
        lost = runs.count().max() - runs.count()[rate]
        note = f"; {lost} diverged" if lost else ""
        line[f"{kind}: validation accuracy, %"] = f"{100 * accuracy:.1f} (at {rate:g}{note}){mark}"
    lines.append(line)
show_table(pd.DataFrame(lines), foot=provenance_line(found))

# %% [markdown]
# An arrow in the first or last column says that the best of three lay at the edge: more trials might find a better rate, for every row alike. The
# test `tests/results/test_protocol.py` fails when the comparison takes another rate than the arrow's.

# %%
names = ("compare/birds", "compare/cars_small", "compare/cars")
compared = {name: measure(name) for name in names}
tables = {name: table for name, (_, table) in compared.items() if len(table)}


# %% tags=["table"]
def right(records):
    """bool (seeds, N): which test images each seed gets right."""
    return np.stack([np.unpackbits(r.load_arrays()["correct/test"])[: r.dataset["test"]].astype(bool) for r in records])


def comparison(name: str) -> pd.DataFrame:
    records, runs = compared[name]
    first = runs["row"].iloc[0]
    lines = []
    for row, group in runs.groupby("row", sort=False):
        line = {"method": row, "accuracy, %": plus_minus(group["test_accuracy"])}
        if row != first:
            gain = paired(group, runs[runs["row"] == first], "test_accuracy")
            line["over the first row, points"] = f"{100 * gain['mean']:+.1f}"
            if np.isfinite(gain["low"]):
                line["95 % over seeds"] = f"[{100 * gain['low']:+.1f}, {100 * gain['high']:+.1f}]"
            mine, base = (
                [r for r in records if r.id in set(ids)] for ids in (group["id"], runs[runs["row"] == first]["id"])
            )
            if len(mine) == len(base) and all("correct/test" in r.arrays for r in mine + base):
                low, high = bootstrap(right(mine), right(base))
                line["95 % over images"] = f"[{100 * low:+.1f}, {100 * high:+.1f}]"
        lines.append(line | {"seeds": len(group)})
    table = pd.DataFrame(lines).fillna("")
    return table[[column for column in table if column != "seeds"] + ["seeds"]]


for name, runs in tables.items():
    show_table(comparison(name), title=runs["dataset"].iloc[0], foot=provenance_line(compared[name][0]))

# %% [markdown]
# The first interval asks *what if we trained again*, the second *what if the test set held other images*. A difference that
# survives both is worth a sentence.
#
# ### What it costs

# %% tags=["table", "hide-input"]
for runs in tables.values():
    base = runs[runs["row"] == runs["row"].iloc[0]]
    counts = {"predict": "cost/multiply_adds", "train": "cost/train_multiply_adds"}
    costs = []
    for row, group in runs.groupby("row", sort=False):
        line = {"method": row, "parameters": f"{group['cost/parameters_used'].mean() / 1e6:.2f} M"}
        for kind, column in counts.items():
            line[f"multiply-adds, {kind}"] = f"{group[column].mean() / base[column].mean():.2f} ×"
        costs.append(line)
    show_table(pd.DataFrame(costs), title=runs["dataset"].iloc[0])

for bench in benchmarks.records("step"):
    ways = {"time, predict": "prediction_over_baseline", "time, train": "over_baseline"}
    costs = [
        {"method": row}
        | {heading: f"{cost[key]:.2f} ×" for heading, key in ways.items()}
        | {"memory of a training step": f"{cost['peak_bytes'] / 1e6:.0f} MB"}
        for row, cost in bench["methods"].items()
    ]
    show_table(
        pd.DataFrame(costs),
        title="birds, measured",
        foot=f"benchmarks/step.py: {bench['device']['name']}, one thread where that is a processor; torch {bench['versions']['torch']}, {bench['repeats']} rounds in turn.",
    )

# %% [markdown]
# Parameters are those that a prediction reads. Multiply-adds are of one image, over those of the first row, for a prediction and for a step of training;
# so are times, measured by `benchmarks/step.py` with nothing else at work. Memory is the most that operators had allocated at once, for a batch (CIN's has more images).

# %% tags=["figure", "hide-input"]
MARKS = "osDv^P*X"
figure, axes = plt.subplots(1, len(tables), figsize=(3.6 * len(tables) + 2.2, 3.6), squeeze=False)
for ax, runs in zip(axes.flat, tables.values(), strict=True):
    for row, color, mark in zip(runs["row"].unique(), COLORS, MARKS, strict=False):
        group = runs[runs["row"] == row]
        x, y = group["cost/multiply_adds"].mean() / 1e6, 100 * group["test_accuracy"]
        ax.errorbar(x, y.mean(), yerr=y.std(), fmt=mark, color=color, capsize=3, label=row)
    ax.set_xscale("log")
    low, high = ax.get_xlim()
    ticks = [t for power in range(-1, 6) for t in (10**power, 2 * 10**power, 5 * 10**power) if low <= t <= high]
    ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
    ax.minorticks_off()
    ax.set(xlabel="multiply-adds of a prediction, millions", ylabel="test accuracy, %", title=runs["dataset"].iloc[0])
if len(tables):
    axes.flat[-1].legend(bbox_to_anchor=(1.02, 1), loc="upper left", fontsize=8)
show(
    figure,
    name="fig-evidence-cost",
    caption="Accuracy against the cost of a prediction; bars are one standard deviation over seeds.",
    alt="Scatter plots, one for each data set: test accuracy over multiply-adds of a prediction, a marked point for each "
    "method.",
)

# %% [markdown]
# ## An upper bound
#
# On the synthetic birds the deciding part is known. The same plain network, given nothing but that part, enlarged, bounds what
# finding it could gain. The bound is generous: the crop also betrays *which* part decides, and with that all but two of the twelve classes
# are ruled out before the network has looked at anything.

# %% tags=["table"]
bound, by_input = measure("birds/oracle")
show_table(summarise(by_input, {"accuracy, %": "test_accuracy"}, "input"), foot=provenance_line(bound))

# %% [markdown]
# ## The papers' protocols
#
# Everything above is small. For whoever has the data and the hours, the profile `paper` of `data/runs.yaml` states each paper's own protocol, as far
# as its released code, its logs and its threads tell: input size, backbone, ImageNet weights, batch, epochs, rates and schedule. The comments there
# name the source of each value, and what had to be filled in. A baseline with the same settings stands beside every method.
#
# The published figures are from `data/published.yaml`. A figure that we could not see quoted or listed is left out, and so is a row that has neither a figure
# nor a record; what is measured has its record.

# %% tags=["table"]
protocols = published.table()
known = protocols[(protocols["published, %"] != "") | (protocols["measured, %"] != "")]
columns = ["experiment", "row", "published, %", "certainty", "source"]
columns += ["measured, %"] if (known["measured, %"] != "").any() else []
rest = protocols.drop(known.index)
show_table(
    known[columns],
    foot=f"{len(rest)} more rows of {rest['experiment'].nunique()} experiments have no figure that we could read and no "
    f"record yet. Measured: {provenance_line(recorded(profiles=['paper']))}",
)

# %% [markdown]
# *sure*: read where the source says; *confirmed*: the paper's, repeated by another source; *log* and *issue*: one run, in the released log or told in a
# thread. Published accuracies are mostly the best of all test epochs, ours are the last epoch on the whole test split, and lower for that alone: the
# two figures of MC-Loss's released log show by how much.
#
# Before the hours are spent, a dry run looks for weights and data, builds every row, and estimates memory and time without downloading or
# computing anything ({py:mod}`fgvc_lib.results.rehearsal`); the throughput is yours to state. It ends with status 1 if something is missing:
#
# ```bash
# fgvc runs --profile paper --dry-run --tflops 20            # all experiments, a line each
# fgvc runs --profile paper --dry-run --only mc/paper_cub --processes 8
# ```
#
# One device measures an experiment and leaves its records with the first command. Several devices share each of its runs through `torchrun`:
#
# ```bash
# fgvc runs --profile paper --only mc/paper_cub
# torchrun --nproc-per-node 8 -m fgvc_lib runs --profile paper --only mc/paper_cub
# ```
#
# The batch is divided among the devices, and BatchNorm sees all of it (SyncBatchNorm), so the protocol stays the same; the record says how many
# processes there were. CIN's batches of 4 × 5 images need one device. To train one row by hand, `--configs build/paper` writes the settings of every
# missing run to a file for `fgvc train --config`.

# %% [markdown]
# ## What has been measured, and what has not

# %% tags=["table"]
progress = {kind: wanted.progress(kind) for kind in ("cpu", "gpu", "paper")}
lines = []
for name, group in sorted(wanted.groups().items(), key=lambda item: (item[1].priority, item[0])):
    counts = {kind: found[name] for kind, found in progress.items() if name in found}
    if counts:
        done = {kind: f"{runs - missing} of {runs}" for kind, (runs, missing) in counts.items()}
        lines.append({"experiment": name, "asks": group.asks, "priority": group.priority} | done)
show_table(pd.DataFrame(lines).fillna("")[["experiment", "asks", "priority", *progress]])

# %% [markdown]
# Whoever has a GPU takes the next missing ones:
#
# ```bash
# fgvc runs --profile gpu --list      # what is missing, the most wanted first
# fgvc runs --profile gpu --jobs 4    # measure it, four runs side by side; records land in data/results/gpu/
# ```
#
# ## Exercises
#
# 1. **Seeds.** With a standard deviation of paired differences of one point, how many seeds does it take before an average
#    difference of one point gives an interval that excludes zero?
#
# ```{dropdown} Solution
# We need $t_{n-1,0.975}/\sqrt n < 1$. For $n = 6$ it is $2.57/2.45 = 1.05$, for $n = 7$ it is $2.45/2.65 = 0.92$: seven seeds.
# ```
#
# 2. **Choosing on the test set.** Take any record's history. How much higher is the best validation accuracy over all epochs
#    than the last? What would a paper report that chose its epoch on the test split?
#
# ```{dropdown} Solution
# `max(h["val_accuracy"] for h in record.history) - record.history[-1]["val_accuracy"]`. The best of many noisy readings is biased upwards by
# the noise; the primer measures by how much.
# ```
