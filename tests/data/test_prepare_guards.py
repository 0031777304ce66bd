"""What `prepare` promises: rows of published results, nothing of who users are, nothing half-written, a report."""

import dataclasses
import errno
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from distill.config import Data, Privacy, from_tree, load
from distill.data.dataset import Dataset
from distill.data.load import build_dataset
from distill.data.privacy import key_mark, pseudonyms, read_key
from distill.errors import UserError
from distill.prepare import main
from distill.runs import open_stage

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
DIGESTS = {  # of the rows that the published results rest on
    "quickstart": "f916eadcfe2aed0c32bb0e9d3dbe002a576ac3d3920feae6129e23a25ef22d14",
    "amazon_office_minilm": "93139119b58e3673887789b5aff2c817fd7ba6d13c09952db39231ad35e4c400",
    "ml100k_minilm": "9084a3ea48df96a03792d03da2831ff9ba291b952195e093c6b5c3afaaaf923a",
}
PATHS = {"amazon_office_minilm": "amazon-office", "ml100k_minilm": "ml-100k"}
KEY = "0123456789abcdef-a-test-key"
USERS = [f"customer-{n}@shop.example" for n in range(12)]


@pytest.mark.parametrize("name", DIGESTS)
def test_rows_and_item_order_of_published_results(name):
    overrides = []
    if name in PATHS:
        path = SHARED / PATHS[name]
        if not path.is_dir():
            pytest.skip(f"{path} is not there")
        overrides = [f"data.path={path}"]
    assert build_dataset(load(ROOT / "configs" / f"{name}.yaml", overrides).data).rows_digest == DIGESTS[name]


