"""How Accelerate is set up: trackers, and what is said where a package is missing."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from small_job import accuracy, small_job

from distill.engine.accelerator import make_accelerator
from distill.engine.fsdp import configure_fsdp
from distill.engine.local import Local
from distill.engine.loop import BEST, fit
from distill.errors import UserError
from distill.job import Job


def test_tensorboard_gets_losses_and_validation(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logs = tmp_path / "logs"
    accelerator = make_accelerator("tensorboard", logs)
    assert not logs.exists()  # a stage may clear its folder before training starts
    curve = fit(small_job(), accelerator, tmp_path / "work", accuracy, "small")
    events = EventAccumulator(str(logs / "small"))
    events.Reload()
    validation = events.Scalars("validation")
    assert [event.step for event in validation] == [point["step"] for point in curve]
    assert [event.value for event in validation] == pytest.approx([point["validation"] for point in curve], abs=1e-5)
    assert {"loss", "error", "train/loss", "train/rate"} <= set(events.Tags()["scalars"])


def test_one_process_of_accelerate_equals_local(tmp_path):
    fit(small_job(), make_accelerator(), tmp_path / "accelerate", accuracy, "small")
    fit(small_job(), Local(), tmp_path / "local", accuracy, "small")
    assert (tmp_path / "accelerate" / BEST).read_bytes() == (tmp_path / "local" / BEST).read_bytes()


def test_missing_deepspeed_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(UserError, match=r"pip install taildistill\[deepspeed\]"):
        make_accelerator()


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed")
def test_missing_wandb_names_the_extra(tmp_path):
    with pytest.raises(UserError, match=r"pip install taildistill\[tracking\]"):
        make_accelerator("wandb", tmp_path)


def test_fsdp_refuses_a_student_and_its_first_version():
    plugin = SimpleNamespace(fsdp_version=2)
    accelerator = SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin))
    with pytest.raises(UserError, match=r"ddp\.yaml or cpu2\.yaml"):
        configure_fsdp(accelerator, small_job())
    plugin.fsdp_version = 1
    with pytest.raises(UserError, match="fsdp_version: 2"):
        configure_fsdp(accelerator, small_job())


def test_fsdp_splits_the_layers_of_a_body_one_by_one():
    from transformers import BertConfig, BertModel

    body = BertModel(BertConfig(vocab_size=20, hidden_size=8, num_attention_heads=2, intermediate_size=8))
    plugin = SimpleNamespace(fsdp_version=2)
    job = Job(torch.nn.ModuleList([body]), lambda epoch: [], lambda rows: {}, epochs=1, learning_rate=0.1)
    configure_fsdp(SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin)), job)
    assert "BertLayer" in plugin.transformer_cls_names_to_wrap
