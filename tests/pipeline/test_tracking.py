"""What stages tell the tracker, read back from TensorBoard's own files."""

import dataclasses

import pytest

from distill.config import from_tree
from distill.errors import UserError
from distill.runs import run_stage
from distill.tracking import flat, log_stage


def make(tmp_path, tracker="tensorboard", text="one"):
    tree = {"run": {"name": "small", "folder": str(tmp_path), "tracker": tracker}}
    tree |= {"teacher": {"members": {"ease": {"name": "ease"}}}, "losses": [{"name": "cross_entropy"}]}
    config = from_tree(tree)
    folder = config.folder / "data"

    def build(path):
        (path / "a.txt").write_text(text)
        return {"quality": {"ndcg@10": 0.25}, "note": "a text"}

    run_stage(folder, {"k": 7, "names": ["x", "y"], "text": text}, [], build)
    return config, folder


def events(config):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    home = config.folder / "logs" / "stages" / "data"
    found = {}
    for path in home.rglob("events.out.tfevents*"):
        log = EventAccumulator(str(path)).Reload()
        found |= {tag: log.Scalars(tag)[0].value for tag in log.Tags()["scalars"]}
        found |= {tag: log.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in log.Tags()["tensors"]}
    return found


def test_a_stage_logs_settings_figures_and_hashes(tmp_path):
    from distill.runs import read_manifest

    config, folder = make(tmp_path)
    log_stage(config, folder)
    found, manifest = events(config), read_manifest(folder)
    assert found["result/quality/ndcg@10"] == pytest.approx(0.25)
    assert found["sha256/a.txt/text_summary"] == manifest["files"]["a.txt"]
    assert found["fingerprint/text_summary"] == manifest["fingerprint"]
    settings = "".join(path.read_text() for path in (config.folder / "logs").rglob("hparams.yml"))
    assert "k: 7" in settings and "names/1: y" in settings


def test_an_unchanged_stage_is_logged_once_and_a_changed_one_again(tmp_path):
    config, folder = make(tmp_path)
    log_stage(config, folder)
    files = sorted(tmp_path.rglob("events.out.tfevents*"))
    log_stage(config, folder)
    assert sorted(tmp_path.rglob("events.out.tfevents*")) == files
    config, folder = make(tmp_path, text="two")
    log_stage(config, folder)
    assert len(sorted(tmp_path.rglob("events.out.tfevents*"))) > len(files)


def test_nothing_is_written_without_a_tracker(tmp_path):
    config, folder = make(tmp_path, tracker="none")
    log_stage(config, folder)
    assert not (config.folder / "logs").exists()


@pytest.mark.parametrize("tracker", ["wandb", "mlflow"])
def test_a_tracker_that_is_missing_is_named(tmp_path, tracker, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    config, folder = make(tmp_path)
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, tracker=tracker))
    with pytest.raises(UserError, match=f"'{tracker}'.*isn't installed"):
        log_stage(config, folder)


def test_nested_settings_become_flat():
    assert flat({"a": {"b": [1, {"c": 2}]}, "d": "x"}) == {"a/b/0": 1, "a/b/1/c": 2, "d": "x"}
