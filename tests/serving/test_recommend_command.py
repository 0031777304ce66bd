import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from distill.data.dataset import Dataset
from distill.errors import UserError
from distill.recommend import recommend_command
from distill.serving.runtime import Bundle

ROOT = Path(__file__).resolve().parents[2]
WITHOUT_TORCH = """
import sys
from distill.recommend import recommend_command
code = recommend_command(sys.argv[1:])
heavy = {"torch", "transformers", "accelerate", "onnx"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else code)
"""


def run_without_torch(*arguments):
    command = [sys.executable, "-c", WITHOUT_TORCH, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


def ask(capsys, *arguments):
    assert recommend_command([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    "who", [("--user", "u7"), ("--history", "i3,i20, i5"), ("--titles", "Heat and Dust; film 20 (")]
)
def test_torch_is_never_imported(exported_run, who):
    done = run_without_torch(exported_run, *who, "-k", 4)
    assert done.returncode == 0, done.stderr
    assert "recommended (int8)" in done.stdout and done.stdout.count("Film") >= 3


def test_a_users_list_continues_all_of_his_or_her_history(exported_run, capsys):
    dataset = Dataset.read(exported_run / "data")
    answer = ask(capsys, exported_run, "--user", "u7", "-k", 5, "--variant", "fp32")
    history = dataset.items[70:80]
    assert [h["item_id"] for h in answer["history"]] == [f"i{i}" for i in history]
    ids, scores = Bundle.open(exported_run / "export", "fp32").recommend_one(history, k=5)
    assert [r["item_id"] for r in answer["recommendations"]] == [f"i{i}" for i in ids]
    np.testing.assert_allclose([r["score"] for r in answer["recommendations"]], scores, rtol=1e-6)
    assert [r["rank"] for r in answer["recommendations"]] == [1, 2, 3, 4, 5]
    assert answer["source"] == "student" and answer["recommendations"][0]["title"] == dataset.titles[ids[0]]


def test_ids_titles_and_the_bundles_own_folder_give_the_same(exported_run, capsys):
    by_id = ask(capsys, exported_run, "--history", "i3,i20")
    by_title = ask(capsys, exported_run / "export", "--titles", "heat; film 20 (1970)")
    assert by_id == by_title and len(by_id["recommendations"]) == 10


def test_an_empty_history_gets_popular_items(exported_run, capsys):
    answer = ask(capsys, exported_run, "--history", "", "-k", 2)
    assert answer["source"] == "popularity" and answer["history"] == []
    assert recommend_command([str(exported_run), "--history", ""]) == 0
    assert "most popular" in capsys.readouterr().out


def test_only_listed_items_are_shown(exported_run, capsys):
    answer = ask(capsys, exported_run, "--history", ",".join(f"i{i}" for i in range(297)), "-k", 9)
    assert sorted(r["item_id"] for r in answer["recommendations"]) == ["i297", "i298", "i299"]


@pytest.mark.parametrize(
    ("who", "message"),
    [
        (("--user", "u7x"), r"no user 'u7x'.*did you mean 'u7"),
        (("--history", "i3,i999"), r"no item with the id 'i999'"),
        (("--titles", "Heet"), r"No title fits 'Heet'.*'Heat'"),
        (("--history", "i3", "--variant", "int4"), "no variant 'int4'"),
        (("--history", "i3", "-k", "0"), "k = 0"),
    ],
)
def test_mistakes_are_explained(exported_run, who, message):
    with pytest.raises(UserError, match=message):
        recommend_command([str(exported_run), *who])


def test_a_bundle_alone_knows_no_users(exported_run, tmp_path):
    shutil.copytree(exported_run / "export", tmp_path / "export")
    with pytest.raises(UserError, match="--user needs the run's prepared data"):
        recommend_command([str(tmp_path), "--user", "u7"])


def test_users_of_another_data_set_are_refused(exported_run, tmp_path):
    shutil.copytree(exported_run, tmp_path / "run")
    dataset = Dataset.read(exported_run / "data")
    items = dataset.items.copy()
    items[[0, 1]] = items[[1, 0]]
    Dataset(**{**vars(dataset), "items": items} | {"summary": {}}).write(tmp_path / "run" / "data")
    with pytest.raises(UserError, match="exported from the data set"):
        recommend_command([str(tmp_path / "run"), "--user", "u7"])


def test_a_folder_without_a_bundle_names_the_command(tmp_path):
    with pytest.raises(UserError, match=r"holds no bundle.*distill export-student"):
        recommend_command([str(tmp_path), "--history", "1"])


def test_titles_with_brackets_are_printed_as_they_are(exported_run, tmp_path, capsys):
    from distill.runs import sha256

    folder = shutil.copytree(exported_run / "export", tmp_path / "bundle")
    items = json.loads((folder / "items.json").read_text())
    items["titles"] = [f"[REC] {i} [/bold]" for i in range(len(items["titles"]))]
    (folder / "items.json").write_text(json.dumps(items))
    about = json.loads((folder / "bundle.json").read_text())
    about["files"]["items.json"] = sha256(folder / "items.json")
    (folder / "bundle.json").write_text(json.dumps(about))
    assert recommend_command([str(folder), "--history", "i3"]) == 0
    printed = capsys.readouterr().out
    assert "[REC] 3 [/bold]" in printed and printed.count("[REC]") == 11
