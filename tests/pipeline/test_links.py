"""Links of a site, on loopback."""

import functools
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipeline import links


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.path.startswith("/elsewhere/busy"):
            self.send_error(429)
        else:
            super().do_GET()


@pytest.fixture
def site(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=tmp_path))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    (tmp_path / "book").mkdir()
    yield tmp_path, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_pages_pictures_and_anchors_are_followed(site):
    folder, home = site
    (folder / "picture.svg").write_text("<svg/>")
    (folder / "book" / "index.html").write_text(
        f'<a href="b.html#there">b</a><img src="../picture.svg"><a href="mailto:a@example.org">m</a>'
        f'<a href="{home}/elsewhere/busy">busy</a><a href="#">top</a>'
    )
    (folder / "book" / "b.html").write_text('<h1 id="there">B</h1><a href="index.html">back</a>')
    assert links.check(f"{home}/book/") == []

    (folder / "book" / "b.html").write_text('<h1 id="moved">B</h1><a href="gone.html">gone</a><img src="no.png">')
    found = links.check(f"{home}/book/")
    assert [line.partition(home)[2].split(" ")[0] for line in found] == [
        "/book/b.html#there",
        "/book/gone.html",
        "/book/no.png",
    ]
    assert "no such anchor" in found[0]
    assert "status 404" in found[1]


def test_a_site_that_is_not_there(site):
    _, home = site
    assert links.check(f"{home}/nothing/") == [f"{home}/nothing/: status 404"]


def test_the_address_is_needed(monkeypatch):
    monkeypatch.setattr("sys.argv", ["links", ""])
    with pytest.raises(SystemExit, match="SITE="):
        links.main()
