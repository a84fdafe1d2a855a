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
# This chapter holds what six papers claim against what we measured: the effect of each claim with its interval, beside the effect that the paper prints. The measured numbers on
# this page come from records: the claims are in `data/claims.yaml`, the experiments in `data/experiments/`, one record for each run in
# `data/results/`, and the benchmarks in `data/benchmarks/`. If a record changes, the verdicts change with it.

# %% tags=["parameters", "hide-input"]
dataset = "birds"  # synthetic, with known parts
image_size = 64
num_classes = 12  # of the data set: MC-Loss has ξ channels for each
backbone = "small"
pretrained = False
epochs = 60
batch_size = 32
max_steps = None
seeds = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
device = None  # the best there is
train = "missing"  # what has no record; "all": everything again; "never": nothing
rates = {  # of each method: the one that validation preferred among the trials below
    "plain, linear head": 0.3,
    "plain, BN-ELU head": 0.3,
    "Center Loss": 0.3,
    "MC-Loss": 0.3,
    "Bilinear CNN": 1.5,
    "CIN": 0.1,
    "TASN": 0.3,
    "AP-CNN": 0.006,
}
trials = {
    "plain, linear head": [0.03, 0.1, 0.3],
    "plain, BN-ELU head": [0.03, 0.1, 0.3],
    "Center Loss": [0.03, 0.1, 0.3],
    "MC-Loss": [0.03, 0.1, 0.3],
    "Bilinear CNN": [0.15, 0.5, 1.5],
    "CIN": [0.03, 0.1, 0.3],
    "TASN": [0.03, 0.1, 0.3],
    "AP-CNN": [0.002, 0.006, 0.02],
}
trial_seeds = [100, 101]  # used for nothing else
changes = {}  # of single methods, where another network or data set asks for them
elsewhere = {}  # further data sets to compare on, with the settings that differ there
point_seeds = []  # of the networks that are held against part points; none: not done
settings = {"precision": "float32"}  # of all runs; the same on every device

# %% tags=["setup", "hide-input"]
import textwrap
from collections import Counter

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from fgvc_study import Study, benchmarks, ledger, published, vary
from fgvc_study.experiment import table
from fgvc_study.figures import COLORS, forest, forests, show, show_table, style
from fgvc_study.findings import difference, effects, level, tell
from fgvc_study.protocol import configuration
from fgvc_study.statistics import over_images, paired
from fgvc_study.tables import plus_minus, provenance_line, summarize, title

study = Study("08_evidence", seeds=seeds, device=device, train=train)
base = configuration(
    dataset=dataset,
    image_size=image_size,
    backbone=backbone,
    pretrained=pretrained,
    epochs=epochs,
    batch_size=batch_size,
    max_steps=max_steps,
    settings=settings,
)


def methods():
    """Every method as its chapter has it, on one backbone and one budget."""
    attention = {"backbone": base.backbone} | base.backbone_args
    if not pretrained:
        attention["strides"] = [1, 1, 1]  # a map of 16 × 16 for an input of 32 pixels
    mc_channels = (
        {} if pretrained else {"backbone_args": {"last_channels": 3 * num_classes}}
    )
    mc_groups = {} if pretrained else {"xi": 3}
    variants = {
        "plain, linear head": {"method": "baseline"},
        "plain, BN-ELU head": {
            "method": "baseline",
            "method_args": {"head": "bn_elu", "hidden": 128, "pool": "max"},
        },
        "Center Loss": {
            "method": "center",
            "method_args": {"weight": 0.003, "bias": True},
        },
        "MC-Loss": {
            "method": "mutual_channel",
            "method_args": {"mu": 1.5, "lam": 4.44, "hidden": 128} | mc_groups,
            **mc_channels,
        },
        "Bilinear CNN": {"method": "bcnn", "method_args": {"head_fraction": 0.0}},
        "CIN": {"method": "cin", "method_args": {"embedding": 64}, "batch_size": 40},
        "TASN": {
            "method": "tasn",
            "method_args": {
                "input_size": image_size,
                "attention": {
                    "backbone": attention,
                    "dilations": [[1, 2]],
                    "input_size": image_size // 2,
                },
            },
            "data_args": {"image_size": 2 * image_size},
        },
        "AP-CNN": {
            "method": "ap_cnn",
            "method_args": {
                "pyramid": {"channels": 32, "gate_reduction": 4, "momentum": 0.1},
                "boxes": {"border": 0.125},
                "hidden": 128,
            },
        },
    }
    return {
        name: vary(vary(base, **variant), **changes.get(name, {}))
        for name, variant in variants.items()
    }


style()

# %% tags=["hide-input"]
SIGNS = {
    "reproduced": ("✓", COLORS[2]),
    "not reproduced": ("✗", COLORS[1]),
    "inconclusive": ("?", COLORS[6]),
    "untestable here": ("–", "#B0B0B0"),
    "not measured yet": ("·", "#B0B0B0"),
}
judged = [(claim, ledger.judge(claim)) for claim in ledger.claims()]
together = ledger.adjusted([verdict for _, verdict in judged])
papers = list(dict.fromkeys(claim.method for claim, _ in judged))
sides = {"quick": "small networks from scratch", "photos": "pretrained, photographs"}


