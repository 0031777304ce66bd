"""Command `scores`: looks into soft-score stores, checks, repairs, merges and imports them."""

from __future__ import annotations

if __name__ == "__main__":  # run as a file: the repository root, not distill/, must come first on the path
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from distill.config import Config, load
from distill.data.contexts import Contexts, Kind
from distill.data.dataset import Dataset
from distill.errors import UserError
from distill.progress import console, say, track
from distill.ranking.segments import ITEM_THIRDS, item_thirds
from distill.runs import read_manifest, run_stage, sha256
from distill.score_teacher import count_kinds, what_counts
from distill.score_teacher import main as score_teacher
from distill.soft.import_scores import import_scores
from distill.soft.merge import HOWS, merge
from distill.soft.store import CONTEXTS, DAMAGE, INDEX, Store, damaged_shards, header_of, read_index

BLOCK = 8192  # rows looked at once
EXAMPLES = """examples:
  distill scores info runs/quickstart
  distill scores verify configs/quickstart.yaml
  distill scores verify configs/quickstart.yaml --repair
  distill scores merge runs/a/scores runs/b/scores --weights 2 1 --how probabilities --out runs/both/scores
  distill scores import outside.parquet --data runs/mine/data --out runs/mine/scores"""
PLACE = "a run's folder, a store's folder, or an experiment's YAML"


def scores_command(arguments: Sequence[str]) -> int:
    """`distill scores`: runs a subcommand and returns the exit code: 1 where `verify` finds damage.

    Raises:
        UserError: There is no store, or it doesn't fit what is asked.
    """
    chosen = make_parser().parse_args(arguments)
    return int(chosen.run(chosen) or 0)


def make_parser() -> argparse.ArgumentParser:
    """The parser of `distill scores` and its subcommands."""
    parser = argparse.ArgumentParser(
        prog="distill scores", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    info = commands.add_parser("info", help="what a store holds, and how much of the catalogue its lists reach")
    info.add_argument("place", metavar="PLACE", help=PLACE)
    info.add_argument("--json", action="store_true", help="print JSON")
    info.set_defaults(run=run_info)
    check = commands.add_parser("verify", help="reads every shard and compares its sha256; --repair mends what differs")
    check.add_argument("place", metavar="PLACE", help=PLACE)
    check.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings in place of the file's")
    check.add_argument("--repair", action="store_true", help="score damaged shards again, and only them (needs a YAML)")
    check.set_defaults(run=run_verify)
    both = commands.add_parser("merge", help="several teachers' stores of the same contexts as one")
    both.add_argument("stores", nargs="+", metavar="STORE", help="a run's folder or a store's folder")
    both.add_argument("--weights", nargs="+", type=float, help="one a store (default: all alike)")
    both.add_argument("--how", choices=HOWS, default="scores", help="what is averaged (default: %(default)s, of log p)")
    both.add_argument(
        "--out", required=True, metavar="FOLDER", help="where the merged store goes, RUN/scores to use it"
    )
    both.set_defaults(run=run_merge)
    bring = commands.add_parser("import", help="an outside model's scores as a store")
    bring.add_argument("file", help=".parquet or .csv with user_id, item_id, score; or .parquet with the lists history,"
                       " items, scores")  # fmt: skip
    bring.add_argument("--data", required=True, metavar="RUN/data", help="the prepared data that the ids belong to")
    bring.add_argument("--out", required=True, metavar="FOLDER", help="where the store goes, RUN/scores to use it")
    bring.add_argument("--k", type=int, default=100, help="items kept a context (default: %(default)s)")
    bring.add_argument("--scale", type=float, default=1.0, help="factor on the scores, to make them log-probabilities")
    bring.set_defaults(run=run_import)
    return parser


def locate(place: str, overrides: Sequence[str] = ()) -> tuple[Path, Config | None]:
    """The store's folder that a command line names, and the config where it names one."""
    path = Path(place)
    if path.suffix in (".yaml", ".yml"):
        config = load(path, overrides)
        return config.folder / "scores", config
    return (path if (path / INDEX).is_file() or path.name == "scores" else path / "scores"), None


def run_info(chosen: argparse.Namespace) -> int:
    """`distill scores info`."""
    folder, _ = locate(chosen.place)
    about = describe(folder)
    if chosen.json:
        print(json.dumps(about, indent=2))
        return 0
    table = Table(title=str(folder), show_header=False)
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in about["kinds"].items())
    for name, value in (
        ("rows", f"{about['rows']:,} ({kinds})"),
        ("answered", f"{about['answered']:,}"),
        ("k", f"{about['k']} of {about['n_items']:,} items"),
        ("temperatures", ", ".join(f"{t:g}" for t in about["temperatures"])),
        ("sampled tail", str(about["tail"]) if about["tail"] else "none"),
        ("hidden vectors", str(about["hidden"]) if about["hidden"] else "none"),
        (
            "size",
            f"{about['bytes'] / 2**20:,.1f} MiB, {about['bytes_per_row']:.0f} bytes a row, {about['shards']} shards",
        ),
        ("teacher's mass in its top k", f"{about['mass']:.3f}"),
        ("teacher", f"{about['teacher'][:16]} {about['made_by']}"),
        ("data", about["data"][:16]),
    ):
        table.add_row(name, value)
    console.print(table)
    reach = Table(
        "items", "in the catalogue", "listed at least once", "share of all lists", title="what the lists reach"
    )
    for name, part in about["reach"].items():
        reach.add_row(name, f"{part['items']:,}", f"{part['coverage']:.1%}", f"{part['share']:.1%}")
    console.print(reach)
    return 0


