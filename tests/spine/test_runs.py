"""Stage folders: up to date, rebuilt, resumed, refused; the manifest; atomic writes."""

import hashlib
import json
import os

import pytest

from distill import runs
from distill.errors import UserError
from distill.runs import PARTIAL, STARTED, WORK, digest, open_stage, read_manifest, run_stage, sha256, write_json


class Builds:
    """A build that writes what it is told to and counts how often it runs."""

    def __init__(self, **files):
        self.files, self.times, self.found = files, 0, []

    def __call__(self, folder):
        self.times += 1
        self.found.append(sorted(p.name for p in folder.iterdir() if p.name != STARTED))
        for name, text in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        return {"built": self.times}


def stage(root, name, build, inputs=(), **settings):
    return run_stage(
        root / name, settings, [root / i for i in inputs], build, "x.yaml", command=f"distill {name} x.yaml"
    )


def test_an_unchanged_stage_does_nothing(tmp_path, capsys):
    build = Builds(a="1")
    assert stage(tmp_path, "data", build, k=[1, 2]) == tmp_path / "data"
    before = read_manifest(tmp_path / "data")
    stage(tmp_path, "data", build, k=(1, 2))  # a tuple is a list once it is JSON
    assert build.times == 1
    assert read_manifest(tmp_path / "data") == before
    assert "up to date" in capsys.readouterr().out


def test_changed_settings_rebuild_from_an_empty_folder(tmp_path):
    stage(tmp_path, "data", Builds(a="1", old="x"), k=1)
    build = Builds(a="2")
    stage(tmp_path, "data", build, k=2)
    assert build.found == [[]]
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == ["a", "manifest.json"]
    assert (tmp_path / "data" / "a").read_text() == "2"


def test_a_changed_input_rebuilds(tmp_path):
    stage(tmp_path, "data", Builds(a="1"))
    build = Builds(b="1")
    stage(tmp_path, "teacher", build, ["data"])
    stage(tmp_path, "data", Builds(a="2"), k=1)
    stage(tmp_path, "teacher", build, ["data"])
    assert build.times == 2


def test_an_altered_result_is_built_anew(tmp_path):
    build = Builds(a="1")
    stage(tmp_path, "data", build)
    (tmp_path / "data" / "a").write_text("0")
    stage(tmp_path, "data", build)
    assert build.times == 2 and (tmp_path / "data" / "a").read_text() == "1"
    (tmp_path / "data" / "a").unlink()
    stage(tmp_path, "data", build)
    assert build.times == 3


def test_a_failing_build_keeps_the_former_result(tmp_path):
    stage(tmp_path, "data", Builds(a="1"), k=1)

    def fails(folder):
        (folder / "a").write_text("half")
        raise UserError("wrong setting")

    with pytest.raises(UserError, match="wrong setting"):
        stage(tmp_path, "data", fails, k=2)
    assert (tmp_path / "data" / "a").read_text() == "1"
    build = Builds(a="1")
    stage(tmp_path, "data", build, k=1)
    assert build.times == 0, "the former settings are still up to date"


def test_an_interrupted_build_finds_what_it_had_done(tmp_path):
    def interrupted(folder):
        (folder / WORK).mkdir()
        (folder / "first").write_text("done")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage(tmp_path, "data", interrupted, k=1)
    assert read_manifest(tmp_path / "data") is None
    build = Builds(second="done")
    stage(tmp_path, "data", build, k=1)
    assert build.found == [[WORK, "first"]]
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == ["first", "manifest.json", "second"]
    assert not (tmp_path / f"data{PARTIAL}").exists()


def test_what_was_begun_with_other_settings_is_thrown_away(tmp_path):
    def interrupted(folder):
        (folder / "first").write_text("done")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage(tmp_path, "data", interrupted, k=1)
    build = Builds(a="1")
    stage(tmp_path, "data", build, k=2)
    assert build.found == [[]]


def test_a_missing_input_names_the_command(tmp_path):
    build = Builds()
    with pytest.raises(
        UserError, match=r"teacher is not there or not finished. Make it with: distill train-teacher x.yaml"
    ):
        stage(tmp_path, "scores", build, ["teacher"])
    assert build.times == 0