def printed(claim, profile):
    """The paper's own effect in points, where it prints both sides; else None."""
    test = claim.test
    if test.get("value") != "test_accuracy" or isinstance(test.get("b"), list):
        return None
    started = True if profile == "photos" else None  # small networks stand beside both
    return published.effect(
        test["experiment"], test["a"], test["b"], pretrained=started
    )


def drawn(profile):
    """The claims about accuracy that a profile has measured, with what each gave."""
    found = []
    for claim, _ in judged:
        if claim.test.get("unit") == "points" and claim.kind == "measured":
            verdict = ledger.judge(claim, profile)
            if np.isfinite(verdict.effect):
                found.append((claim, verdict))
    return found


def effects_figure(profile):
    """Each claim's difference with its interval, and the paper's as a diamond."""
    rows = pd.DataFrame(
        [
            {
                "claim": f"{SIGNS[v.verdict][0]}  {claim.method}: {claim.claim}",
                "effect": 100 * v.effect,
                "low": 100 * v.low,
                "high": 100 * v.high,
                "published": printed(claim, profile),
                "color": SIGNS[v.verdict][1],
            }
            for claim, v in drawn(profile)
        ],
        columns=["claim", "effect", "low", "high", "published", "color"],
    ).set_index("claim")
    figure, ax = plt.subplots(figsize=(5.6, 1.2 + 0.45 * len(rows)))
    forest(ax, rows.astype({"published": float}))
    above = ax.get_yaxis_transform()  # each claim stands over its interval
    for y, claim in zip(ax.get_yticks(), rows.index, strict=True):
        own = {"va": "bottom", "fontsize": 8.5, "linespacing": 0.95}
        sheet = {"fc": "white", "ec": "none", "pad": 0.5}  # over the line at zero
        text = textwrap.fill(claim, 82)
        ax.text(0, y + 0.17, text, transform=above, bbox=sheet, **own)
    ax.set(yticks=[], xlim=(-15, 25), ylim=(-0.5, len(rows)))
    ax.set(xlabel="difference, points of accuracy")
    for name in ("reproduced", "not reproduced", "inconclusive"):
        sign, color = SIGNS[name]
        ax.plot([], [], "o-", color=color, label=f"{sign} {name}")
    ax.plot([], [], "D", mfc="white", mec="black", ls="", label="the paper's effect")
    figure.legend(loc="outside upper left", fontsize=8.5, ncols=2)
    return figure


plain, elu = "plain, linear head", "plain, BN-ELU head"
BASELINES = {  # of each method, and the same comparison in its chapter
    "Center Loss": (plain, "02_center_loss/wide", "softmax + center", "softmax"),
    "MC-Loss": (
        elu,
        "03_mutual_channel_loss/components",
        "CE + MC",
        "CE, the same head",
    ),
    "Bilinear CNN": (
        plain,
        "04_bilinear_cnn/components",
        "bilinear + root + norm",
        "average pooling",
    ),
    "CIN": (plain, "05_channel_interaction/components", "SCI + CCI", "baseline"),
    "TASN": (
        plain,
        "06_tasn/components",
        "structure + detail + distillation",
        "plain resizing",
    ),
    "AP-CNN": (elu, "07_ap_cnn/components", "two stages", "plain, the same head"),
}
photographs = [
    study.recorded(name, profile="photos")
    for name in table("photos", study.chapter)
    if name.startswith("compare")
]
everywhere = {
    title(runs): {m: difference(runs, m, b) for m, (b, *_) in BASELINES.items()}
    for runs in [study.recorded("compare", profile="quick"), *photographs]
    if runs["measured"].any()
}


# %% tags=["figure", "hide-input"]
def papers_gains(pretrained):
    """Method → the paper's own gain, of networks that started in the same way."""
    return {
        m: published.effect(*pair, pretrained=pretrained)
        for m, (_, *pair) in BASELINES.items()
    }


show(
    forests(
        {
            name: effects(gains).assign(
                published=pd.Series(papers_gains("pretrained" in name), dtype=float)
            )
            for name, gains in everywhere.items()
        },
        "over its baseline, points",
    ),
    name="fig-evidence-gains",
    caption="What each method adds to its own baseline, a network with the same head,"
    " with the 95 % interval over seeds. Diamonds are the papers' gains, "
    "where they print both sides of a network that started in the same way: "
    "large networks, mostly of 448 pixels, on CUB; Center Loss in the "
    "verification of faces.",
    alt="Forest plots, one for each data set, with a row for each of six methods: the"
    " gain over its baseline with its interval, some with a diamond at the "
    "published gain.",
    drawing=True,
)

# %% tags=["output", "hide-input"]
for name, gains in everywhere.items():
    clear = {m: d for m, d in gains.items() if d and d.low > 0}
    behind = [m for m, d in gains.items() if d and d.high < 0]
    if clear:
        best = max(clear, key=lambda m: clear[m].mean)
        tell(
            "**{name}.** {n} of {all} methods are above their baselines with the "
            "whole interval: {names}. {m} below{others}. The largest gain is that of "
            "{best}, {d}.",
            name=name[0].upper() + name[1:],
            n=len(clear),
            all=len(gains),
            names=", ".join(clear),
            m=str(len(behind) or "None").replace("1", "One") + " is"
            if len(behind) < 2
            else f"{len(behind)} are",
            others=f": {', '.join(behind)}" if behind else "",
            best=best,
            d=clear[best],
        )

# %% [markdown]
# ## Claim by claim

