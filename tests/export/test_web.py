"""A bundle's files in another onnxruntime: npm's WebAssembly build under node, with no file of this project."""

import dataclasses
import json
import shutil
import subprocess

import numpy as np
import pytest
from export_samples import make_run

from distill.export_student import main
from distill.serving.runtime import Bundle

PACKAGE = "onnxruntime-web@1.20.1"
PROGRAM = """
const ort = require("onnxruntime-web");
const fs = require("fs");
ort.env.wasm.numThreads = 1;
ort.env.logLevel = "error";
async function main() {
  const [folder, variant] = process.argv.slice(2);
  const about = JSON.parse(fs.readFileSync(`${folder}/bundle.json`));
  const session = await ort.InferenceSession.create(fs.readFileSync(`${folder}/${about.variants[variant].file}`));
  const tensor = (values, shape) => new ort.Tensor("int64", BigInt64Array.from(values.map(BigInt)), shape);
  const padding = about.padding;
  const rows = [[padding, padding, 3], [7, 12, 5], [200, 3, 150]];
  const history = tensor(rows.flat(), [3, 3]);
  const found = await session.run({ history, seen: history, k: tensor([10], [1]) });
  console.log(JSON.stringify({ ids: Array.from(found.ids.data, Number), scores: Array.from(found.scores.data) }));
}
main().catch((error) => { console.error(String(error)); process.exit(1); });
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the npm package in it."""
    if not shutil.which("npm") or not shutil.which("node"):
        pytest.skip("npm and node are not installed")
    folder = tmp_path_factory.mktemp("web")
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", PACKAGE]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm didn't install {PACKAGE} within 240 s")
    if done.returncode:
        pytest.skip(f"npm can't install {PACKAGE}: {done.stderr.strip()[-200:]}")
    (folder / "ask.js").write_text(PROGRAM)
    return folder


@pytest.mark.slow
def test_node_gives_the_same_lists(folder, tmp_path):
    variants = ("fp32", "fp16", "int8", "int4")
    config = make_run(tmp_path, variants)
    lenient = dataclasses.replace(config.export, min_overlap=0.8, min_retention=0.8)  # the weights are random
    bundle = main(dataclasses.replace(config, export=lenient))
    for variant in variants:
        command = ["node", "ask.js", str(bundle), variant]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, f"{variant}: {done.stderr[-2000:]}"
        found = json.loads(done.stdout.strip().splitlines()[-1])
        ids, scores = Bundle.open(bundle, variant).recommend([[3], [7, 12, 5], [200, 3, 150]], k=10)
        np.testing.assert_allclose(found["scores"], scores.ravel(), rtol=1e-4, atol=1e-4, err_msg=variant)
        assert found["ids"] == ids.ravel().tolist(), variant
