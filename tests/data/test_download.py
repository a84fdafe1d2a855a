"""Downloads: resumed, checked, unpacked safely, whole or not there. The server is on loopback."""

import hashlib
import http.server
import io
import tarfile
import threading

import pytest

from fgvc_lib.data.download import extract, fetch, install, install_with


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
    ranges = True
    cut = None
    requests: list = []  # noqa: RUF012

    def do_GET(self):
        wanted = self.headers.get("Range")
        self.requests.append(wanted)
        if self.path == "/gone":
            self.send_error(404)
            return
        start = int(wanted[6:-1]) if wanted and self.ranges else 0
        if start and start >= len(self.content):
            self.send_error(416)
            return
        body = self.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if self.cut is None else body[: self.cut])

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    handler = type("Handler", (Server,), {"requests": []})
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as http_server:
        thread = threading.Thread(target=http_server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        handler.url = f"http://127.0.0.1:{http_server.server_port}/set.tgz"
        yield handler
        http_server.shutdown()
        thread.join()


def md5(content):
    return hashlib.md5(content).hexdigest()


def test_an_interrupted_download_goes_on(server, tmp_path):
    server.content, server.cut = bytes(range(256)) * 40, 4000
    path = tmp_path / "set.tgz"
    with pytest.raises(OSError, match="try again to go on"):
        fetch(server.url, path, md5=md5(server.content))
    assert not path.exists()
    server.cut = None
    fetch(server.url, path, md5=md5(server.content))
    assert path.read_bytes() == server.content
    assert server.requests == [None, "bytes=4000-"]


def test_a_server_without_ranges_starts_again(server, tmp_path):
    server.content, server.ranges = b"x" * 1000, False
    (tmp_path / "set.tgz.part").write_bytes(b"y" * 300)
    fetch(server.url, tmp_path / "set.tgz", md5=md5(server.content))
    assert (tmp_path / "set.tgz").read_bytes() == server.content


def test_a_part_that_is_already_whole(server, tmp_path):
    server.content = b"x" * 1000
    (tmp_path / "set.tgz.part").write_bytes(server.content)
    fetch(server.url, tmp_path / "set.tgz", md5=md5(server.content))
    assert (tmp_path / "set.tgz").read_bytes() == server.content


def test_a_wrong_sum_is_refused_and_the_file_removed(server, tmp_path):
    server.content = b"not the set"
    with pytest.raises(ValueError, match=r"has MD5 .*, expected 0000"):
        fetch(server.url, tmp_path / "set.tgz", md5="0000")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_says_what_to_do(server, tmp_path):
    with pytest.raises(OSError, match=r"cannot be downloaded .*404.*fetch it by hand to"):
        fetch(server.url.replace("set.tgz", "gone"), tmp_path / "set.tgz", md5="")


def test_installed_once_and_clean(server, tmp_path):
    server.content = archive({"birds": None, "birds/a/1.txt": b"one"})
    for _ in range(2):
        install(server.url, md5(server.content), tmp_path / "birds")
    assert (tmp_path / "birds" / "a" / "1.txt").read_bytes() == b"one"
    assert len(server.requests) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [".birds.lock", "birds"]


def link(name, target, kind):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"../outside.txt": b"x"}, "leads out of the folder"),
        ({"/absolute.txt": b"x"}, "leads out of the folder"),
        ({"birds/../../outside.txt": b"x"}, "leads out of the folder"),
        ({"l": link("birds/l", "/etc", tarfile.SYMTYPE)}, "neither a file nor a folder"),
        ({"d": link("birds/d", "", tarfile.CHRTYPE)}, "neither a file nor a folder"),
    ],
)
def test_unsafe_archives_are_refused_and_nothing_is_installed(server, tmp_path, members, message):
    server.content = archive({"birds/ok.txt": b"fine", **members})
    place = tmp_path / "deep" / "birds"
    with pytest.raises(ValueError, match=message):
        install(server.url, md5(server.content), place)
    assert not place.exists()
    assert not list(tmp_path.rglob("outside.txt"))


def test_a_hard_link_cannot_read_what_is_outside(tmp_path):
    (tmp_path / "secret").write_text("s")
    (tmp_path / "a.tgz").write_bytes(archive({"l": link("l", "../secret", tarfile.LNKTYPE)}))
    with pytest.raises(ValueError, match="neither a file nor a folder"):
        extract(tmp_path / "a.tgz", tmp_path / "out")


def test_a_half_made_folder_is_not_installed(tmp_path):
    def half(folder):
        (folder / "birds").mkdir()
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        install_with(half, tmp_path / "birds")
    assert not (tmp_path / "birds").exists()
    with pytest.raises(ValueError, match="holds no folder birds"):
        install_with(lambda folder: None, tmp_path / "birds")
