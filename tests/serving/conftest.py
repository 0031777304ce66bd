import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "export"))


@pytest.fixture(scope="session")
def exported_run(tmp_path_factory):
    """A run folder with data, student and a bundle in export/."""
    from export_samples import make_run

    from distill.export_student import main

    config = make_run(tmp_path_factory.mktemp("served"))
    main(config)
    return config.folder
