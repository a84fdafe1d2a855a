"""A repository of its own for tests that write records."""

import pytest


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """An empty repository as working folder: ``data/claims.yaml`` makes it one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "claims.yaml").write_text("claims: []\n")
    for name in ("FGVC_BUILD", "FGVC_RECORDS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FGVC_COMMIT", "f" * 40)
    return tmp_path
