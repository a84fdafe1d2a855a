"""Records of runs: measured once, with provenance, drawn anywhere."""

from fgvc_lib.results.record import Record, RecordError, read
from fgvc_lib.results.run import best_device, find, is_current, recorded, run, trained

__all__ = ["Record", "RecordError", "best_device", "find", "is_current", "read", "recorded", "run", "trained"]
