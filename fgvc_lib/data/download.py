"""Fetch an archive, check it, unpack it: never half-installed."""

from __future__ import annotations

import tarfile
from pathlib import Path

from fgvc_lib.data.cache import build_once


def install(url: str, md5: str, folder: Path) -> None:
    """Make ``folder`` from the tar archive at ``url`` that holds a folder of the same name.

    A failed download is tried again, up to three times. The archive lies beside ``folder`` until it is unpacked, so
    that an interrupted unpacking does not fetch it again.

    Args:
        url: of the archive.
        md5: of the archive, hex.
        folder: to make; nothing happens if it exists.

    Raises:
        OSError: the download failed; the sentence says what to do.
        ValueError: the archive has another sum.
        tarfile.FilterError: the archive would write outside of its folder.
    """
    import pooch  # only downloads need it

    pooch.get_logger().setLevel("WARNING")
    name = url.rsplit("/", 1)[-1]

    def build(unfinished: Path) -> None:
        source = pooch.create(
            folder.parent, "", registry={name: f"md5:{md5}"}, urls={name: url}, retry_if_failed=RETRIES
        )
        try:
            archive = Path(source.fetch(name))
        except OSError as error:
            raise OSError(
                f"{url} cannot be downloaded ({error}): try again, or fetch it by hand to {folder.parent / name}"
            ) from error
        with tarfile.open(archive) as tar:
            tar.extractall(unfinished, filter="data")
        archive.unlink()

    build_once(folder, build, inside=folder.name)


RETRIES = 3
