"""Command `ablate`: students x (objectives + controls) x seeds, trained side by side, in one table."""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.config import Config, Fit, Grid, Spec, build_section, check_loss_settings, load, load_grid, to_tree
from distill.errors import UserError
from distill.plugins import check_arguments
from distill.progress import say
from distill.recipes import STUDENT, Recipe, recipe_of
from distill.runs import read_manifest, write_json

BASE = "text_init_only"  # the row that gains are measured against
SELF = "self_distillation"
GRID = "configs/grids/objectives.yaml"
METRICS = ("ndcg@10", "recall@10", "tail_ndcg@10", "tail_coverage@10", "coverage@10")


@dataclass(frozen=True)
class Cell:
    """One training: a student of the grid, a row (objective or control), and a seed's number."""

    student: str
    row: str
    offset: int

    @property
    def name(self) -> str:
        """For messages and files."""
        return f"{self.student}/{self.row}-seed{self.offset}"


def ablate_command(arguments: Sequence[str]) -> int:
    """`distill ablate CONFIG [--grid GRID] [KEY=VALUE ...]`."""
    chosen = make_parser().parse_intermixed_args(list(arguments))
    grid = load_grid(chosen.grid)
    given = {k: v for k in ("minutes", "jobs", "seeds") if (v := getattr(chosen, k)) is not None}
    return ablate(load(chosen.config, chosen.overrides), dataclasses.replace(grid, **given), chosen.grid)


def make_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="distill ablate",
        description="Train a grid of objectives, students, controls and seeds on the scores of a finished run, and "
        "write one table with intervals and significance letters to <run>/ablation/. Needs the stages prepare, "
        "train-teacher and score-teacher. Run it again to go on where it stopped.",
        epilog="Example: distill ablate configs/quickstart.yaml --grid configs/grids/objectives.yaml --minutes 20",
    )
    parser.add_argument("config", metavar="CONFIG")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--grid", default=GRID, help="the grid's YAML (default: %(default)s)")
    parser.add_argument("--minutes", type=float, help="start no further cell after so many minutes")
    parser.add_argument("--jobs", type=int, help="cells trained at once (default: one a core)")
    parser.add_argument("--seeds", type=int, help="seeds of each cell")
    return parser


def ablate(config: Config, grid: Grid, source: str) -> int:
    """Trains every cell of a grid that isn't there yet, and writes the table.

    Returns:
        0; 1 where a cell failed (the table names it).
    """
    from distill.ablation_table import write_tables
    from distill.rescore import scores_folder

    cells = cells_of(grid)
    if not cells:
        raise UserError(f"{source}: nothing to train. A grid needs 'students' and 'objectives' or 'controls'.")
    for cell in cells:
        check_recipe(make_recipe(config, grid, cell), cell)
    folder = config.folder / "ablation"
    folder.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    first = [cell for cell in cells if cell.row == BASE and cell.offset == 0]
    failed = run_cells(config, grid, source, first, begin)
    for cell in cells:  # answers of other teachers are made once, before cells that share them run side by side
        for teacher in make_recipe(config, grid, cell).teachers:
            scores_folder(config, teacher)
    failed |= run_cells(config, grid, source, [cell for cell in cells if cell not in first], begin)
    results = [json.loads(path.read_text()) for cell in cells if (path := result_file(config, cell)).is_file()]
    rows = [*grid.controls, *grid.objectives]
    command = f"{config.command('ablate')} --grid {source} --seeds {grid.seeds}"
    write_tables(folder / Path(source).stem, results, list(grid.students), rows, failed, command)
    say(f"ablation: {len(results)} of {len(cells)} cells, {len(failed)} failed: {folder / Path(source).stem}.md")
    return 1 if failed else 0


def cells_of(grid: Grid) -> list[Cell]:
    """All cells, those of the first seed first, so that a budget costs seeds before rows."""
    rows = [*grid.controls, *grid.objectives]
    return [Cell(s, row, offset) for offset in range(grid.seeds) for row in rows for s in grid.students]