def shop(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    rows = [
        f"{user},item {item},{1_600_000_000 + int(time)}"
        for user in USERS
        for item, time in zip(rng.permutation(9)[:6], rng.integers(0, 10**7, 6), strict=True)
    ]
    (folder / "interactions.csv").write_text("user,item,time\n" + "\n".join(rows) + "\n")
    (folder / "items.csv").write_text("item,title\n" + "".join(f"item {i},Title {i}\n" for i in range(9)))
    return folder


def config(tmp_path, name="x", **data):
    tree = {"run": {"folder": str(tmp_path / "runs"), "name": name}, "data": {"path": str(shop(tmp_path)), **data}}
    return from_tree(tree)


def whole_folder(folder):
    """Every byte under a folder, names included, and the cells of every Parquet file as text."""
    parts = []
    for path in sorted(folder.rglob("*")):
        parts.append(str(path).encode())
        if path.suffix == ".parquet":
            parts.append(pl.read_parquet(path).write_json().encode())
        if path.is_file():
            parts.append(path.read_bytes())
    return b"\n".join(parts)


def test_no_raw_id_and_no_key_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TAILDISTILL_ID_KEY", KEY)
    split = {"name": "user_holdout", "history": 2, "ratios": [0.5, 0.25, 0.25]}
    folder = main(config(tmp_path, privacy={"hash_ids": True}, split=split, bots={"quantile": 0.5}))
    written = whole_folder(tmp_path / "runs") + capsys.readouterr().out.encode()
    for user in USERS:
        assert user.encode() not in written
    assert KEY.encode() not in written and b"shop.example" not in written
    dataset = Dataset.read(folder)
    assert dataset.user_ids.tolist() == pseudonyms(USERS, KEY.encode())
    assert (dataset.times % 86400 == 0).all()
    plain = main(config(tmp_path, name="plain"))
    assert USERS[0].encode() in whole_folder(plain)  # so that the search above can find something


def test_pseudonyms_keep_the_rows(tmp_path, monkeypatch):
    monkeypatch.setenv("TAILDISTILL_ID_KEY", KEY)
    plain, hashed = (build_dataset(config(tmp_path, **data).data) for data in ({}, {"privacy": {"hash_ids": True}}))
    for name in ("indptr", "items", "parts", "item_ids"):
        assert getattr(plain, name).tolist() == getattr(hashed, name).tolist()
    assert hashed.user_ids.tolist() == pseudonyms(plain.user_ids, KEY.encode())
    assert len(set(hashed.user_ids.tolist())) == len(USERS)


def test_another_key_prepares_again(tmp_path, monkeypatch):
    settings = config(tmp_path, privacy={"hash_ids": True})
    monkeypatch.setenv("TAILDISTILL_ID_KEY", KEY)
    first = Dataset.read(main(settings)).user_ids
    monkeypatch.setenv("TAILDISTILL_ID_KEY", KEY + "!")
    assert not set(Dataset.read(main(settings)).user_ids.tolist()) & set(first.tolist())
    assert key_mark(KEY.encode()) != key_mark(KEY.encode() + b"!")


def test_keys_come_from_a_file_or_a_variable(tmp_path, monkeypatch):
    monkeypatch.delenv("TAILDISTILL_ID_KEY", raising=False)
    with pytest.raises(UserError, match="the variable TAILDISTILL_ID_KEY is not set"):
        read_key(Privacy(hash_ids=True))
    with pytest.raises(UserError, match="There is no key file"):
        read_key(Privacy(key_file=str(tmp_path / "key")))
    (tmp_path / "key").write_text("short\n")
    with pytest.raises(UserError, match="has 5 bytes, expected at least 16"):
        read_key(Privacy(key_file=str(tmp_path / "key")))
    (tmp_path / "key").write_text(KEY + "\n")
    assert read_key(Privacy(key_file=str(tmp_path / "key"))) == KEY.encode()


def test_the_same_input_gives_the_same_fingerprint_and_one_row_another(tmp_path):
    path = shop(tmp_path)
    first = build_dataset(Data(path=str(path))).fingerprint
    assert build_dataset(Data(path=str(path))).fingerprint == first
    log = path / "interactions.csv"
    text = log.read_text()
    lines = text.splitlines()
    changed = lines[1].rsplit(",", 1)[0] + ",1599999999"
    for other in ([lines[0], changed, *lines[2:]], lines[:-1], [*lines, f"{USERS[0]},item new,1600000000"]):
        log.write_text("\n".join(other) + "\n")
        assert build_dataset(Data(path=str(path))).fingerprint != first


def test_cold_users_and_items_are_listed_and_the_report_is_kept(tmp_path, capsys):
    folder = main(config(tmp_path, split={"name": "temporal", "ratios": [0.2, 0.2, 0.6]}))
    assert "leak report" not in capsys.readouterr().out
    leaks = open_stage(folder)["result"]["leaks"]
    assert leaks["findings"] == [] and set(leaks) == {"findings", "valid", "test"}
    users = pl.read_parquet(folder / "users.parquet")
    summary = open_stage(folder)["result"]
    assert (users["train_events"] == 0).sum() == summary["users without a train event (cold)"] > 0
    main(config(tmp_path, split={"name": "random"}))
    assert "older than a train event of the same user" in capsys.readouterr().out


def test_changed_vectors_prepare_again(tmp_path):
    np.save(tmp_path / "image.npy", np.eye(9))
    settings = config(tmp_path, embeddings={"image": str(tmp_path / "image.npy")})
    first = Dataset.read(main(settings)).fingerprint
    np.save(tmp_path / "image.npy", np.eye(9) * 2)
    assert Dataset.read(main(settings)).fingerprint != first


def test_a_full_disk_leaves_the_old_result_and_nothing_half_written(tmp_path, monkeypatch):
    folder = main(config(tmp_path))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    synced, real = [], os.fsync

    def full(descriptor):
        synced.append(descriptor)
        if len(synced) == 3:  # started.json, one table, then the disk is full
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"The disk is full: .*parquet could not be written"):
        main(config(tmp_path, duplicates="last"))
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert not list((tmp_path / "runs").rglob("*.tmp"))
    assert json.loads((main(config(tmp_path, duplicates="last")) / "manifest.json").read_text())["files"]


def test_a_disk_that_is_really_full(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a tmpfs can't be mounted here")
    try:
        (disk / "ballast").write_bytes(b"x" * 40_000)
        dataset = build_dataset(config(tmp_path).data)
        many = dataclasses.replace(dataset, texts=[os.urandom(40_000).hex()] * 9)
        with pytest.raises(UserError, match="The disk is full"):
            many.write(disk)
        assert not list(disk.glob("*.tmp")) and not (disk / "dataset.json").exists()
    finally:
        subprocess.run(["umount", str(disk)], check=True)
