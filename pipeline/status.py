"""What the status page shows: how, when, where and from which code each chapter of this build was run.

``machine`` is noted in an executed notebook when it is run; ``page`` reads it back.
"""

from __future__ import annotations

from typing import Any

import nbformat

from pipeline.project import chapters, executed_path


def machine() -> dict[str, Any]:
    """Versions and device of a run, in the words of the records."""
    from fgvc_study import provenance  # slow to import
    from fgvc_study.training import best_device

    return {"device": provenance.device_info(best_device()), "versions": provenance.versions()}


def recorded(profile: str, chapter: str) -> str:
    """``✓ 45 of 45``, or ``✗ 41 of 45``: how many of the runs that a chapter asks for have a record."""
    from fgvc_study.experiment import table  # slow to import
    from fgvc_study.record import find_all, run_id

    asked = [config for experiment in table(profile, chapter).values() for config in experiment.configs()]
    ids = {run_id(config) for config in asked}
    found = len(find_all(asked))
    return f"{'✓' if found == len(ids) else '✗'} {found} of {len(ids)}" if ids else "none asked for"


def page(profile: str) -> str:
    """Two tables in markdown: the chapters of this build, and the versions that they were run with."""
    rows, versions = [], dict[str, set[str]]()
    for chapter in chapters():
        path = executed_path(profile, chapter)
        if not path.exists():
            continue
        metadata = nbformat.read(path, as_version=4).metadata
        run, ours = metadata["papermill"], metadata.get("fgvc", {})
        device, commit = ours.get("device", {}), ours.get("commit", "")
        name = device.get("name", "not noted")
        if device.get("type") == "cpu":
            name += f", {device['count']} thread{'s' * (device['count'] != 1)}"
        at = f"`{commit[:10]}`{' with changes' * (ours.get('dirty') == '1')}" if commit else "not noted"
        rows.append(
            f"| {{doc}}`/notebooks/{chapter}` | {recorded(profile, chapter)} | {ours.get('profile', profile)} "
            f"| {str(run['start_time'])[:16]} | {run['duration']:.0f} | {name} | {at} |"
        )
        for package, version in ours.get("versions", {}).items():
            versions.setdefault(package, set()).add(str(version))
    lines = [
        "| Chapter | Runs recorded | Profile | Started | Seconds | Device | Commit |",
        "| --- | --- | --- | --- | ---: | --- | --- |",
        *rows,
    ]
    if versions:
        lines += ["", "| Package | Version |", "| --- | --- |"]
        lines += [f"| {package} | {', '.join(sorted(found))} |" for package, found in versions.items()]
    return "\n".join(lines) + "\n"