# %% tags=["figure", "hide-input"]
show(
    effects_figure("quick"),
    name="fig-evidence-effects",
    caption="Every claim about accuracy that was measured with small networks from "
    "scratch: the mean difference over seeds with its 95 % interval. Diamonds are the "
    "papers' own differences on photographs, of pretrained networks; that of MC-Loss "
    "is of a network from scratch.",
    alt="A forest plot: for each claim a dot with an interval around a line at zero, "
    "colored by verdict, some with a diamond at the published difference.",
    drawing=True,
)

# %% tags=["output", "hide-input"]
testable = [(c, v) for c, v in judged if c.kind == "measured"]
tally = Counter(verdict.verdict for _, verdict in testable)
stands = Counter(
    name for (c, _), name in zip(judged, together, strict=True) if c.kind == "measured"
)
fragile = [v for _, v in testable if v.fragile and v.verdict != "not measured yet"]
tell(
    "Of {n} claims that runs can test, **{yes} are reproduced**. The others: {no} "
    "not reproduced, {unclear} inconclusive, {absent} not measured yet. So many tests "
    "find something by chance; judged together, {stand} stay reproduced. The sign of "
    "{fragile} effects changes when one seed is left out.",
    n=len(testable),
    yes=tally["reproduced"],
    no=tally["not reproduced"],
    unclear=tally["inconclusive"],
    absent=tally["not measured yet"],
    stand=stands["reproduced"],
    fragile=len(fragile),
)
others = Counter(c.kind for c, _ in judged if c.kind != "measured")
tell(
    "In addition, {construction} claims hold by construction and have a test, {cost} "
    "are about cost, which benchmarks answer, and {untestable} cannot be tested here.",
    construction=others["by construction"],
    cost=others["cost"],
    untestable=others["untestable"],
)

# %% tags=["figure", "hide-input"]
show(
    effects_figure("photos"),
    name="fig-evidence-photos",
    caption="The same for networks pretrained on ImageNet, on photographs, and for "
    "Center Loss on MNIST, as far as it has been measured.",
    alt="A forest plot like the one before, for the claims that were measured on real "
    "images.",
    drawing=True,
)

# %% [markdown]
# ## How a verdict is reached
#
# Each claim of the form "A is better than B" is tested on runs of A and B that share their seeds: the same data, the same batches, and the same
# initial weights wherever the two have the same layers. For the differences $d_1 \dots d_n$ of $n$ seeds, with mean $\bar d$ and standard deviation $s_d$, we take Student's interval
#
# $$
# \bar d \pm t_{n-1,\,0.975}\, \frac{s_d}{\sqrt n} .
# $$ (eq-evidence-interval)
#
# Differences in the equivalence band $[-\epsilon, \epsilon]$ are too small to matter; the YAML file states $\epsilon$ for each claim. The verdict follows from where the interval lies:
#
# | the interval lies | verdict |
# | --- | --- |
# | entirely on the claimed side, and not entirely inside the band | ✓ **reproduced** |
# | entirely on the other side, or entirely inside the band | ✗ **not reproduced** |
# | anywhere else | ? **inconclusive** |
#
# A claim of equality ("α matters little") swaps the roles: it is reproduced where the interval lies inside the band. Three seeds make wide intervals
# ($t_{2,\,0.975} \approx 4.3$), so *inconclusive* is a frequent and honest answer. More seeds would settle it.
#
# **Many tests.** Of fifty intervals at 95 %, two or three miss by chance. So all claims are judged once more together, with the expected fraction of false findings held
# at 5 % {footcite:p}`benjamini1995controlling`; the last column of the tables says what remains. **How many seeds.** A pair of rows that three seeds leave open gets
# five, and if it is still open, ten; the profiles name such rows (`seeds_of`, `more_seeds`). Adding seeds until an interval excludes zero would find too much, so seeds
# are added in these steps alone and the last verdict stays. **One seed.** A verdict is marked as *fragile* if its effect changes sign when one seed is left out. **Whose
# claim, and when.** Only what the paper itself says counts as the paper's claim. Most claims were written down before the runs that test them; the tables give the day.
#
# ```{admonition} What these numbers are not
# :class: warning
# They are not the published benchmarks. The small networks train **from scratch** on synthetic birds, and the pretrained ones are tuned on box crops of half of CUB's classes. Numbers
# compare rows with each other under one budget. A claim that does not reproduce here may hold at 448 pixels; the `paper` profile is there to find out.
# ```
#
# ## The ledger


# %% tags=["table", "hide-cell"]
def written(value, unit, sign="+"):
    """Points with one decimal, ratios and counts with three digits."""
    if unit in ("%", "points"):
        return f"{100 * value:{sign}.1f}"
    return f"{value:{sign},.0f}" if abs(value) >= 100 else f"{value:{sign}.3g}"


