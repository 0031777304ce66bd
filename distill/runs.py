"""Stage folders: each has a manifest; a stage whose inputs haven't changed does nothing, a killed one resumes."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from distill.errors import UserError
from distill.progress import is_main_process, say

MANIFEST = "manifest.json"
STARTED = "started.json"
PARTIAL = ".partial"  # ending of a stage's folder until it is done
WORK = ".work"  # checkpoints of a stage in progress; removed when it is done
PACKAGES = ("taildistill", "torch", "transformers", "accelerate", "deepspeed", "onnx", "onnxruntime", "numpy", "polars")
COMMANDS = {
    "data": "prepare",
    "teacher": "train-teacher",
    "scores": "score-teacher",
    "student": "train-student",
    "student_without_distillation": "train-student",
    "export": "export-student",
    "report": "benchmark",
}
PARTS = {"latency": "benchmark --only latency"}  # folders that a part of a stage makes


def command_of(stage: str) -> str:
    """The command that makes a stage's folder; further seeds and controls have a folder of their own."""
    kind = stage.partition("-")[0]
    return {**COMMANDS, **PARTS}.get("student" if kind == "control" else kind, stage)


def write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    """Writes JSON so that a reader sees the old file or the new one, never half of it."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=indent, ensure_ascii=False, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def sha256(path: Path) -> str:
    """sha256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """sha256 of a JSON value with sorted keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a finished stage, or None."""
    path = folder / MANIFEST
    return json.loads(path.read_text()) if path.is_file() else None


def open_stage(folder: Path, config_source: str = "CONFIG") -> dict[str, Any]:
    """Opens a finished stage for reading.

    Raises:
        UserError: The stage was not run, or one of its files is missing or altered (named, with both hashes).
    """
    manifest = read_manifest(folder)
    command = f"distill {command_of(folder.name)} {config_source}"
    if manifest is None:
        raise UserError(f"{folder} is not there or not finished. Make it with: {command}")
    for name, expected in manifest["files"].items():
        path = folder / name
        found = sha256(path) if path.is_file() else "no such file"
        if found != expected:
            raise UserError(
                f"{path} is not what its manifest says: sha256 {found}, expected {expected}. Rebuild with: {command}"
            )
    return manifest


def run_stage(
    folder: Path,
    settings: Mapping[str, Any],
    inputs: Sequence[Path],
    build: Callable[[Path], Mapping[str, Any] | None],
    config_source: str = "CONFIG",
    barrier: Callable[[], None] = lambda: None,
    command: str = "",
    mend: bool = False,
) -> Path:
    """Runs one stage, unless its folder already holds the result of the same settings and inputs.

    The result grows in `<folder>.partial` and takes the folder's place when it is whole, so a mistake in the settings
    never costs a finished result, and a killed stage finds there what it had done.

    Args:
        folder: The stage's folder; its name is the stage.
        settings: Plain values that decide the result; a change of any makes the stage run again.
        inputs: Folders of the stages it reads; each must be finished and unaltered.
        build: Writes the result into the folder it is given. Checkpoints of work in progress go to its `.work`. What it
            returns is kept in the manifest under "result".
        config_source: For the commands in messages.
        barrier: Waits for the other processes of a launch; the main one alone clears and seals the folder.
        command: The command that regenerates the folder, kept in the manifest.
        mend: `build` makes only the files that aren't there, so of a finished result that was damaged the whole files
            are kept.

    Returns:
        The folder.

    Raises:
        UserError: An input is missing, altered, or was itself made from inputs that have changed since.
    """
    manifests = {path.name: open_stage(path, config_source) for path in inputs}
    _check_lineage(manifests, config_source)
    fingerprints = {name: m["fingerprint"] for name, m in manifests.items()}
    wanted = json.loads(json.dumps({"settings": settings, "inputs": fingerprints}))
    manifest = read_manifest(folder)
    barrier()
    current = manifest is not None and {k: manifest[k] for k in wanted} == wanted
    if manifest and current and _whole(folder, manifest):
        say(f"{folder}: up to date")
        return folder
    partial = folder.with_name(folder.name + PARTIAL)
    if mend:
        barrier()  # every process has looked at the files before the folder moves
    if is_main_process():
        if manifest and current and mend:
            _reopen(folder, partial, manifest, wanted)
        started = partial / STARTED
        if partial.exists() and not (started.is_file() and json.loads(started.read_text()) == wanted):
            shutil.rmtree(partial)
        partial.mkdir(parents=True, exist_ok=True)
        write_json(started, wanted)
    barrier()
    begin = time.perf_counter()
    result = build(partial)
    barrier()
    if is_main_process():
        seconds = time.perf_counter() - begin
        shutil.rmtree(partial / WORK, ignore_errors=True)
        seal(partial, folder.name, wanted, result or {}, seconds, command)
        if folder.exists():
            shutil.rmtree(folder)
        partial.replace(folder)
        say(f"{folder}: done in {seconds:.1f} s")
    barrier()
    return folder


def seal(
    folder: Path, stage: str, wanted: Mapping[str, Any], result: Mapping[str, Any], seconds: float, command: str
) -> None:
    """Writes the manifest of a finished stage, last of all its files."""
    for leftover in folder.rglob("*.tmp"):  # half a file, of a process that was killed while it wrote
        leftover.unlink()
    files = {
        str(p.relative_to(folder)): sha256(p)
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name not in (MANIFEST, STARTED)
    }
    manifest = {
        **wanted,
        "fingerprint": digest([stage, wanted, files]),
        "files": files,
        "result": result,
        "seconds": round(seconds, 2),
        "command": command,
        "environment": environment(),
    }
    write_json(folder / MANIFEST, manifest)
    (folder / STARTED).unlink(missing_ok=True)


def environment() -> dict[str, str]:
    """Python, platform, processor count and the versions of the packages that decide a result."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    about = {"python": sys.version.split()[0], "platform": platform.platform(), "processors": str(os.cpu_count())}
    return {**about, **versions}


def _whole(folder: Path, manifest: Mapping[str, Any]) -> bool:
    return all((folder / n).is_file() and sha256(folder / n) == h for n, h in manifest["files"].items())


def _reopen(folder: Path, partial: Path, manifest: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Makes a finished folder the partial result again, without its damaged files."""
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file() or sha256(path) != expected:
            say(f"{path} is {'damaged' if path.is_file() else 'missing'}; it is made anew")
            path.unlink(missing_ok=True)
    write_json(folder / STARTED, wanted)
    shutil.rmtree(partial, ignore_errors=True)
    folder.replace(partial)


def _check_lineage(manifests: Mapping[str, Mapping[str, Any]], source: str) -> None:
    """Refuses inputs that were made from another version of each other."""
    for name, manifest in manifests.items():
        for used, fingerprint in manifest["inputs"].items():
            current = manifests.get(used, {}).get("fingerprint", fingerprint)
            if current != fingerprint:
                raise UserError(
                    f"'{name}' was made from '{used}' {fingerprint[:12]}, but '{used}' is now {current[:12]}. "
                    f"Rebuild it with: distill {command_of(name)} {source}"
                )