def describe(folder: Path) -> dict[str, Any]:
    """What a store holds; see docs/scores.md for each figure. Reads every row once, a block at a time."""
    store = Store.open(folder)
    header = store.header
    contexts = Contexts.read(folder / CONTEXTS, header.n_items)
    listed = np.zeros(header.n_items, np.int64)
    answered, mass = 0, 0.0
    at_one = header.temperatures.index(1.0)
    for first in track(range(0, store.rows, BLOCK), "reading", unit=f"x {BLOCK} rows"):
        found = store.lookup(np.arange(first, min(first + BLOCK, store.rows)))
        valid = found["items"] >= 0
        listed += np.bincount(found["items"][valid], minlength=header.n_items)
        scores = np.where(valid, found["scores"].astype(np.float64) - found["logz"][:, at_one, None], -np.inf)
        mass += float(np.minimum(np.exp(scores).sum(1), 1.0)[valid.any(1)].sum())
        answered += int(valid.any(1).sum())
    size = sum((folder / shard["file"]).stat().st_size for shard in read_index(folder)["shards"])
    settings = (read_manifest(folder) or {}).get("settings", {})
    return {
        **{
            name: getattr(header, name)
            for name in ("k", "temperatures", "tail", "hidden", "n_items", "teacher", "data")
        },
        "rows": store.rows,
        "answered": answered,
        "kinds": count_kinds(contexts),
        "bytes": size,
        "bytes_per_row": size / max(1, store.rows),
        "shards": len(store.starts),
        "mass": mass / max(1, answered),
        "made_by": f"({settings['made_by']})" if "made_by" in settings else "",
        "reach": reach_by_third(listed, contexts),
    }


def reach_by_third(listed: np.ndarray, contexts: Contexts) -> dict[str, dict[str, float]]:
    """Coverage of head, mid and tail by the lists, from how often each item is listed (N,).

    Every train event is the last item of one real context, so their counts are the items' popularity.
    """
    real = contexts.kind == Kind.REAL
    popularity = np.bincount(contexts.items[contexts.stop[real] - 1], minlength=contexts.n_items)
    thirds = item_thirds(popularity)
    return {
        name: {
            "items": int((thirds == number).sum()),
            "coverage": float((listed[thirds == number] > 0).mean()) if (thirds == number).any() else 0.0,
            "share": float(listed[thirds == number].sum() / max(1, listed.sum())),
        }
        for number, name in enumerate(ITEM_THIRDS)
    }


def run_verify(chosen: argparse.Namespace) -> int:
    """`distill scores verify`: 0 where every file is whole, or was mended; 1 where one isn't."""
    folder, config = locate(chosen.place, chosen.overrides)
    if chosen.repair:
        if config is None:
            raise UserError(f"--repair asks the teacher, so it needs the experiment's YAML; found '{chosen.place}'.")
        check_same_origin(folder, config)
    faults = verify(folder)
    for fault in faults:
        console.print(fault, style="red", markup=False)
    if not faults:
        say(f"{folder}: whole ({len(read_index(folder)['shards'])} shards)")
        return 0
    if not chosen.repair or config is None:
        say("Mend it with: distill scores verify CONFIG --repair (only damaged shards are scored again)")
        return 1
    score_teacher(config)
    return 0


def verify(folder: Path) -> list[str]:
    """What is wrong with a store, a sentence each: damaged files, and fingerprints other than those of its run."""
    manifest = read_manifest(folder) or {"files": {}, "settings": {}}
    faults = []
    for name, expected in manifest["files"].items():
        if not name.endswith(".safetensors"):
            path = folder / name
            what = "missing" if not path.is_file() else "altered" if sha256(path) != expected else ""
            faults += [f"{path} {DAMAGE[what]}."] if what else []
    if not (folder / INDEX).is_file() and faults:
        return faults
    about = read_index(folder)
    faults += [f"{folder / file} {DAMAGE[what]}." for file, what in damaged_shards(folder, about)]
    return faults + strangers(folder, about, manifest)


