"""Rerankers in the stage that trains the teacher, and in the program that measures them."""

import json

import numpy as np
import pytest
import torch

from benchmarks.rerankers import main as measure
from distill.ask import contexts_of
from distill.config import from_tree, parse
from distill.data.dataset import TEST, Dataset
from distill.errors import UserError
from distill.prepare import main as prepare
from distill.ranking.cases import cases_of
from distill.train_teacher import load_teacher
from distill.train_teacher import main as train_teacher

CONFIG = """\
run: {name: small, tracker: none}
data: {path: demo, min_user_events: 30, min_item_events: 80, weight: rating}
teacher:
  members:
    ease: {name: ease, l2: 50, decay: 10}
    cross:
      name: cross_encoder
      retriever: ease
      candidates: 5
      tasks: {next_item: 1.0, rating: 0.5}
      weight: 0.5
      hidden_size: 32
      layers: 1
      vocabulary: 300
      title_tokens: 4
      text_tokens: 6
      max_tokens: 40
      rows_per_epoch: 64
      validation_users: 30
    gpt:
      name: gpt_rerank
      retriever: cross
      candidates: 3
      form: mean
      weight: 0.5
      hidden_size: 32
      layers: 1
      vocabulary: 300
      title_tokens: 6
      max_tokens: 60
      max_items: 3
      validation_users: 20
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    tree = parse(CONFIG)
    tree["run"]["folder"] = str(tmp_path_factory.mktemp("runs"))
    config = from_tree(tree)
    prepare(config)
    train_teacher(config)
    return config


def test_a_reranker_reorders_what_a_reranker_reordered(run):
    folder = run.folder / "teacher"
    assert not list(folder.glob("*/retriever")), "both retrievers stand beside, no copy is needed"
    dataset = Dataset.read(run.folder / "data")
    cases = cases_of(dataset, TEST).take(np.arange(8))
    batch = contexts_of(cases).batch(np.arange(8), 1_000_000)
    teacher = load_teacher(run)
    with torch.no_grad():
        scores = teacher.score(batch)
    assert scores.shape == (8, dataset.n_items) and torch.isfinite(scores).all()


def test_member_json_reports_ratings_and_both_stages(run):
    figures = json.loads((run.folder / "teacher" / "cross" / "member.json").read_text())["figures"]
    assert 0 < figures["mae of the biases"] < figures["mae of the mean"] < 2
    assert 0 < figures["mae"] < 2 and figures["rmse"] >= figures["mae"]
    assert {"ndcg@10 retriever", "ndcg@10 both", "ndcg@10 second_stage_alone"} <= set(figures)
    figures = json.loads((run.folder / "teacher" / "gpt" / "member.json").read_text())["figures"]
    assert figures["form"] == "mean" and figures["weight"] == 0.5


def test_the_program_measures_each_reranker_beside_its_retriever(run, capsys):
    measure([str(run.folder), "--users", "20", "--ratings", "50"])
    rows = json.loads(capsys.readouterr().out.strip().splitlines()[-1])["rows"]
    assert [row["model"] for row in rows] == ["ease", "cross", "cross: ratings", "cross", "gpt"]
    assert rows[2]["ratings"] == 50 and rows[2]["mae"] > 0
    assert rows[1]["low"] <= rows[1]["gain"] <= rows[1]["high"]
    assert rows[1]["gain"] == pytest.approx(rows[1]["ndcg@10"] - rows[0]["ndcg@10"], abs=2e-4)


def test_a_retriever_that_comes_later_is_unknown(run):
    tree = parse(CONFIG)
    tree["run"] = {"name": "small", "folder": str(run.folder.parent), "tracker": "none"}
    members = tree["teacher"]["members"]
    tree["teacher"]["members"] = {"cross": members["cross"], "ease": members["ease"]}
    with pytest.raises(UserError, match=r"'retriever: ease' names no earlier member.*must come before"):
        train_teacher(from_tree(tree))
