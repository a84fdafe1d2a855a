"""From clean chapters to a published page: sync → execute → check → stage → Jupyter Book.

Each module does one step and can be run alone (``python -m pipeline.<step>``); the ``Snakefile`` orders them and
``python -m pipeline.build`` is what ``make book`` calls.
"""