for method in papers:
    lines, links = [], []
    for (claim, verdict), joint in zip(judged, together, strict=True):
        if claim.method != method:
            continue
        known = np.isfinite(verdict.effect)
        signed = "+" if verdict.records else ""  # a benchmark is a number
        effect = f"{written(verdict.effect, verdict.unit, signed)} {verdict.unit}"
        if np.isfinite(verdict.low):
            ends = [written(x, verdict.unit) for x in (verdict.low, verdict.high)]
            effect += f" [{', '.join(ends)}]"
        marks = [f"{SIGNS[verdict.verdict][0]} {verdict.verdict}"]
        marks += ["fragile"] if verdict.fragile else []
        lines.append(
            {
                "claim": claim.claim
                if claim.own
                else f"{claim.claim} (not the paper's)",
                "verdict": ", ".join(marks),
                "effect, 95 % interval": effect if known else "",
                "pairs": verdict.seeds or "",
                "judged with all": SIGNS[joint][0],
            }
        )
        links.append(f"{claim.chapter}.html#{claim.anchor}")
    show_table(pd.DataFrame(lines), title=method, links={"claim": links})

# %% [markdown]
# Each claim links to the figure or section that measures it, and *pairs* counts seeds. The next table says for each claim which rows were compared, or which test or obstacle decides, where the paper
# claims it, and when it was written down:

# %% tags=["table", "hide-cell"]
used = {record.id: record for _, verdict in judged for record in verdict.records}
show_table(
    pd.DataFrame(
        {
            "claim": f"{claim.method}: {claim.claim}",
            "judged by": f"{claim.kind}: {verdict.why}",
            "claimed in": f"{claim.source}; written down {claim.written}",
        }
        for claim, verdict in judged
    ),
    foot=provenance_line(list(used.values())),
)

# %% [markdown]
# (evidence-budget)=
# ## One budget, all methods
#
# Here all methods share one backbone, one augmentation and one number of epochs. We report the last epoch and use the test split once. Training on the
# birds is in float32 on every device, and this comparison has more seeds than the sweeps of the chapters. We tried a harder task with fewer
# birds in each class and gave it up, because runs of the same network then differed by more than the methods did.
# A method with a head of its own is compared with a baseline that has the same head.
# On a CPU every run takes one thread, since two threads take sums in another order, and training makes another network of a difference in the last digit:

# %% tags=["output", "hide-input"]
for bench in benchmarks.records("threads"):
    of = bench["points"]
    own = of["of the two runs of a seed, mean"]
    seeds_apart = of["of two seeds with one thread, mean"]
    tell(
        "With one thread and with two, the two runs of a seed of the plain network end "
        "{own:.1f} points apart in the mean over {n} seeds, and {largest:.1f} at most. "
        "The mean over all seeds changes by {mean:+.1f}. Runs of two seeds end "
        "{seeds_apart:.1f} points apart, so a second thread changes {share:.0f} % of "
        "what another seed changes.",
        own=own,
        n=len(bench["test_accuracy"]["1"]),
        largest=of["of the two runs of a seed, largest"],
        mean=of["change of the mean over seeds"],
        seeds_apart=seeds_apart,
        share=100 * own / seeds_apart,
    )

# %% [markdown]
# A method must not win because its learning rate was tuned and that of its rival was not. So each gets three rates: its default, about a third of it and
# about three times it, with two runs each on seeds that are used for nothing else. The mean accuracy on the validation split chooses, and a run that diverges counts as zero:

# %% tags=["experiment"]
tried = study.run(
    "rates",
    {
        f"{name} @ {lr:g}": vary(config, lr=lr)
        for name, config in methods().items()
        for lr in trials.get(name, [])
    },
    seeds=trial_seeds,
)

# %% tags=["table", "hide-input"]
lines = []
for name, group in tried.groupby(tried["variant"].str.split(" @ ").str[0], sort=False):
    measured = group[group["measured"]]
    line = {"method": name}
    if len(measured) and "val_accuracy" in measured:
        accuracy = measured["val_accuracy"].fillna(0.0).groupby(measured["lr"]).mean()
        lost = measured.groupby("lr")["diverged"].sum()
        for kind, lr in zip(
            ("lowest", "middle", "highest"), sorted(accuracy.index), strict=False
        ):
            note = f"; {lost[lr]} diverged" if lost[lr] else ""
            mark = " ←" if lr == accuracy.idxmax() else ""
            line[f"{kind}: validation accuracy, %"] = (
                f"{100 * accuracy[lr]:.1f} (at {lr:g}{note}){mark}"
            )
    lines.append(line)
show_table(pd.DataFrame(lines).fillna("–"), foot=study.foot(tried))

# %% [markdown]
# The arrow marks the chosen rate. An arrow in the first or last column says that the best of three lay at the edge, so more trials might find a better rate. The
# test `tests/study/test_protocol.py` fails if the comparison uses another rate than the marked one.

# %% tags=["experiment"]
chosen = {name: vary(config, lr=rates[name]) for name, config in methods().items()}
compared = study.run("compare", chosen, metrics=["correct", "cost"])

for name, other in elsewhere.items():
    variants = {m: vary(config, data=name, **other) for m, config in chosen.items()}
    study.run(f"compare on {name}", variants, metrics=["correct", "cost"])

# %%
tables = {
    title(runs): runs for runs in [compared, *photographs] if runs["measured"].any()
}


# %% tags=["table", "hide-input"]
def right(records):
    """bool (seeds, N): which test images each seed gets right."""
    return np.stack(
        [
            np.unpackbits(r.load_arrays()["correct/test"])[: r.dataset["test"]].astype(
                bool
            )
            for r in records
        ]
    )


