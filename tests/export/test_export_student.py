import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from export_samples import N_ITEMS, dataset_for, hybrid, make_run, torch_scores

from distill.config import Export
from distill.data.dataset import Dataset
from distill.errors import UserError
from distill.export.bundle import check_loads, write_model
from distill.export.calibration import calibration_histories
from distill.export.finetune import finetuned
from distill.export.gate import all_scores
from distill.export.graph import build_graphs
from distill.export.scan_graph import write_exact
from distill.export.variants import parse
from distill.export_student import main
from distill.runs import read_manifest, run_stage, sha256
from distill.serving.runtime import Bundle
from distill.serving.scan_files import FILES
from distill.serving.session import Graph
from students.checkpoint import load_student

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


def test_a_student_of_other_data_with_as_many_items_is_refused(tmp_path):
    config = make_run(tmp_path)
    run_stage(config.folder / "data", {"other": 1}, [], lambda path: dataset_for(hybrid(seed=5), seed=5).write(path))
    with pytest.raises(UserError, match=r"'student' was made from 'data' [0-9a-f]+, but 'data' is now"):
        main(config)


def test_further_graphs_and_the_table_lie_in_the_bundle(tmp_path):
    config = make_run(tmp_path)
    export = dataclasses.replace(config.export, graphs=["top_k", "scores", "query"])
    folder = main(dataclasses.replace(config, export=export))
    about = json.loads((folder / "bundle.json").read_text())
    assert about["variants"]["int8"]["graphs"] == {"query": "query.int8.onnx", "scores": "scores.int8.onnx"}
    assert about["files"]["items.vectors.npy"] == sha256(folder / "items.vectors.npy")
    history = np.array([[3, 17, 8]])
    scores = onnxruntime.InferenceSession(folder / "scores.fp32.onnx").run(["scores"], {"history": history})[0]
    query = onnxruntime.InferenceSession(folder / "query.fp32.onnx").run(["query"], {"history": history})[0]
    vectors, bias = np.load(folder / "items.vectors.npy"), np.load(folder / "items.bias.npy")
    np.testing.assert_allclose(query @ vectors.T + bias, scores, atol=1e-4)
    ids, _ = Bundle.open(folder, "fp32").recommend([[3, 17, 8]], k=5)
    scores[0, history[0]] = -np.inf
    assert ids[0].tolist() == np.argsort(-scores[0], kind="stable")[:5].tolist()


def test_unknown_graphs_are_refused(tmp_path):
    config = make_run(tmp_path)
    wrong = dataclasses.replace(config, export=dataclasses.replace(config.export, graphs=["score"]))
    with pytest.raises(UserError, match=r"'export.graphs' holds 'score', which is no graph \(did you mean 'scores'"):
        main(wrong)


def test_training_with_the_compressed_table_brings_it_closer(tmp_path):
    config = make_run(tmp_path)
    student = load_student(config.folder / "student")
    dataset = Dataset.read(config.folder / "data")
    seen, fresh = calibration_histories(dataset, 2000, 6, seed=0), calibration_histories(dataset, 300, 6, seed=1)
    codec = parse("int8@8", 32).table
    tuned = finetuned(student, codec, seen, 100)
    again = finetuned(student, codec, seen, 100)
    for one, other in zip(tuned.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)  # the same seed, the same weights
    wanted = torch.from_numpy(torch_scores(student, fresh)).log_softmax(-1)
    divergence = []
    for each in (student, tuned):
        model = build_graphs(each, ["int8@8"], 6, seen)["int8@8"]
        found = torch.from_numpy(all_scores(Graph(model.SerializeToString(), N_ITEMS), fresh)).log_softmax(-1)
        divergence.append(float((wanted.exp() * (wanted - found)).sum(-1).mean()))
    assert divergence[1] < 0.93 * divergence[0]


def test_a_variant_that_fails_is_trained_where_that_is_asked_for(tmp_path):
    config = make_run(tmp_path)
    export = dataclasses.replace(config.export, variants=["int8@8"], finetune_steps=5, min_overlap=1.1)
    with pytest.raises(UserError, match="gate failed"):
        main(dataclasses.replace(config, export=export))
    with pytest.raises(UserError, match=r"export.calibration is 0. Set it to 4096"):
        main(dataclasses.replace(config, export=dataclasses.replace(export, calibration=0)))


def test_calibration_histories_come_from_train_alone_and_by_seed():
    dataset = dataset_for(hybrid())
    found = calibration_histories(dataset, 50, 6, seed=3)
    np.testing.assert_array_equal(found, calibration_histories(dataset, 50, 6, seed=3))
    assert found.shape == (50, 6) and calibration_histories(dataset, 0, 6) is None
    trained = {tuple(row[:n]) for row in dataset.items.reshape(-1, 10)[:, :8].tolist() for n in range(1, 9)}
    short = [tuple(item for item in row if item != N_ITEMS) for row in found.tolist()]
    assert all(any(whole[-len(row) :] == row for whole in trained) for row in short)


def test_the_exact_scan_is_a_variant_of_the_bundle(tmp_path):
    config = make_run(tmp_path, variants=("fp32", "exact"))
    folder = main(config)
    gate = json.loads((folder / "gate.json").read_text())
    assert gate["exact"]["passed"] and gate["exact"]["overlap@10"] == 1
    ids, _ = Bundle.open(folder, "exact").recommend([[3, 17, 8], [5]], k=10)
    np.testing.assert_array_equal(ids, Bundle.open(folder, "fp32").recommend([[3, 17, 8], [5]], k=10)[0])
    alone = dataclasses.replace(config, export=dataclasses.replace(config.export, variants=["exact"]))
    with pytest.raises(UserError, match="a bundle needs at least one graph"):
        main(alone)


def test_an_exact_scan_that_brings_the_runtime_down_is_a_reported_failure(tmp_path, monkeypatch):
    def damaged(folder, *arguments):
        names = write_exact(folder, *arguments)
        (folder / FILES["scan"]).write_bytes(b"no graph")
        return names

    monkeypatch.setattr("distill.export_student.write_exact", damaged)
    config = make_run(tmp_path, variants=("fp32", "exact"))
    with pytest.raises(UserError, match=r"The exact scan can't be served: .*Leave this variant out"):
        main(config)
    assert read_manifest(config.folder / "export") is None