def make_recipe(config: Config, grid: Grid, cell: Cell) -> Recipe:
    """What a cell trains."""
    chosen = grid.students[cell.student]
    spec = config.student
    arguments = chosen.arguments if chosen.name else {**spec.arguments, **chosen.arguments}
    config = dataclasses.replace(
        config,
        student=Spec(chosen.name or spec.name, arguments),
        control_student=Spec(""),
        fit=_laid_over(config.fit, chosen.fit),
        control_fit=_laid_over(config.control_fit, chosen.control_fit),
    )
    if cell.row in grid.controls:
        recipe = recipe_of(config, cell.row)
        if cell.row == SELF:
            own = str(cell_folder(config, dataclasses.replace(cell, row=BASE, offset=0)))
            losses = [dataclasses.replace(x, teacher=own) if x.teacher else x for x in recipe.losses]
            recipe = dataclasses.replace(recipe, losses=losses)
        return recipe
    recipe = recipe_of(config, STUDENT)
    objective = grid.objectives[cell.row]
    student = Spec(recipe.student.name, {**recipe.student.arguments, **objective.student})
    fit = _laid_over(recipe.fit, objective.fit)
    return dataclasses.replace(recipe, student=student, losses=objective.losses or recipe.losses, fit=fit)


def _laid_over(fit: Fit, changes: dict[str, Any]) -> Fit:
    return build_section(Fit, {**to_tree(fit), **changes}, "fit")


def check_recipe(recipe: Recipe, cell: Cell) -> None:
    """Refuses settings that a student or loss doesn't have before anything is trained."""
    try:
        check_arguments("student", recipe.student.name, recipe.student.arguments, ("n_items", "item_vectors"))
        for loss in recipe.losses:
            check_loss_settings(loss)
    except UserError as error:
        raise UserError(f"{cell.student}, {cell.row}: {error}") from error


def cell_folder(config: Config, cell: Cell) -> Path:
    """Where a cell's student lies."""
    return config.folder / "ablation" / cell.student / f"{cell.row}-seed{cell.offset}"


def result_file(config: Config, cell: Cell) -> Path:
    """Where a cell's figures lie."""
    return config.folder / "ablation" / "results" / f"{cell.student}--{cell.row}-seed{cell.offset}.json"


def run_cells(config: Config, grid: Grid, source: str, cells: Sequence[Cell], begin: float) -> dict[str, str]:
    """Trains cells in processes of their own.

    Returns:
        Error text of each cell that failed, by its name.
    """
    cores = os.cpu_count() or 1
    jobs = max(1, min(grid.jobs or cores, len(cells)))
    threads = max(1, cores // jobs)
    failed: dict[str, str] = {}
    waiting = list(cells)
    running: dict[Future[float], Cell] = {}
    done = 0
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=start_worker, initargs=(threads,)) as pool:
        while waiting or running:
            late = grid.minutes and time.monotonic() - begin > 60 * grid.minutes
            if late and waiting:
                say(f"the budget of {grid.minutes:g} minutes is spent; {len(waiting)} cells are left out")
                waiting.clear()
            while waiting and len(running) < jobs:
                cell = waiting.pop(0)
                running[pool.submit(run_cell, config, grid, cell)] = cell
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                cell = running.pop(future)
                done += 1
                error = future.exception()
                if error is not None:
                    failed[cell.name] = f"{type(error).__name__}: {error}"
                    say(f"[{done}/{len(cells)}] {cell.name} failed: {error}")
                else:
                    say(f"[{done}/{len(cells)}] {cell.name}: test ndcg@10 {future.result():.4f}")
    return failed


def start_worker(threads: int) -> None:
    """Sets up a worker: its share of the cores, no messages of its own."""
    import torch

    from distill.memory import keep_freed_memory
    from distill.progress import console

    keep_freed_memory()
    torch.set_num_threads(threads)
    console.quiet = True


def run_cell(config: Config, grid: Grid, cell: Cell) -> float:
    """Trains a cell and measures it on the test part, where that isn't done yet; returns its ndcg@10."""
    from distill.ablation_table import measure
    from distill.train_student import train_one

    recipe = make_recipe(config, grid, cell)
    quiet = dataclasses.replace(config, run=dataclasses.replace(config.run, tracker="none"))
    folder = train_one(quiet, recipe, cell.offset, cell_folder(config, cell))
    manifest = read_manifest(folder)
    assert manifest is not None
    path = result_file(config, cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file():
        found = json.loads(path.read_text())
        if found["fingerprint"] == manifest["fingerprint"]:
            return found["values"]["ndcg@10"]
    found = {
        **dataclasses.asdict(cell),
        "fingerprint": manifest["fingerprint"],
        "seconds": manifest["seconds"],
        "validation": manifest["result"]["validation"]["ndcg@10"],
        "losses": to_tree(recipe.losses),
        **measure(config, folder, recipe.fit.max_length, METRICS),
    }
    write_json(path, found, indent=None)
    return found["values"]["ndcg@10"]
