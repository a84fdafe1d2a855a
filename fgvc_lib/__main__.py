"""``python -m fgvc_lib``."""

from fgvc_lib.cli import main

main()
