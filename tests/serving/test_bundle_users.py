"""A bundle whose student reads more of a user than the history: attributes, known users, and nobody's history."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from export_samples import at_random, make_run, write_stages

from distill.ask import row_scorer
from distill.benchmark import exported, student_scorer
from distill.config import Head, UserSide
from distill.data.dataset import TEST, TRAIN, VALID, Dataset
from distill.data.features import Attributes, Features
from distill.data.ragged import Lists
from distill.errors import UserError
from distill.export_student import main
from distill.extensions import extended
from distill.head_quality import head_quality
from distill.ranking.cases import cases_of
from distill.ranking.evaluator import rank
from distill.recipes import CONTROL, STUDENT
from distill.recommend import recommend_command
from distill.serving.runtime import Bundle
from students.checkpoint import load_student
from students.protocol import scores


def described(dataset):
    """Users of two genders who choose from two halves of the catalogue, with an age that says nothing."""
    n_users, n_items = dataset.n_users, dataset.n_items
    rng, gender = np.random.default_rng(1), np.arange(dataset.n_users) % 2
    half = n_items // 2
    items = np.stack([rng.permutation(half)[:10] + half * g for g in gender]).reshape(-1)
    lists = Lists(np.arange(n_users + 1, dtype=np.int64), gender.astype(np.int32))
    age = rng.integers(18, 70, n_users).astype(np.float32)
    age[0] = np.nan
    users = Attributes({"age": age}, {"gender": lists}, {"gender": ["F", "M"]})
    weights = rng.integers(1, 6, len(items)).astype(np.float32)
    return dataclasses.replace(dataset, items=items.astype(np.int32), features=Features(users=users), weights=weights)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose student has attributes and factors, with its exported files."""
    config = make_run(tmp_path_factory.mktemp("users"), ("fp32", "int8", "exact"))
    side, heads = UserSide(attributes=True, factor=True), {"rating": Head(0.1), "like": Head(0.1, least=4.0)}
    config = dataclasses.replace(config, user_side=side, heads=heads)
    dataset = described(Dataset.read(config.folder / "data"))
    core = load_student(config.folder / "student")
    student = extended(core, config, dataset)
    at_random(student.user_side, 0.1)
    write_stages(config, dataset, student, (STUDENT, CONTROL))
    main(config)
    return config


@pytest.fixture(scope="module")
def bundle(run):
    return Bundle.open(run.folder / "export", "fp32")


@pytest.fixture(scope="module")
def student(run):
    return load_student(run.folder / "student").eval()


def test_known_users_lists_are_torchs(run, bundle, student):
    dataset = Dataset.read(run.folder / "data")
    users = np.array([0, 3, 8, 399])
    histories = [dataset.items[10 * user : 10 * user + 6].astype(np.int64) for user in users]
    vectors = np.stack([bundle.users.vector(user=f"u{user}") for user in users])
    ids, found = bundle.recommend(histories, 5, [[]] * 4, vectors)
    with torch.no_grad():
        wanted = scores(student, torch.from_numpy(np.stack(histories)), torch.from_numpy(users)).numpy()
    np.testing.assert_allclose(found, np.take_along_axis(wanted, ids, axis=1), atol=1e-4)
    np.testing.assert_allclose(found[:, 0], wanted.max(1), atol=1e-4)
    plain, _ = bundle.recommend(histories, 5, [[]] * 4)
    assert not np.array_equal(plain, ids)
    one, _ = bundle.recommend_one(histories[1], 5, [], vectors[1])
    np.testing.assert_array_equal(one, ids[1])
    nobody, _ = bundle.recommend(histories, 5, [[]] * 4, np.zeros_like(vectors))
    np.testing.assert_array_equal(nobody, plain)


def test_attributes_are_encoded_as_in_training(run, bundle):
    dataset = Dataset.read(run.folder / "data")
    matrix, ages = dataset.features.users.matrix(), dataset.features.users.numbers["age"]
    for user in (0, 1, 2):
        about = {"gender": "FM"[user % 2], "age": "" if np.isnan(ages[user]) else float(ages[user])}
        np.testing.assert_allclose(bundle.users.row(about), matrix[user], atol=1e-5)
    assert not bundle.users.vector({}).any()
    np.testing.assert_allclose(bundle.users.row({"gender": ["F", "M"]})[1:], [0.5, 0.5])