def comparison(runs) -> pd.DataFrame:
    first = runs[runs["variant"] == runs["variant"].iloc[0]]
    lines = []
    for variant, group in runs.groupby("variant", sort=False):
        line = {"method": variant, "accuracy, %": plus_minus(group["test_accuracy"])}
        common = set(group.dropna(subset="test_accuracy")["seed"]) & set(first["seed"])
        if variant != first["variant"].iloc[0] and common:
            gain = paired(group, first, "test_accuracy")
            line["over the first row, points"] = f"{100 * gain['mean']:+.1f}"
            if np.isfinite(gain["low"]):
                line["95 % over seeds"] = (
                    f"[{100 * gain['low']:+.1f}, {100 * gain['high']:+.1f}]"
                )
            mine, other = study.records(group), study.records(first)
            if len(mine) == len(other) and all(
                "correct/test" in r.arrays for r in mine + other
            ):
                low, high = over_images(right(mine), right(other))
                line["95 % over images"] = f"[{100 * low:+.1f}, {100 * high:+.1f}]"
        lines.append(line | {"seeds": int(group["test_accuracy"].notna().sum())})
    table = pd.DataFrame(lines).fillna("")
    return table[[column for column in table if column != "seeds"] + ["seeds"]]


for name, runs in tables.items():
    show_table(comparison(runs), title=name, foot=study.foot(runs))
if not tables:
    show_table(summarize(compared, {}, "method"), foot=study.foot(compared))

# %% [markdown]
# The first interval asks *what if we trained again?*, and the second *what if the test set held other images?* A difference is worth a sentence if it
# survives both.
#
# ### What it costs

# %% tags=["figure", "hide-input"]
MARKS = "osDv^P*X"
priced = {name: runs for name, runs in tables.items() if "cost/multiply_adds" in runs}
panels = max(len(priced), 1)
figure, axes = plt.subplots(panels, 1, figsize=(5.6, 2.4 * panels + 1), squeeze=False)
for ax, (name, runs) in zip(axes.flat, priced.items(), strict=False):
    for variant, color, mark in zip(
        runs["variant"].unique(), COLORS, MARKS, strict=False
    ):
        group = runs[runs["variant"] == variant]
        x, y = group["cost/multiply_adds"].mean() / 1e6, 100 * group["test_accuracy"]
        ax.errorbar(
            x, y.mean(), yerr=y.std(), fmt=mark, color=color, capsize=3, label=variant
        )
    ax.set_xscale("log")
    low, high = ax.get_xlim()
    steps = [m * 10**power for power in range(-1, 6) for m in (1, 1.5, 2, 3, 5, 7)]
    ticks = [t for t in steps if low <= t <= high]
    ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
    ax.minorticks_off()
    ax.set_title(name, loc="left", weight="bold")
    ax.set_ylabel("test accuracy, %")
axes.flat[-1].set_xlabel("multiply-adds of a prediction, millions")
if priced:
    handles = axes.flat[-1].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", fontsize=8.5, ncols=3)
show(
    figure,
    name="fig-evidence-cost",
    caption="Accuracy against the cost of a prediction; bars are one standard "
    "deviation over seeds.",
    alt="Scatter plots, one for each data set: test accuracy over multiply-adds of a "
    "prediction, a marked point for each method.",
)

# %% tags=["output", "hide-input"]
photo = next((runs for runs in photographs if runs["measured"].any()), compared[:0])
over_plain = {
    m: difference(photo, m, plain) for m in ("Bilinear CNN", "TASN", "AP-CNN")
}
if len(photo):
    operations = photo.groupby("variant")["cost/multiply_adds"].mean()
    times = operations / operations[plain]
    assert times["Bilinear CNN"] < 1.5 < min(times["TASN"], times["AP-CNN"])
    tell(
        "On CUB-100 the Bilinear CNN takes {b:.1f} times the operations of the plain "
        "network and is {db.word} it ({db}). TASN takes {t:.1f} times for {dt}, and "
        "AP-CNN {a:.1f} times for {da}. Both look twice, which costs a prediction more "
        "than any product of channels.",
        b=times["Bilinear CNN"],
        t=times["TASN"],
        a=times["AP-CNN"],
        db=over_plain["Bilinear CNN"],
        dt=over_plain["TASN"],
        da=over_plain["AP-CNN"],
    )

# %% [markdown]
# Every number stands in the tables below. Parameters are those that a prediction reads. Multiply-adds are counted for one image and divided by those of the first row, for a prediction and for a training step.
# Times are divided in the same way; `benchmarks/step.py` measured them on an otherwise idle machine. Memory is the largest amount that was allocated at once for a batch (CIN's batch has more images).

# %% tags=["table", "hide-cell"]
for name, runs in tables.items():
    if "cost/multiply_adds" not in runs:
        continue
    first = runs[runs["variant"] == runs["variant"].iloc[0]]
    counts = {"predict": "cost/multiply_adds", "train": "cost/train_multiply_adds"}
    costs = []
    for variant, group in runs.groupby("variant", sort=False):
        line = {
            "method": variant,
            "parameters": f"{group['cost/parameters_used'].mean() / 1e6:.2f} M",
        }
        for kind, column in counts.items():
            line[f"multiply-adds, {kind}"] = (
                f"{group[column].mean() / first[column].mean():.2f} ×"
            )
        costs.append(line)
    show_table(pd.DataFrame(costs), title=name)

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
        title=f"birds, measured on {benchmarks.device(bench)}",
        foot=f"benchmarks/step.py: {bench['device']['name']}; "
        f"torch {bench['versions']['torch']}, {bench['repeats']} rounds in turn.",
    )

