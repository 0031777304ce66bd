"""Makes the two environments that the peers need, outside the project, and prints the commands that use them.

Run with Python 3.11: `python benchmarks/peers/setup.py [FOLDER]` (default: ~/.cache/taildistill-peers). About 1 GB and
five minutes; versions are pinned. RecBole gets its own environment because it needs numpy below 1.24 and, for its graph
models, scipy below 1.11; it is installed without its dependencies because only metrics, models and trainers are used.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

OURS = ["numpy", "polars==2.1.0", "pyyaml", "rich"]
LIBRARIES = ["ranx==0.3.21", "ir-measures==0.4.3", "cornac==3.0.1", "implicit==0.7.3", "threadpoolctl", *OURS]
RECBOLE = [
    "pandas<2.3",
    "scipy<1.11",
    "numpy==1.23.5",
    "tqdm",
    "colorlog",
    "colorama",
    "scikit-learn<1.4",
    "tensorboard",
]
RECBOLE += ["tabulate", "psutil", "texttable", "plotly", "thop", *OURS[1:]]
BARE = ["recbole==1.2.1"]
TORCH = ["torch==2.13.0", "numpy==1.23.5"]


def make(folder: Path, *steps: list[str]) -> Path:
    """Makes an environment, unless it is there, and runs one `pip install` for each step; returns its Python."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    for step in steps:
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *step], check=True)
    return python


def main() -> None:
    """Makes both environments and prints what to run."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "~/.cache/taildistill-peers").expanduser()
    libraries = make(folder / "libraries", LIBRARIES)
    recbole = make(folder / "recbole", TORCH, ["--no-deps", *BARE], RECBOLE)
    print("From the project's folder:")
    for python, script in ((libraries, "accuracy"), (libraries, "speed"), (recbole, "recbole_metrics")):
        print(f"  {python} -m benchmarks.peers.{script}")
    print(f"  python -m benchmarks.peers.students NAME=runs/NAME/data --environments {folder}")


if __name__ == "__main__":
    main()
