"""Downloads from a real web server on this machine: whole, resumed, changed, damaged, missing; and archives."""

import hashlib
import http.server
import io
import random
import tarfile
import threading
import zipfile

import pytest

from distill.cli import main
from distill.config import Data
from distill.data import download, named
from distill.data.archives import unpack
from distill.data.download import Unreachable, fetch
from distill.data.named import SETS, PublicSet, Remote, folder_of, local
from distill.data.readers import locate, read
from distill.errors import UserError

CONTENT = random.Random(0).randbytes(3_500_000)
HASH = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.files` with ranges and versions; breaks off after `server.limit` bytes where that is set."""

    def do_GET(self):
        server = self.server
        server.requests.append((self.path, self.headers.get("Range")))
        body = server.files.get(self.path)
        if body is None or server.busy:
            server.busy = max(0, server.busy - 1)
            self.send_error(404 if body is None else 503)
            return
        version = f'"{hashlib.md5(body).hexdigest()}"'
        asked, start = self.headers.get("Range"), 0
        if asked and self.headers.get("If-Range") == version:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        self.send_header("ETag", version)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        rest = body[start:]
        if server.limit:
            rest, server.limit = rest[: server.limit], 0
        self.wfile.write(rest)

    def log_message(self, *_):
        """Tests stay silent."""


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.files, running.requests, running.limit, running.busy = {"/set.bin": CONTENT}, [], 0, 0
        running.url = f"http://127.0.0.1:{running.server_address[1]}"
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield running
        running.shutdown()


def get(server, folder, sha256=HASH, name="set.bin"):
    return fetch(f"{server.url}/{name}", folder / name, sha256, pause=0.0)


def test_a_whole_file_is_fetched_once(server, tmp_path):
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.requests == [("/set.bin", None)]
    assert [p.name for p in tmp_path.iterdir()] == ["set.bin"]


def test_a_download_that_breaks_off_goes_on_where_it_was(server, tmp_path):
    server.limit = 2_000_000
    assert get(server, tmp_path).read_bytes() == CONTENT
    (first, start), (second, resumed) = server.requests
    assert (first, start, second) == ("/set.bin", None, "/set.bin")
    assert 0 < int(resumed.removeprefix("bytes=").removesuffix("-")) <= 2_000_000


def test_a_killed_download_goes_on_in_the_next_run(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    server.limit = 2_000_000
    with pytest.raises(Unreachable, match=r"set\.bin could not be reached"):
        get(server, tmp_path)
    assert not (tmp_path / "set.bin").exists()
    held = (tmp_path / "set.bin.part").stat().st_size
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.requests[-1] == ("/set.bin", f"bytes={held}-")


def test_a_file_that_changed_meanwhile_is_fetched_anew(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    server.limit = 2_000_000
    with pytest.raises(Unreachable):
        get(server, tmp_path)
    server.files["/set.bin"] = CONTENT[::-1]
    assert get(server, tmp_path, "").read_bytes() == CONTENT[::-1]


def test_a_part_that_does_not_fit_the_file_is_thrown_away(server, tmp_path):
    (tmp_path / "set.bin.part").write_bytes(CONTENT + b"more")
    (tmp_path / "set.bin.part.version").write_text(f'"{hashlib.md5(CONTENT).hexdigest()}"')
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_a_wrong_hash_is_refused_and_nothing_is_left(server, tmp_path):
    with pytest.raises(UserError, match=f"sha256 {HASH}, expected {'0' * 64}"):
        get(server, tmp_path, "0" * 64)
    assert not [p for p in tmp_path.iterdir() if p.suffix != ".version"]


def test_what_is_not_there_is_not_asked_for_again_but_a_busy_server_is(server, tmp_path):
    with pytest.raises(Unreachable, match="answers 404"):
        get(server, tmp_path, name="nothing.zip")
    assert len(server.requests) == 1
    server.busy = 2
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert len(server.requests) == 4


def test_a_full_disk_keeps_what_came(server, tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download.os, "fsync", full)
    with pytest.raises(UserError, match="The disk is full"):
        get(server, tmp_path)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["set.bin.part", "set.bin.part.version"]


@pytest.mark.parametrize("url", ["ftp://a/b", "file:///etc/hosts", "/etc/hosts"])
def test_only_the_web_is_downloaded_from(tmp_path, url):
    with pytest.raises(UserError, match="no http or https address"):
        fetch(url, tmp_path / "x")


def zipped(files) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return buffer.getvalue()


RATINGS = {"ml/ratings.dat": "u::1::5::1\nu::2::4::2\n", "ml/movies.dat": "1::Heat::Crime\n2::Up::Family\n"}


@pytest.fixture
def toy(server, tmp_path, monkeypatch):
    """A public set of one archive, served here, in a cache of its own."""
    monkeypatch.setenv(download.VARIABLE, str(tmp_path / "cache"))
    server.files["/toy.zip"] = zipped(RATINGS)
    sha256 = hashlib.sha256(server.files["/toy.zip"]).hexdigest()
    remote = Remote(f"{server.url}/toy.zip", sha256)
    monkeypatch.setitem(SETS, "toy", PublicSet("films", "2; 1 kB", "none", "http://toy", "ratings.dat", (remote,)))
    return server


def test_a_named_set_is_downloaded_only_when_asked(toy, tmp_path):
    with pytest.raises(UserError) as caught:
        folder_of("toy", download=False)
    for part in (
        "data.download=true",
        "distill datasets get toy",
        f"{toy.url}/toy.zip",
        str(tmp_path / "cache" / "toy"),
    ):
        assert part in str(caught.value)
    assert toy.requests == [] and local("toy") is None
    folder = folder_of("toy", download=True)
    assert sorted(p.name for p in folder.iterdir()) == ["movies.dat", "ratings.dat"]
    assert folder_of("toy", download=False) == local("toy") == folder
    assert len(toy.requests) == 1


def test_a_named_set_goes_on_from_a_copy_put_there_by_hand(toy, tmp_path):
    place = tmp_path / "cache" / "toy"
    place.mkdir(parents=True)
    (place / "toy.zip").write_bytes(toy.files["/toy.zip"])
    assert (folder_of("toy", download=False) / "ratings.dat").read_text() == RATINGS["ml/ratings.dat"]
    assert toy.requests == []


def test_another_file_put_there_by_hand_is_refused_and_left_alone(toy, tmp_path):
    place = tmp_path / "cache" / "toy"
    place.mkdir(parents=True)
    (place / "toy.zip").write_bytes(b"something else")
    with pytest.raises(UserError, match="expected"):
        folder_of("toy", download=False)
    assert (place / "toy.zip").read_bytes() == b"something else"


def test_without_a_network_the_message_says_what_to_put_where(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    toy.shutdown()
    toy.server_close()
    with pytest.raises(UserError) as caught:
        folder_of("toy", download=True)
    for part in ("could not be reached", "By hand: put toy.zip", str(tmp_path / "cache" / "toy")):
        assert part in str(caught.value)


def test_sets_of_parts_and_sets_that_need_a_person(tmp_path, monkeypatch):
    monkeypatch.setenv(download.VARIABLE, str(tmp_path))
    with pytest.raises(UserError, match=r"expected one of its parts, for instance amazon-reviews-2023/All_Beauty"):
        folder_of("amazon-reviews-2023", False)
    with pytest.raises(UserError, match="expected 'steam' as a whole"):
        folder_of("steam/x", False)
    with pytest.raises(UserError, match="no name of a part"):
        folder_of("goodreads/..", False)
    with pytest.raises(UserError, match=r"did you mean 'movielens-1m'"):
        folder_of("movielens1m", False)
    for name in ("yelp", "mind"):
        with pytest.raises(UserError, match=f"put the unpacked files .* into {tmp_path / name}"):
            folder_of(name, download=True)
    (tmp_path / "mind" / "train").mkdir(parents=True)
    (tmp_path / "mind" / "train" / "behaviors.tsv").write_text("1\tU\t11/11/2019 1:00:00 AM\tN1\tN2-1\n")
    assert folder_of("mind", False) == tmp_path / "mind" / "train"
    place = tmp_path / "amazon-reviews-2023" / "Movies_and_TV"
    place.mkdir(parents=True)
    (place / "meta_Movies_and_TV.jsonl.gz").write_bytes(b"")
    assert local("amazon-reviews-2023/Movies_and_TV") is None
    (place / "Movies_and_TV.jsonl.gz").write_bytes(b"")
    assert local("amazon-reviews-2023/Movies_and_TV") == place


def test_every_set_names_its_terms_and_publisher():
    for name, known in SETS.items():
        assert known.about and known.size and known.terms and known.page.startswith("http"), name
        for remote in known.files:
            assert remote.url.startswith("http") and ("{part}" in remote.url) == bool(known.parts)
            assert len(remote.sha256) in (0, 64)
    assert named.chosen("goodreads/poetry")[1] == "poetry"


def test_the_command_lists_and_fetches(toy, capsys):
    assert main(["datasets"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in SETS)
    assert toy.requests == []
    assert main(["datasets", "get", "toy"]) == 0
    assert str(local("toy")) in capsys.readouterr().out
    assert main(["datasets", "get", "tay"]) == 2
    assert "did you mean 'toy'" in capsys.readouterr().out


def test_a_named_set_is_prepared_and_excludes_a_path(toy):
    data = Data(dataset="toy", download=True)
    assert locate(data).form == "MovieLens 1M"
    assert read(locate(data), data.columns, {}).items["title"].to_list() == ["Heat", "Up"]
    with pytest.raises(UserError, match="Set one of the two"):
        locate(Data(dataset="toy", path="elsewhere"))


def tarred(name, kind=tarfile.REGTYPE, target="") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        member.size = 1 if kind == tarfile.REGTYPE else 0
        archive.addfile(member, io.BytesIO(b"x"))
    return buffer.getvalue()


def linked_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        entry = zipfile.ZipInfo("link")
        entry.external_attr = 0o120777 << 16
        archive.writestr(entry, "/etc/passwd")
    return buffer.getvalue()


UNSAFE = {
    "up.zip": zipped({"../out.txt": "x"}),
    "deep.zip": zipped({"a/../../out.txt": "x"}),
    "windows.zip": zipped({"..\\out.txt": "x"}),
    "absolute.zip": zipped({"/srv/out.txt": "x"}),
    "drive.zip": zipped({"C:/out.txt": "x"}),
    "link.zip": linked_zip(),
    "up.tar.gz": tarred("../out.txt"),
    "absolute.tar.gz": tarred("/srv/out.txt"),
    "link.tar.gz": tarred("link", tarfile.SYMTYPE, "/etc/passwd"),
    "hard.tar.gz": tarred("link", tarfile.LNKTYPE, "/etc/passwd"),
    "pipe.tar.gz": tarred("pipe", tarfile.FIFOTYPE),
}


@pytest.mark.parametrize("name", UNSAFE)
def test_archives_write_nowhere_but_in_their_folder(tmp_path, name):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(UNSAFE[name])
    with pytest.raises(UserError, match="It was not unpacked"):
        unpack(tmp_path / "in" / name, tmp_path / "in" / "files")
    assert sorted(p.name for p in tmp_path.rglob("*")) == sorted(["in", name])


@pytest.mark.parametrize("name", ["torn.zip", "torn.tar.gz"])
def test_damaged_archives_leave_nothing(tmp_path, name):
    whole = zipped({"a.txt": "x" * 1000}) if name.endswith("zip") else tarred("a.txt")
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=f"{name} could not be unpacked"):
        unpack(tmp_path / name, tmp_path / "files")
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_plain_archives_are_unpacked(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(tarred("sub/a.txt"))
    assert (unpack(tmp_path / "a.tar.gz", tmp_path / "files") / "sub" / "a.txt").read_bytes() == b"x"
