"""The study on top of :mod:`fgvc_lib`: experiments, records, metrics, statistics, tables, figures and the ledger."""

from fgvc_study.experiment import vary
from fgvc_study.study import Study

__all__ = ["Study", "vary"]