# %% [markdown]
# (evidence-places)=
# ## Where they look
#
# A method can gain accuracy without looking where its paper says that it looks. CUB has a point for each visible part of a bird, among them beak,
# crown, wing and tail, so on photographs we can ask trained networks three questions. Of the channels that **MC-Loss** gives to the true class, how many peak at a part? By how much
# does **TASN** enlarge the surroundings of the parts, in area? How many of the parts lie in the box that **AP-CNN** zooms into, and do its masks peak at one?
#
# Two comparisons keep the answers honest. *Chance*: birds stand in the middle of a photograph, so each network is also held against the points of the next image. *No training
# of its kind*: the network of MC-Loss trained with cross-entropy alone, and TASN and AP-CNN before their first step, which have the ImageNet weights of the
# backbone all the same. Nothing here says which part decides; the chapters ask that on the synthetic birds.

# %% tags=["experiment", "hide-input"]
if point_seeds:
    alike = {"MC-Loss": {"method_args": {"mu": 0.0}}}  # cross-entropy alone
    alike |= {name: {"lr": 0.0, "epochs": 2} for name in ("TASN", "AP-CNN")}
    study.run(
        "points",
        {name: chosen[name] for name in alike}
        | {f"{name}, without": vary(chosen[name], **c) for name, c in alike.items()},
        metrics=["group_points", "point_magnification", "roi_points"],
        seeds=point_seeds,
    )

# %% tags=["figure", "hide-input"]
WITHOUT = {
    "MC-Loss": "cross-entropy alone",
    "TASN": "not trained",
    "AP-CNN": "not trained",
}
QUESTIONS = {  # what is asked → of which method, by which number, times what
    "channels at a part, %": ("MC-Loss", "group_points/on_part", 100),
    "enlargement of parts, ×": ("TASN", "point_magnification/structure", 1),
    "parts in the zoomed box, %": ("AP-CNN", "roi_points/union/points", 100),
    "masks that peak at a part, %": ("AP-CNN", "roi_points/level4/pointing", 100),
}
looked = study.recorded("points", profile="photos")


def seen(row, value):
    """A number of each measured run of a row."""
    of = looked[(looked["variant"] == row) & looked["measured"]]
    return of[value] if len(of) else []


figure, axes = plt.subplots(2, 2, figsize=(6.8, 3.2))
for ax, (question, (method, value, scale)) in zip(
    axes.flat, QUESTIONS.items(), strict=True
):
    rows = {f"{method}, without": WITHOUT[method], method: method}
    for place, row in enumerate(rows):
        color = COLORS[place]
        runs = list(zip(seen(row, value), seen(row, f"{value}_elsewhere"), strict=True))
        for n, run in enumerate(runs):
            own, other = (scale * number for number in run)
            y = place + 0.3 * (n - (len(runs) - 1) / 2)  # seeds beside each other
            ax.plot([own, other], [y, y], color=color, lw=1)
            ax.plot(own, y, "o", color=color, ms=5)
            ax.plot(other, y, "o", color=color, mfc="white", ms=5)
    ax.set(yticks=[0, 1], yticklabels=rows.values(), ylim=(-0.6, 1.6))
    ax.set_title(question, loc="left", fontsize=9)
    ax.margins(x=0.15)
figure.legend(
    handles=[
        plt.Line2D([], [], color="black", marker="o", ls="", mfc=face, label=label)
        for face, label in (("black", "its own parts"), ("white", "the next image's"))
    ],
    loc="outside upper left",
    fontsize=8.5,
    ncols=2,
)
show(
    figure,
    name="fig-evidence-places",
    caption="Where trained networks look on CUB-100, measured at its part points: a "
    "line for each seed, from the parts of the next image to those of the same.",
    alt="Four panels, each with two rows, the method and the same network without its "
    "training; in each row, for each seed, a full dot for the image's own parts and an "
    "open one for the next image's.",
    drawing=True,
)

# %% tags=["output", "hide-input"]
if len(looked) and looked["measured"].all():
    for question, sentence in {
        "channels at a part, %": "**MC-Loss**: {a:.1f} % of the channels of the true "
        "class peak at a part, {b:.1f} % at one of the next image's. With "
        "cross-entropy alone they are {c:.1f} % and {d:.1f} %.",
        "enlargement of parts, ×": "**TASN** enlarges the surroundings of parts "
        "{a:.2f} times, those of the next image's parts {b:.2f} times. Before its "
        "first step it is {c:.2f} and {d:.2f} times.",
        "parts in the zoomed box, %": "**AP-CNN** zooms into a box with {a:.1f} % of "
        "the parts and {b:.1f} % of the next image's. Before its first step they are "
        "{c:.1f} % and {d:.1f} %.",
    }.items():
        method, value, scale = QUESTIONS[question]
        means = [
            scale * seen(row, value + end).mean()
            for row in (method, f"{method}, without")
            for end in ("", "_elsewhere")
        ]
        tell(sentence, **dict(zip("abcd", means, strict=True)))

    area = 100 * seen("AP-CNN", "roi_points/union/area")
    tell(
        "How far AP-CNN zooms depends on the seed: the box has {low:.0f} to {high:.0f} "
        "% of the image, {start:.0f} % before the first step, and a large box holds "
        "many parts wherever it lies.",
        low=area.min(),
        high=area.max(),
        start=100 * seen("AP-CNN, without", "roi_points/union/area").mean(),
    )