def strangers(folder: Path, about: dict[str, Any], manifest: dict[str, Any]) -> list[str]:
    """Fingerprints in which a store differs from the data and the teacher of the run that it lies in."""
    run, header, found = folder.parent, header_of(about), []
    if (run / "data" / "manifest.json").is_file():
        dataset = Dataset.read(run / "data")
        for name, mine, theirs in (
            ("item vocabulary", header.item_vocabulary, dataset.item_vocabulary),
            ("data", header.data, dataset.fingerprint),
        ):
            if mine != theirs:
                found.append(f"{folder} was made for another {name}: {mine[:12]}, the run's is {theirs[:12]}.")
    teacher = (read_manifest(run / "teacher") or {}).get("fingerprint")
    if teacher and "made_by" not in manifest["settings"] and header.teacher != teacher:
        found.append(f"{folder} holds another teacher's answers: {header.teacher[:12]}, the run's is {teacher[:12]}.")
    return found


def check_same_origin(folder: Path, config: Config) -> None:
    """Refuses to repair a store that the config wouldn't make: mending is never scoring everything anew.

    Raises:
        UserError: The store isn't finished, was imported or merged, or was made with other settings or inputs.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        raise UserError(f"{folder} is not there or not finished; make it with: distill score-teacher {config.source}")
    if "made_by" in manifest["settings"]:
        raise UserError(f"{folder} was made by '{manifest['settings']['made_by']}'; run that again to make it anew.")
    wanted = json.loads(json.dumps({"scores": what_counts(config.scores), "seed": config.seed}))
    differing = [] if manifest["settings"] == wanted else ["'scores' or 'seed'"]
    for name, fingerprint in manifest["inputs"].items():
        current = (read_manifest(config.folder / name) or {}).get("fingerprint")
        differing += [f"the stage '{name}'"] if current != fingerprint else []
    if differing:
        raise UserError(
            f"{folder} was made with other settings or inputs ({', '.join(differing)}), so mending it would mix two "
            f"teachers' answers. Make it anew with: distill score-teacher {config.source}"
        )


def run_merge(chosen: argparse.Namespace) -> int:
    """`distill scores merge`."""
    folders = [locate(place)[0] for place in chosen.stores]
    indices = [read_index(folder) for folder in folders]
    words = ["--how", chosen.how, *(["--weights", *map(str, chosen.weights)] if chosen.weights else [])]
    command = shlex.join(["distill", "scores", "merge", *map(str, folders), *words, "--out", chosen.out])

    def build(partial: Path) -> dict[str, Any]:
        store = merge(folders, partial, chosen.how, chosen.weights)
        return {"rows": store.rows, "kinds": count_kinds(Contexts.read(partial / CONTEXTS, store.header.n_items))}

    settings = {"made_by": command, "stores": [[shard["sha256"] for shard in about["shards"]] for about in indices]}
    seal_into(Path(chosen.out), settings, [], build, command)
    return 0


def run_import(chosen: argparse.Namespace) -> int:
    """`distill scores import`."""
    file, data = Path(chosen.file), Path(chosen.data)
    if not file.is_file():
        raise UserError(f"There is no file {file}.")
    words = ["--data", chosen.data, "--k", str(chosen.k), "--scale", f"{chosen.scale:g}", "--out", chosen.out]
    command = shlex.join(["distill", "scores", "import", chosen.file, *words])

    def build(partial: Path) -> dict[str, Any]:
        counts = import_scores(file, Dataset.read(data), partial, chosen.k, chosen.scale)
        table = Table("found", "count", title=str(file))
        for name, count in counts.items():
            table.add_row(name, f"{count:,}")
        console.print(table)
        contexts = Contexts.read(partial / CONTEXTS, read_index(partial)["n_items"])
        return {"rows": len(contexts), "kinds": count_kinds(contexts), "imported": counts}

    seal_into(Path(chosen.out), {"made_by": command, "file": sha256(file)}, [data], build, command)
    return 0


def seal_into(out: Path, settings: dict[str, Any], inputs: list[Path], build: Any, command: str) -> None:
    """Makes `out` a finished stage's folder; never in the place of a store that a teacher was asked for.

    Raises:
        UserError: `out` holds such a store, or anything that is no store.
    """
    manifest = read_manifest(out)
    if out.exists() and "made_by" not in (manifest or {}).get("settings", {}):
        raise UserError(
            f"{out} is there already and wasn't merged or imported. Name another --out, or remove it first."
        )
    run_stage(out, settings, inputs, build, command=command)


if __name__ == "__main__":
    from distill.cli import guarded

    sys.exit(guarded(lambda: scores_command(sys.argv[1:])))