def test_without_a_history_attributes_tilt_popularity(run, bundle):
    dataset = Dataset.read(run.folder / "data")
    half = dataset.n_items // 2
    assert bundle.answers_empty
    wanted = [bundle.users.vector({"gender": g}) for g in "FM"]
    ids, _ = bundle.recommend([[], [], []], 10, users=np.stack([*wanted, np.zeros_like(wanted[0])]))
    assert (ids[0] < half).mean() >= 0.7 and (ids[1] >= half).mean() >= 0.7
    np.testing.assert_array_equal(ids[2], bundle.items.by_popularity[:10])
    masked, _ = bundle.recommend([[]], 10, [ids[0][:3]], wanted[0][None])
    np.testing.assert_array_equal(masked[0][:7], ids[0][3:])


def test_the_weight_of_attributes_is_chosen_on_validation(run):
    about = json.loads((run.folder / "export" / "bundle.json").read_text())["user"]
    curve = {float(weight): value for weight, value in about["empty_validation"]["ndcg@10"].items()}
    assert about["empty_weight"] == max(curve, key=curve.get) and curve[0.0] < curve[about["empty_weight"]]
    assert about["overlap@10"]["fp32"] == about["overlap@10"]["exact"] == 1.0 and about["overlap@10"]["int8"] > 0.9
    parts = Dataset.read(run.folder / "data").parts
    assert VALID in parts and TEST in parts


def test_the_benchmark_asks_files_and_torch_about_the_same_users(run, student):
    dataset = Dataset.read(run.folder / "data")
    cases = cases_of(dataset, TEST)
    score = student_scorer(student, run.fit.max_length)
    wanted = rank(row_scorer(score, cases), cases, 10)
    fp32 = dataclasses.replace(run, export=dataclasses.replace(run.export, variants=["fp32"]))
    found = exported(fp32, dataset, cases)[0].ranked
    assert (found == wanted).mean() > 0.999
    unknown = rank(row_scorer(lambda b: scores(student, torch.from_numpy(b.seen)), cases), cases, 10)
    assert (found == unknown).mean() < 0.9


def test_the_benchmark_reports_the_heads_beside_the_bias_model(run):
    dataset = Dataset.read(run.folder / "data")
    found = head_quality(run, dataset)
    assert found["rating"]["events"] == found["like"]["events"] == dataset.n_users
    assert list(found["rating"]) == ["events", STUDENT, "biases", "mean", CONTROL]
    train, test = (dataset.weights[dataset.parts == part] for part in (TRAIN, TEST))
    assert found["rating"]["mean"]["mae"] == pytest.approx(np.abs(test - train.mean()).mean(), rel=1e-5)
    assert found["rating"][STUDENT] == found["rating"]["biases"]  # heads that weren't trained
    assert found["like"]["mean"]["auc"] == 0.5 and 0.6 < found["like"]["mean"]["log_loss"] < 0.75
    assert head_quality(dataclasses.replace(run, heads={}), dataset) == {}


def test_recommend_knows_users_and_takes_attributes(run, bundle, capsys):
    def ask(*arguments):
        assert recommend_command([str(run.folder), *arguments, "--json", "--variant", "fp32"]) == 0
        return json.loads(capsys.readouterr().out)

    answer = ask("--user", "u8", "-k", "4")
    history = [bundle.items.index_of_id(place["item_id"]) for place in answer["history"]]
    ids, _ = bundle.recommend_one(history, 4, user=bundle.users.vector(user="u8"))
    assert [place["item_id"] for place in answer["recommendations"]] == [f"i{i}" for i in ids]
    assert ask("--history", "", "--about", "gender=F; age=30")["source"] == "popularity and attributes"
    assert ask("--history", "", "--about", "")["source"] == "popularity"
    assert recommend_command([str(run.folder), "--history", "", "--about", "gender=M"]) == 0
    assert "tilted by what is known" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ("gendre=F", "no attribute 'gendre'.*did you mean 'gender'"),
        ("gender=X", "no value 'X'"),
        ("age=old", "expected a number"),
        ("gender", "expected name=value"),
    ],
)
def test_mistakes_in_attributes_are_explained(run, about, message):
    with pytest.raises(UserError, match=message):
        recommend_command([str(run.folder), "--history", "i3", "--about", about])


def test_wrong_vectors_and_unknown_users_are_refused(bundle):
    with pytest.raises(UserError, match=r"expected \(1, 64\)"):
        bundle.recommend([[3]], users=np.zeros((1, 3)))
    with pytest.raises(UserError, match="knows no user 'u9x'"):
        bundle.users.vector(user="u9x")


def test_bundles_of_other_students_know_nobody(exported_run):
    bundle = Bundle.open(exported_run / "export")
    assert bundle.users is None and "user" not in bundle.about and "user" not in bundle.about["inputs"]
    with pytest.raises(UserError, match="reads histories alone"):
        bundle.recommend([[3]], users=np.zeros((1, 64)))
    with pytest.raises(UserError, match="--about needs a student"):
        recommend_command([str(exported_run), "--history", "i3", "--about", "age=3"])
