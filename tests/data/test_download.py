"""Downloads: tried again, checked, unpacked safely, whole or not there. The server is on loopback."""

import hashlib
import http.server
import io
import tarfile
import threading

import pytest

from fgvc_lib.data import download
from fgvc_lib.data.cache import build_once
from fgvc_lib.data.download import install


def archive(members):
    """A tar archive: name → bytes, None for a folder, or a TarInfo."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members.items():
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            if content is None:
                info.type = tarfile.DIRTYPE
            elif isinstance(content, bytes):
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return buffer.getvalue()


class Server(http.server.BaseHTTPRequestHandler):
    content = b""
    cut: list = []  # noqa: RUF012 - bytes to send at each request before the connection breaks; then all of them
    requests: list = []  # noqa: RUF012

    def do_GET(self):
        self.requests.append(self.path)
        if self.path == "/gone.tgz":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content[: self.cut.pop(0)] if self.cut else self.content)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between two tries
    handler = type("Handler", (Server,), {"requests": [], "cut": []})
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as http_server:
        thread = threading.Thread(target=http_server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        handler.url = f"http://127.0.0.1:{http_server.server_port}/set.tgz"
        yield handler
        http_server.shutdown()
        thread.join()


def md5(content):
    return hashlib.md5(content).hexdigest()


def test_installed_once_and_clean(server, tmp_path):
    server.content = archive({"birds": None, "birds/a/1.txt": b"one"})
    for _ in range(2):
        install(server.url, md5(server.content), tmp_path / "birds")
    assert (tmp_path / "birds" / "a" / "1.txt").read_bytes() == b"one"
    assert len(server.requests) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [".birds.lock", "birds"]


def test_a_connection_that_breaks_is_tried_again(server, tmp_path):
    server.content, server.cut = archive({"birds/1.txt": b"one"}), [10, 20]
    install(server.url, md5(server.content), tmp_path / "birds")
    assert (tmp_path / "birds" / "1.txt").read_bytes() == b"one"
    assert len(server.requests) == 3


def test_an_archive_that_was_fetched_by_hand_is_not_fetched_again(server, tmp_path):
    content = archive({"birds/1.txt": b"one"})
    (tmp_path / "set.tgz").write_bytes(content)
    install(server.url, md5(content), tmp_path / "birds")
    assert (tmp_path / "birds" / "1.txt").is_file()
    assert server.requests == []


def test_a_wrong_sum_is_refused_and_nothing_kept(server, tmp_path):
    server.content = b"not the set"
    with pytest.raises(ValueError, match=r"(?s)set\.tgz.*does not match.*0000"):
        install(server.url, "0000", tmp_path / "birds")
    assert [path.name for path in tmp_path.iterdir()] == [".birds.lock"]


def test_a_missing_file_says_what_to_do(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "RETRIES", 0)
    with pytest.raises(OSError, match=r"cannot be downloaded .*404.*fetch it by hand to .*gone\.tgz"):
        install(server.url.replace("set.tgz", "gone.tgz"), "00", tmp_path / "birds")
    assert [path.name for path in tmp_path.iterdir()] == [".birds.lock"]


def link(name, target, kind):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    "members",
    [
        {"../outside.txt": b"x"},
        {"birds/../../outside.txt": b"x"},
        {"l": link("birds/l", "/etc", tarfile.SYMTYPE)},
        {"l": link("birds/l", "../../secret", tarfile.LNKTYPE)},
        {"d": link("birds/d", "", tarfile.CHRTYPE)},
    ],
)
def test_unsafe_archives_are_refused_and_nothing_is_installed(server, tmp_path, members):
    server.content = archive({"birds/ok.txt": b"fine", **members})
    (tmp_path / "secret").write_text("s")
    place = tmp_path / "deep" / "birds"
    with pytest.raises(tarfile.FilterError):
        install(server.url, md5(server.content), place)
    assert not place.exists()
    assert not list(tmp_path.rglob("outside.txt"))


def test_a_half_made_folder_is_not_installed(tmp_path):
    def half(folder):
        (folder / "birds").mkdir()
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        build_once(tmp_path / "birds", half, inside="birds")
    assert not (tmp_path / "birds").exists()
    with pytest.raises(ValueError, match="holds no folder birds"):
        build_once(tmp_path / "birds", lambda folder: None, inside="birds")
