"""Six papers on fine-grained image classification: their losses, layers, methods and one training loop.

The folders follow the flow of a run, one way only::

    data -> methods (losses, layers, backbones) -> train

Everything is a plain import; nothing registers itself anywhere.
"""

__version__ = "0.1.0"
