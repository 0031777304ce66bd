import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from export_samples import N_ITEMS, make_run

from distill.config import Export
from distill.errors import UserError
from distill.export.bundle import check_loads, write_model
from distill.export_student import main
from distill.runs import read_manifest, run_stage, sha256
from distill.serving.runtime import Bundle

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def folder(config):
    return main(config)


def test_a_bundle_has_all_that_serving_needs(config, folder):
    about = json.loads((folder / "bundle.json").read_text())
    assert folder == config.folder / "export"
    assert about["format"] == 1 and about["n_items"] == about["padding"] == N_ITEMS
    assert about["max_length"] == 6 and about["k"] == 20 and about["student"] == {"class": "HybridCF", "dim": 32}
    assert about["files"] == {n: sha256(folder / n) for n in ("items.json", "model.fp32.onnx", "model.int8.onnx")}
    assert about["variants"]["int8"]["bytes"] == (folder / "model.int8.onnx").stat().st_size
    assert about["data"] == json.loads((config.folder / "data" / "dataset.json").read_text())["fingerprint"]
    items = json.loads((folder / "items.json").read_text())
    assert items["ids"][:2] == ["i0", "i1"] and items["titles"][3] == "Heat" and sum(items["popularity"]) == 3200


def test_the_manifest_holds_the_gate(folder):
    result = read_manifest(folder)["result"]
    assert set(result["gate"]) == {"fp32", "int8"} and result["bytes"].keys() == result["gate"].keys()
    for figures in result["gate"].values():
        assert figures["passed"] and figures["overlap@10"] > 0.95 and figures["max_score_error"] < 0.5
    assert json.loads((folder / "gate.json").read_text()) == result["gate"]


def test_the_same_export_again_does_nothing(config, folder, capsys):
    before = (folder / "bundle.json").stat().st_mtime_ns
    main(config)
    assert "up to date" in capsys.readouterr().out
    assert (folder / "bundle.json").stat().st_mtime_ns == before


def test_a_failed_gate_leaves_nothing_that_opens(tmp_path):
    config = make_run(tmp_path)
    strict = dataclasses.replace(config, export=dataclasses.replace(config.export, min_overlap=1.1))
    with pytest.raises(UserError, match=r"gate failed.*int8: overlap@10 is 0\.9\d+, at least 1\.1") as failure:
        main(strict)
    assert "fp32:" not in str(failure.value)
    shown = Path(re.search(r"figures are in (\S+gate\.json)", str(failure.value)).group(1))
    assert json.loads(shown.read_text())["int8"]["passed"] is False
    assert read_manifest(config.folder / "export") is None
    for folder in (config.folder / "export", shown.parent):
        with pytest.raises(UserError, match="holds no bundle"):
            Bundle.open(folder)


def test_a_failed_gate_leaves_an_earlier_bundle_as_it_was(config, folder):
    before = (folder / "bundle.json").read_bytes()
    strict = dataclasses.replace(config, export=dataclasses.replace(config.export, min_overlap=1.1))
    with pytest.raises(UserError, match="gate failed"):
        main(strict)
    assert (folder / "bundle.json").read_bytes() == before
    assert Bundle.open(folder).n_items == N_ITEMS


def test_a_student_of_another_catalogue_is_refused(tmp_path):
    config = make_run(tmp_path)
    about = json.loads((config.folder / "student" / "student.json").read_text())
    (config.folder / "student" / "manifest.json").unlink()

    def smaller(path):
        from students.checkpoint import build_student, save_student

        student = build_student(about["name"], {"dim": 8}, 50, None, 0)
        save_student(path, about["name"], {"dim": 8}, 50, student.state_dict(), None)

    run_stage(config.folder / "student", {"n": 50}, [config.folder / "data"], smaller)
    with pytest.raises(UserError, match=r"ranks 50 items, but the data set has 300\..*distill train-student"):
        main(config)


def test_a_missing_student_names_the_command(tmp_path):
    config = make_run(tmp_path)
    (config.folder / "student" / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"Make it with: distill train-student configs/sample\.yaml"):
        main(config)


@pytest.mark.parametrize("keep", [0.5, 0.999])
def test_a_damaged_file_is_a_reported_failure(folder, tmp_path, keep):
    content = (folder / "model.fp32.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(UserError, match=r"cut\.onnx can't be served: .*(damaged|too early|can't load)"):
        check_loads(tmp_path / "cut.onnx", N_ITEMS)


def test_noise_is_a_reported_failure(tmp_path):
    (tmp_path / "noise.onnx").write_bytes(bytes(range(256)) * 40)
    with pytest.raises(UserError, match=r"noise\.onnx can't be served"):
        check_loads(tmp_path / "noise.onnx", N_ITEMS)


def test_a_graph_for_another_catalogue_is_a_reported_failure(folder):
    with pytest.raises(UserError, match=r"model\.fp32\.onnx can't be served"):
        check_loads(folder / "model.fp32.onnx", N_ITEMS + 7)


def test_a_crash_of_the_runtime_is_a_reported_failure(folder, tmp_path, monkeypatch):
    crashing = tmp_path / "python"
    crashing.write_text("#!/bin/sh\nkill -SEGV $$\n")
    crashing.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(crashing))
    with pytest.raises(UserError, match=r"onnxruntime crashed on it \(SIGSEGV\)"):
        check_loads(folder / "model.fp32.onnx", N_ITEMS)


def test_models_are_written_whole_or_not_at_all(tmp_path):
    class Unwritable:
        def SerializeToString(self):
            raise MemoryError

    with pytest.raises(MemoryError):
        write_model(Unwritable(), tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_only_wanted_variants_are_written(tmp_path):
    config = make_run(tmp_path, variants=("int8",))
    folder = main(config)
    assert sorted(p.name for p in folder.glob("*.onnx")) == ["model.int8.onnx"]
    assert Bundle.open(folder).variant == "int8"


def test_the_stage_runs_as_a_file_from_anywhere(tmp_path):
    command = [sys.executable, str(ROOT / "distill" / "export_student.py"), "no.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "There is no config file 'no.yaml'" in done.stdout, done.stderr


def test_the_snippet_in_the_documentation_runs(folder):
    text = (ROOT / "docs" / "export.md").read_text()
    snippets = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    assert len(snippets) == 2
    for snippet in snippets:
        code = snippet.replace("runs/quickstart/export", str(folder))
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr
        assert "Film" in done.stdout


def test_the_defaults_are_both_variants():
    assert Export().variants == ["fp32", "int8"]