def test_an_altered_input_is_refused_with_both_hashes(tmp_path):
    stage(tmp_path, "data", Builds(a="1"))
    (tmp_path / "data" / "a").write_text("0")
    found, expected = hashlib.sha256(b"0").hexdigest(), hashlib.sha256(b"1").hexdigest()
    with pytest.raises(UserError, match=f"sha256 {found}, expected {expected}. Rebuild with: distill prepare x.yaml"):
        stage(tmp_path, "teacher", Builds(), ["data"])
    (tmp_path / "data" / "a").unlink()
    with pytest.raises(UserError, match="no such file"):
        open_stage(tmp_path / "data")


def test_inputs_that_do_not_belong_together_are_refused(tmp_path):
    stage(tmp_path, "data", Builds(a="1"))
    stage(tmp_path, "teacher", Builds(b="1"), ["data"])
    stage(tmp_path, "scores", Builds(c="1"), ["data", "teacher"])
    stage(tmp_path, "data", Builds(a="2"), k=2)
    stage(tmp_path, "teacher", Builds(b="1"), ["data"])
    old, new = (read_manifest(tmp_path / n) for n in ("scores", "data"))
    text = (
        f"'scores' was made from 'data' {old['inputs']['data'][:12]}, but 'data' is now {new['fingerprint'][:12]}. "
        "Rebuild it with: distill score-teacher x.yaml"
    )
    with pytest.raises(UserError, match=text):
        stage(tmp_path, "student", Builds(), ["data", "teacher", "scores"])


def test_the_manifest_tells_what_was_made_from_what(tmp_path):
    stage(tmp_path, "data", Builds(a="1"))
    stage(tmp_path, "teacher", Builds(**{"b": "22", "deep/er/c": "3"}), ["data"], l2=0.5)
    manifest = read_manifest(tmp_path / "teacher")
    assert manifest["settings"] == {"l2": 0.5}
    assert manifest["inputs"] == {"data": read_manifest(tmp_path / "data")["fingerprint"]}
    assert manifest["files"] == {
        "b": hashlib.sha256(b"22").hexdigest(),
        "deep/er/c": hashlib.sha256(b"3").hexdigest(),
    }
    assert manifest["result"] == {"built": 1}
    assert manifest["command"] == "distill teacher x.yaml"
    assert manifest["seconds"] >= 0
    assert {"python", "platform", "processors", "torch", "numpy"} <= set(manifest["environment"])


def test_the_fingerprint_follows_stage_settings_inputs_and_files(tmp_path):
    def fingerprint(root, name="data", text="1", **settings):
        stage(tmp_path / root, name, Builds(a=text), **settings)
        return read_manifest(tmp_path / root / name)["fingerprint"]

    first = fingerprint("first", k=1)
    assert fingerprint("again", k=1) == first
    others = {fingerprint("k", k=2), fingerprint("t", text="2", k=1), fingerprint("n", name="other", k=1)}
    assert len(others | {first}) == 4


def test_half_files_of_a_killed_writer_are_not_sealed_in(tmp_path):
    stage(tmp_path, "scores", Builds(**{"shard-0": "1", "shard-1.77.tmp": "ha"}))
    assert set(read_manifest(tmp_path / "scores")["files"]) == {"shard-0"}
    assert not list((tmp_path / "scores").glob("*.tmp"))


def test_only_the_main_process_seals(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    (tmp_path / f"data{PARTIAL}").mkdir()
    waited = []
    run_stage(tmp_path / "data", {}, [], Builds(), barrier=lambda: waited.append(1))
    assert read_manifest(tmp_path / "data") is None
    assert len(waited) == 4


def test_json_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, {"b": 1, "a": "ü"})
    assert path.read_text() == '{\n  "a": "ü",\n  "b": 1\n}'
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": "ü", "b": 1}
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": "ü", "b": 1}


def test_digest_and_sha256(tmp_path):
    assert digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1}) != digest({"a": 1, "b": 2})
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_every_stage_of_the_command_line_has_a_command_in_messages():
    from distill.cli import STAGES

    assert set(runs.COMMANDS.values()) == set(STAGES)