else:
    tell("Not all of these networks have been measured yet.")

show_table(
    summarize(
        looked,
        {
            "accuracy, %": "test_accuracy",
            "different parts, of three": ("group_points/parts", 1, 2),
            "area of the box, %": "roi_points/union/area",
            "by the best channel, ×": ("point_magnification/detail_best", 1, 2),
        },
        "network",
    ),
    foot=study.foot(looked),
)

# %% [markdown]
# ## What we found


# %% tags=["output", "hide-input"]
def runs_of(experiment, profile="quick"):
    return ledger.recorded(experiment, profile)[0]


def gain(experiment, a, b, profile="quick", value="test_accuracy"):
    runs = runs_of(experiment, profile)
    return difference(runs, a, b, value) if len(runs) else None


tell(
    "1. **The head.** On the birds the BN-ELU head of two "
    "official implementations is {d.word} the linear head: {d}. A method that brings "
    "it has to be compared with a baseline that has it too.",
    d=difference(compared, elu, plain),
)
tell(
    "2. **MC-Loss** is {d.word} cross-entropy with the same head: {d}.",
    d=difference(compared, "MC-Loss", elu),
)
tell(
    "3. **Pooled products** are {d.word} average pooling of the same map: {d}. B-CNN "
    "with root and norm is {n.word} B-CNN without both: {n}.",
    d=difference(compared, "Bilinear CNN", plain),
    n=gain("04_bilinear_cnn/components", "bilinear + root + norm", "bilinear"),
)
tell(
    "4. **Channel interaction.** SCI, its output divided by √c, is {d.word} the "
    "baseline: {d}. The same convolution without any interaction of channels is "
    "{c.word} SCI: {c}. In the comparison CIN is {p.word} the plain network ({p}), "
    "whose batches are shuffled; with CIN's batches of four classes the network "
    "without it is {o.word} CIN ({o}).",
    d=gain("05_channel_interaction/components", "SCI", "baseline"),
    c=gain("05_channel_interaction/components", "φ alone", "SCI"),
    p=difference(compared, "CIN", plain),
    o=gain("05_channel_interaction/components", "baseline", "SCI + CCI"),
)
tell(
    "5. **TASN** with structure and detail is {d.word} uniform sampling: {d}. "
    "Distillation adds {t}.",
    d=gain("06_tasn/components", "structure + detail", "uniform sampling"),
    t=gain(
        "06_tasn/components", "structure + detail + distillation", "structure + detail"
    ),
)
tell(
    "6. **AP-CNN's second look** is {d.word} one stage: {d}. In it, the zoom is worth "
    "{z}, the drop {r}.",
    d=gain("07_ap_cnn/components", "two stages", "one stage"),
    z=gain("07_ap_cnn/components", "two stages", "two stages, drop only"),
    r=gain("07_ap_cnn/components", "two stages", "two stages, zoom only"),
)
pair = ("02_center_loss/wide", "softmax + center", "softmax")
tell(
    "7. **Center Loss** on MNIST changes the area under the verification curve by "
    "{v}, and the accuracy by {d}.",
    v=gain(*pair, "photos", "verification/auc"),
    d=gain(*pair, "photos"),
)
gains = {m: difference(photo, m, b) for m, (b, *_) in BASELINES.items()}
gains = {m: d.mean for m, d in gains.items() if d}
most = sorted(gains, key=gains.get)[-3:]
assert not gains or set(most) == set(over_plain)  # as the sentence says
tell(
    "8. **On photographs** a pretrained network alone classifies {p} of the birds of "
    "CUB-100 correctly. B-CNN is {b.word} it ({b}), TASN {t.word} it ({t}), AP-CNN "
    "{a.word} it ({a}). These are the three largest gains: the methods that pool "
    "products of channels, or look at the image a second time.",
    p=level(photo, plain),
    b=over_plain["Bilinear CNN"],
    t=over_plain["TASN"],
    a=over_plain["AP-CNN"],
)
tell(
    "9. **A term in the loss or a block behind the last stage** does less there: "
    "Center Loss is {c.word} the plain network ({c}), CIN {i.word} it ({i}), MC-Loss "
    "{m.word} the plain network with the same head ({m}).",
    c=difference(photo, "Center Loss", plain),
    i=difference(photo, "CIN", plain),
    m=difference(photo, "MC-Loss", elu),
)
unclear = [(c, v) for c, v in testable if v.verdict == "inconclusive"]
points = [(c, v) for c, v in unclear if v.unit == "points"]  # as fractions
tell(
    "10. **Seeds decide what can be said.** {u:.0f} % of the measured claims are "
    "inconclusive. With three seeds an interval reaches more than four standard errors "
    "to either side. Inconclusive does not mean unknown: in {n} of these {all} cases "
    "the whole interval lies within two points of zero, and in {m} it excludes a gain "
    "as large as the band.",
    u=100 * len(unclear) / max(1, len(testable) - tally["not measured yet"]),
    n=sum(-0.02 < v.low < v.high < 0.02 for _, v in points),
    all=len(unclear),
    m=sum(c.test["side"] == "greater" and v.high < c.test["band"] for c, v in points),
)

