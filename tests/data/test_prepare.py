"""The stage: runs again when a setting or a raw file changes, otherwise not; works as a file and prints its counts."""

import subprocess
import sys
from pathlib import Path

import pytest

from distill.config import Data, from_tree
from distill.data.dataset import Dataset
from distill.data.load import build_dataset
from distill.errors import UserError
from distill.prepare import main
from distill.runs import open_stage

ROOT = Path(__file__).parents[2]
LOG = "user,item,time\n" + "".join(f"u{u},{i},{i * 7 % 5}\n" for u in range(4) for i in range(10))


def config(tmp_path, **data):
    (tmp_path / "raw").mkdir(exist_ok=True)
    path = tmp_path / "raw" / "interactions.csv"
    if not path.exists():
        path.write_text(LOG)
    return from_tree(
        {"run": {"folder": str(tmp_path / "runs"), "name": "x"}, "data": {"path": str(tmp_path / "raw"), **data}}
    )


def test_the_folder_holds_the_data_set_and_a_manifest(tmp_path):
    folder = main(config(tmp_path))
    assert folder == tmp_path / "runs" / "x" / "data"
    dataset = Dataset.read(folder)
    assert dataset.fingerprint == build_dataset(Data(path=str(tmp_path / "raw"))).fingerprint
    manifest = open_stage(folder)
    assert manifest["result"]["rows read"] == 40
    assert manifest["settings"]["source"][0][0] == "interactions.csv"
    assert set(manifest["files"]) == {"dataset.json", "interactions.parquet", "items.parquet", "users.parquet"}


def test_it_runs_again_only_when_something_changed(tmp_path, capsys):
    main(config(tmp_path))
    first = capsys.readouterr().out
    assert "rows read" in first and "40" in first and "done in" in first
    main(config(tmp_path))
    assert "up to date" in capsys.readouterr().out
    main(config(tmp_path, duplicates="last"))
    assert "done in" in capsys.readouterr().out
    raw = tmp_path / "raw" / "interactions.csv"
    raw.write_text(LOG + "new,3,1\n")
    folder = main(config(tmp_path, duplicates="last"))
    assert "done in" in capsys.readouterr().out
    assert "new" in Dataset.read(folder).user_ids
    (tmp_path / "raw" / "items.csv").write_text("item,title\n3,Three\n")
    assert "Three" in Dataset.read(main(config(tmp_path, duplicates="last"))).titles


def test_other_processes_of_a_launch_write_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    folder = main(config(tmp_path))
    assert not folder.exists() and capsys.readouterr().out == ""


def test_a_mistake_is_an_error_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match="no file or folder"):
        main(from_tree({"run": {"folder": str(tmp_path / "runs")}, "data": {"path": str(tmp_path / "nowhere")}}))
    assert not (tmp_path / "runs").exists()


def test_it_runs_as_a_file_from_anywhere(tmp_path):
    config(tmp_path)
    (tmp_path / "x.yaml").write_text(f"run: {{folder: {tmp_path / 'runs'}, name: y}}\n")
    command = [sys.executable, str(ROOT / "distill" / "prepare.py"), "x.yaml"]
    done = subprocess.run(
        [*command, "data.path=raw"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert Dataset.read(tmp_path / "runs" / "y" / "data").n_users == 4
    wrong = subprocess.run(
        [*command, "data.path=rwa"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert wrong.returncode == 2
    assert "did you mean 'raw'" in wrong.stdout + wrong.stderr
    assert "Traceback" not in wrong.stdout + wrong.stderr
