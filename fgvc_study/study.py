"""A chapter's experiments: each configuration's record is found, or the run is trained now.

    study = Study("03_mutual_channel_loss", seeds=[0, 1, 2])
    runs = study.run("xi", {str(xi): mutual_channel(xi=xi) for xi in (1, 2, 3)}, metrics=["group_parts"])

``runs`` is a tidy frame with a row for each variant and seed. There is no other list of experiments: what the book
wants measured is what its chapters ask for here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import pandas as pd

from fgvc_lib.config import Config
from fgvc_study import experiment as asked
from fgvc_study.experiment import Experiment
from fgvc_study.record import Record, find, find_all
from fgvc_study.tables import frame, provenance_line, title
from fgvc_study.training import Trained, announce, is_measured, measure, train_or_load

Train = Literal["missing", "all", "never"]


class Study:
    """The experiments of one chapter.

    Args:
        chapter: ``"03_mutual_channel_loss"``, say; new records are filed under it.
        seeds: of every variant, unless an experiment names its own.
        device: ``"cpu"``, ``"cuda"``, or None for the best there is.
        train: ``"missing"`` trains what has no record; ``"all"`` measures everything again; ``"never"`` shows what
            there is and says what is not measured.
    """

    def __init__(
        self, chapter: str, *, seeds: Sequence[int] = (0,), device: str | None = None, train: Train = "missing"
    ) -> None:
        if train not in ("missing", "all", "never"):
            raise ValueError(f"train must be 'missing', 'all' or 'never', got {train!r}")
        if isinstance(seeds, str) or not isinstance(seeds, Sequence) or not seeds:
            raise ValueError(f"seeds must be a list of at least one integer such as [0, 1, 2], got {seeds!r}")
        self.chapter, self.seeds, self.device, self.train = chapter, list(seeds), device, train
        self._records: dict[str, Record] = {}
        if asked.collecting is not None:
            asked.collecting.settings = {"device": device, "train": train}

    def run(
        self,
        name: str,
        variants: Mapping[str, Config],
        *,
        metrics: Sequence[str] = (),
        seeds: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
    ) -> pd.DataFrame:
        """An experiment: every variant with every seed.

        Args:
            name: of the experiment, unique in the chapter.
            variants: label → configuration; its seed is replaced by each of ``seeds`` in turn.
            metrics: names of :data:`fgvc_study.metrics.METRICS` to take on the trained networks.
            seeds: of this experiment, where they are not the study's; or label → seeds, for variants with their own.

        Returns:
            A row a run, in the order of ``variants``: ``variant``, ``seed``, ``measured``, ``diverged``, ``id``, the
            configuration, and the run's numbers (``test_accuracy``, ``<metric>/<key>``, …), NaN where there are none.
        """
        own = seeds if isinstance(seeds, Mapping) else dict.fromkeys(variants, self.seeds if seeds is None else seeds)
        experiment = Experiment(
            name,
            {
                label: tuple(config.replace(seed=seed) for seed in own.get(label, self.seeds))
                for label, config in variants.items()
            },
            tuple(metrics),
        )
        if asked.collecting is not None:
            asked.collecting.experiments[name] = experiment
        elif self.train != "never":
            again = self.train == "all"
            wanted = [c for c in experiment.configs() if again or not is_measured(find(c), metrics)]
            announce(name, wanted, self.device)
            for config in wanted:
                measure(config, chapter=self.chapter, metrics=metrics, device=self.device, again=again)
        return self._frame(experiment)

    def live(self, name: str, variants: Mapping[str, Config], *, metrics: Sequence[str] = ()) -> dict[str, Trained]:
        """Networks to look inside, trained on the page with the study's first seed, whatever has been recorded.

        The build folder keeps them, so a page that is run again loads them, unless ``train`` is ``"all"``.

        Args:
            name, variants, metrics: as of :meth:`run`.

        Raises:
            NonFiniteLoss: the loss stopped being finite.
        """
        configs = {label: config.replace(seed=self.seeds[0]) for label, config in variants.items()}
        if asked.collecting is not None:
            asked.collecting.live[name] = Experiment(name, {k: (c,) for k, c in configs.items()}, tuple(metrics))
            return {}
        again = self.train == "all"
        return {
            label: train_or_load(config, chapter=self.chapter, metrics=metrics, device=self.device, again=again)
            for label, config in configs.items()
        }

    def live_frame(self, networks: Mapping[str, Trained]) -> pd.DataFrame:
        """The numbers of :meth:`live` networks, in the form of :meth:`run`."""
        found = {network.record.id: network.record for network in networks.values()}
        variants = {label: (Config.from_dict(network.record.config),) for label, network in networks.items()}
        runs = frame(Experiment("live", variants), found)
        # the same run may have been recorded elsewhere: its record is another one
        runs["id"] = "live " + runs["id"]
        self._records |= {f"live {name}": record for name, record in found.items()}
        return runs

    def recorded(self, name: str, *, profile: str) -> pd.DataFrame:
        """An experiment as a profile's committed table has it, in the form of :meth:`run`; empty without one."""
        return self._frame(asked.table(profile, self.chapter).get(name, Experiment(name, {})))

    def beside_photos(self, name: str, runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """Title → the runs of an experiment: these, and where they are measured and others, those on real images.

        Args:
            name: of the experiment.
            runs: what :meth:`run` gave for it.
        """
        photos = self.recorded(name, profile="photos")
        others = photos["measured"].any() and not photos["id"].isin(runs["id"]).any()
        return {title(runs): runs} | ({title(photos): photos} if others else {})

    def records(self, runs: pd.DataFrame) -> list[Record]:
        """The records behind a frame, for their history and arrays."""
        measured = runs.loc[runs["measured"].astype(bool), "id"]
        return [self._records[name] for name in dict.fromkeys(measured) if name in self._records]

    def foot(self, runs: pd.DataFrame) -> str:
        """One sentence on where the numbers of a frame come from."""
        return provenance_line(self.records(runs), missing=int((~runs["measured"]).sum()))

    def _frame(self, experiment: Experiment) -> pd.DataFrame:
        found = {}
        if asked.collecting is None:
            found = find_all(experiment.configs())
        self._records |= found
        return frame(experiment, found)
