"""The export stage on students that don't rank by a dot product alone: two stages, neighbour lists."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from export_samples import N_ITEMS, dataset_for

from distill.config import Config, Export, Fit, Run
from distill.errors import UserError
from distill.export_student import main
from distill.recommend import recommend_command
from distill.runs import run_stage
from distill.serving.runtime import Bundle
from students.checkpoint import build_student, save_student
from students.protocol import scores, two_stage_scores

LENGTH = 6


def make_run(folder, name, arguments):
    """A run with the finished stages `data` and `student`, the student the best that its data could have."""
    config = Config(
        run=Run(name="sample", folder=str(folder)),
        export=Export(variants=["fp32", "int8"], k=20),
        fit=Fit(max_length=LENGTH),
        source="configs/sample.yaml",
    )
    student = build_student(name, arguments, N_ITEMS, None, 0).eval()
    if name == "neumf":
        with torch.no_grad():
            student.weights.copy_(0.3 * torch.randn(student.weights.shape, generator=torch.Generator().manual_seed(0)))
        dataset = dataset_for(student)
    else:
        dataset = dataset_for(build_student("mf", {"dim": 32}, N_ITEMS, None, 0).eval())
        student.fit_closed_form(dataset)
    run_stage(config.folder / "data", {}, [], dataset.write)
    run_stage(
        config.folder / "student",
        {},
        [config.folder / "data"],
        lambda path: save_student(path, name, arguments, N_ITEMS, student.state_dict(), None),
    )
    return config, student


@pytest.fixture(scope="module")
def neumf(tmp_path_factory):
    config, student = make_run(tmp_path_factory.mktemp("neumf"), "neumf", {"dim": 32, "hidden": 16, "candidates": 30})
    return config, student, main(config)


def test_a_student_of_pairs_passes_the_gate_and_is_served(neumf, capsys):
    config, student, folder = neumf
    gate = json.loads((folder / "gate.json").read_text())
    assert gate["fp32"]["passed"] and gate["fp32"]["unexplained"] == 0 and gate["fp32"]["overlap@10"] == 1.0
    assert 0.5 < gate["fp32"]["two_stage_overlap@10"] < 1.0, "thirty candidates miss some of the best"
    bundle = Bundle.open(folder, "fp32")
    assert bundle.about["student"] == {"class": "NeuMF", "dim": 32}
    rows = [[3, 17, 8], [5]]
    ids, found = bundle.recommend(rows, k=5)
    history = torch.tensor([[3, 17, 8], [N_ITEMS, N_ITEMS, 5]])
    with torch.no_grad():
        best = two_stage_scores(student, history, history).topk(5)
        whole = scores(student, history)
    assert np.array_equal(ids, best.indices) and np.allclose(found, best.values, atol=1e-4)
    every, values = bundle.recommend([[3, 17, 8]], k=N_ITEMS, seen=[[]])
    assert np.allclose(whole[0].numpy()[every[0]], values[0], atol=1e-4), "lists of all items hold the whole score"
    assert recommend_command([str(config.folder), "--titles", "Heat", "-k", "3"]) == 0
    assert "recommended (int8)" in capsys.readouterr().out


def test_neighbour_lists_are_a_bundle_too(tmp_path):
    config, student = make_run(tmp_path, "itemknn", {"neighbours": 40})
    folder = main(config)
    bundle = Bundle.open(folder, "fp32")
    assert bundle.about["student"] == {"class": "ItemKNN", "dim": 0} and "query" not in bundle.about["outputs"]
    ids, found = bundle.recommend([[3, 7, 8]], k=5)
    with torch.no_grad():
        wanted = scores(student, torch.tensor([[3, 7, 8]]))[0]
    assert np.allclose(found[0], wanted[ids[0]], atol=1e-6)
    smaller = (folder / "model.int8.onnx").stat().st_size / (folder / "model.fp32.onnx").stat().st_size
    assert smaller < 0.6


@pytest.mark.parametrize("asked", [{"graphs": ["top_k", "query"]}, {"variants": ["fp32", "exact"]}])
def test_what_needs_a_dot_product_is_refused(neumf, asked):
    config = neumf[0]
    with pytest.raises(UserError, match=r"NeuMF doesn't rank by dot products alone"):
        main(replace(config, export=replace(config.export, **asked)))
