"""Where a backbone's files are: a hub id, a local folder, a folder in a Python package, or a GGUF file."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from distill.errors import UserError

PACKAGE = "package:"
SCRATCH = "scratch"
GGUF = ".gguf"
INDEX = "model.safetensors.index.json"


def locate(name: str) -> str | Path:
    """Where a backbone's files are: a folder, a GGUF file, or a hub id that transformers is to look up.

    Args:
        name: A hub id; a local folder; a file ending in .gguf; or `package:some_package/folder`, a folder or GGUF file
            inside an installed Python package, which is found without importing it. A folder without config.json that
            holds exactly one GGUF file stands for that file.

    Raises:
        UserError: There is no such folder, file or package, or the folder is no complete Hugging Face model.
    """
    if name.startswith(PACKAGE):
        place = _in_package(name)
    else:
        place = Path(name).expanduser()
        looks_like_path = name.startswith((".", "/", "~")) or name.count("/") > 1 or name.endswith(GGUF)
        if not (place.is_dir() or (place.is_file() and place.suffix == GGUF)):
            if looks_like_path:
                raise UserError(
                    f"backbone '{name}': there is no such folder. Give a hub id (owner/model), a folder with "
                    f"config.json and model.safetensors, a .gguf file, '{PACKAGE}name/folder', or '{SCRATCH}'."
                )
            return name
    if place.is_file():
        return place
    files = sorted(place.glob(f"*{GGUF}"))
    if files and not (place / "config.json").is_file():
        if len(files) > 1:
            raise UserError(
                f"backbone '{name}': {place} holds {len(files)} GGUF files; name one of them: "
                f"{', '.join(f'{name}/{file.name}' for file in files[:3])}."
            )
        return files[0]
    _check_folder(name, place)
    return place


def _in_package(name: str) -> Path:
    package, _, inside = name.removeprefix(PACKAGE).partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"backbone '{name}': the Python package '{package}' isn't installed. "
            f"Install it with: pip install {package.replace('_', '-')}"
        )
    place = Path(next(iter(spec.submodule_search_locations))) / inside
    if place.is_dir() or (place.is_file() and place.suffix == GGUF):
        return place
    raise UserError(f"backbone '{name}': the package '{package}' is installed, but has no folder '{inside}'.")


def _check_folder(name: str, folder: Path) -> None:
    """Tells a half-downloaded or unsafe folder from a whole one, before transformers fails in its own words."""
    if not (folder / "config.json").is_file():
        raise UserError(
            f"backbone '{name}': {folder} has no config.json; it is no Hugging Face model or only half downloaded."
        )
    if (folder / INDEX).is_file():
        _check_shards(name, folder)
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        _check_whole(name, file)
    if files:
        return
    if any(folder.glob("*.bin")):
        raise UserError(
            f"backbone '{name}': {folder} has its weights only as a pickle (*.bin), which could run code when read. "
            f"Convert it once to model.safetensors on a machine you trust, or take a revision that has it."
        )
    raise UserError(f"backbone '{name}': {folder} has no weights (*.safetensors); it is only half downloaded.")


def _check_shards(name: str, folder: Path) -> None:
    try:
        wanted = set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError) as error:
        raise UserError(f"backbone '{name}': {folder / INDEX} is cut off or no index. Download it again.") from error
    missing = sorted(shard for shard in wanted if not (folder / shard).is_file())
    if missing:
        raise UserError(
            f"backbone '{name}': {folder} is only half downloaded; {len(missing)} of {len(wanted)} weight files are "
            f"missing: {', '.join(missing[:3])}. Download them again."
        )


def _check_whole(name: str, file: Path) -> None:
    """Reads the file's header alone, which says how long the file has to be."""
    try:
        with safe_open(file, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"backbone '{name}' can't be opened: {file.name} in {file.parent} is cut off or damaged ({error}). "
            f"Download it again."
        ) from error
