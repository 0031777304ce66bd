"""The doctor: what it finds, and that a missing package is fatal and has a remedy."""

import sys

from distill import doctor
from distill.doctor import doctor_command


def test_a_whole_installation_is_healthy(capsys):
    assert doctor_command([]) == 0
    printed = capsys.readouterr().out
    for word in ("python", "torch", "onnxruntime", "device", "disk", "hub"):
        assert word in printed


def test_a_missing_package_is_fatal_and_an_extra_is_not(monkeypatch, capsys):
    real = doctor.version
    monkeypatch.setattr(doctor, "version", lambda name: "" if name in ("polars", "wandb") else real(name))
    missing = {f.what: f for f in [*doctor.packages(), *doctor.extras()] if f.remedy}
    assert missing["polars"].fatal and missing["polars"].remedy == "pip install polars"
    assert not missing["wandb"].fatal and "taildistill[tracking]" in missing["wandb"].remedy
    assert doctor_command([]) == 1
    assert "taildistill[tracking]" in capsys.readouterr().out.replace("\n", "")


def test_the_hub_line_follows_the_environment(monkeypatch):
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    assert doctor.hub().found == "allowed"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "offline" in doctor.hub().found
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert doctor.hub().found == "allowed"


def test_little_disk_space_has_a_remedy(monkeypatch):
    usage = type("Usage", (), {"free": 3e9})
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage)
    assert "3 GB" in doctor.disk().found and doctor.disk().remedy


def test_an_old_interpreter_is_fatal(monkeypatch):
    assert not doctor.python().fatal
    monkeypatch.setattr(sys, "version_info", (3, 10, 4))
    assert doctor.python().fatal and "3.11" in doctor.python().remedy