# %% [markdown]
# ## An upper bound
#
# On the synthetic birds the discriminative part is known. The same plain network, shown only that part and enlarged, bounds what
# finding the part could gain. The bound is generous: the crop also reveals *which* part is the discriminative one, and that alone rules out all but two of the twelve
# classes.

# %% tags=["experiment"]
whole = vary(base, method="baseline", lr=0.1)
bound = study.run(
    "oracle",
    {"whole image": whole}
    | (
        {"oracle crop of the discriminative part": whole.replace(data="birds_oracle")}
        if dataset == "birds"
        else {}
    ),
)

# %% tags=["table", "hide-input"]
show_table(
    summarize(bound, {"accuracy, %": "test_accuracy"}, "input"), foot=study.foot(bound)
)

# %% tags=["hide-input"]
if dataset == "birds":
    oracle_crop = "oracle crop of the discriminative part"
    tell(
        "The crop is worth {gain}: {crop} instead of {plain}. On these birds no method "
        "can gain more than that by looking in the right place alone.",
        gain=difference(bound, oracle_crop, "whole image"),
        crop=level(bound, oracle_crop),
        plain=level(bound, "whole image"),
    )

# %% [markdown]
# ## The papers' protocols
#
# Everything above is small. If you have the data and the hours, the profile `paper` of each chapter states the protocol of its paper, as far as the
# official implementation, its logs and its threads reveal it: input size, backbone, ImageNet weights, batch, epochs, rates and schedule. The comments in
# `profiles/paper/` name the source of each value and say what we had to fill in. Every method has a baseline with the same settings beside it.
#
# The published figures come from `data/published.yaml`, which leaves out every figure that we could not see for ourselves in the paper, a log, a readme or a thread.

# %% tags=["table", "hide-cell"]
protocols = published.table()
columns = ["experiment", "variant", "data", "published, %", "certainty", "source"]
columns += ["measured, %"] if (protocols["measured, %"] != "").any() else []
names = protocols["experiment"].str.split("/", expand=True)
protocols[["chapter", "experiment"]] = names
paper_of = {claim.chapter: claim.method for claim, _ in judged}
for chapter, lines in protocols.groupby("chapter")[columns]:
    show_table(lines, title=paper_of[chapter])

# %% [markdown]
# *sure*: read at the place that the source names; *confirmed*: the paper's figure, repeated by another source; *log* and *issue*: one run, from the released log or reported in a
# thread. Published accuracies are mostly the best of all test epochs. Ours are the last epoch on the whole test split, which alone makes them lower: the
# figures of MC-Loss's released log show by how much.
#
# Before you spend the hours, a dry run looks for weights and data, builds every variant, and estimates memory and time without downloading or
# training anything ({py:mod}`fgvc_study.dry_run`); you state the throughput of your device. The dry run ends with status 1 if something is missing. Without
# `--dry-run`, `plan` prints the runs that have no record yet, one per line. `train` takes these lines, on one device, on several through `torchrun`, or as jobs of
# a cluster that share one list:
#
# ```bash
# P=profiles/paper/03_mutual_channel_loss.yaml
# python -m fgvc_study plan 03_mutual_channel_loss -f $P --dry-run --tflops 20
# python -m fgvc_study plan 03_mutual_channel_loss -f $P > runs.jsonl
# python -m fgvc_study train runs.jsonl
# torchrun --nproc-per-node 8 -m fgvc_study train runs.jsonl
# ```
#
# Under `torchrun` the batch is divided among the devices, and BatchNorm sees all of it (SyncBatchNorm), so the protocol stays the same. The record says
# how many processes there were. CIN's batches of 4 × 5 images need one device.
#
# ## Exercises
#
# 1. **Seeds.** The paired differences of two methods have a standard deviation of one point and a mean of one point. From how many seeds on does the
#    interval exclude zero?
#
# ```{dropdown} Solution
# We need $t_{n-1,0.975}/\sqrt n < 1$. For $n = 6$ it is $2.57/2.45 = 1.05$, and for $n = 7$ it is $2.45/2.65 = 0.92$: from seven seeds on.
# ```
#
# 2. **Code: choosing the epoch.** Take the records of the plain network in the comparison. How much higher is the best validation accuracy over all epochs
#    than the last? What would a paper report that chose its epoch on the test split?
#
# ````{dropdown} Solution
# ```python
# for record in study.records(compared[compared["variant"] == plain]):
#     val = [epoch["val_accuracy"] for epoch in record.history]
#     print(record.seed, max(val) - val[-1])
# ```
#
# The best of many noisy readings is biased upwards by the noise; {ref}`the primer <primer-trap>` measures by how much. A paper that chooses on the test split reports this bias as
# accuracy.
# ````
#
# 3. **Code: another band.** Judge all claims about accuracy once more with an equivalence band of ± 1 point. How many verdicts change?
#
# ````{dropdown} Solution
# ```python
# for claim, verdict in judged:
#     if claim.test.get("unit") == "points":
#         wider = claim.model_copy(update={"test": {**claim.test, "band": 0.01}})
#         if (other := ledger.judge(wider).verdict) != verdict.verdict:
#             print(f"{claim.claim}: {verdict.verdict} → {other}")
# ```
#
# A wider band turns clear but small effects into *not reproduced*. Claims of equality change the other way: more of them are *reproduced*.
# ````
#
# ## References
#
# ```{footbibliography}
# ```
