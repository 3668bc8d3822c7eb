import platform
import subprocess
import sys
from unittest.mock import MagicMock

import pytest
import torch

from osteosap.inference import predict
from osteosap.models import cpu_memory
from osteosap.training import devices
from osteosap.training.schedule import LoopConfig

FAULTS = """
import resource, sys, torch
from osteosap.models.cpu_memory import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
def one():
    torch.ones(2**24).sum()  # 64 MiB
for _ in range(10):
    one()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    one()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how):
    command = [sys.executable, "-c", FAULTS, how]
    return int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="no glibc")
@pytest.mark.slow
def test_blocks_that_were_freed_are_not_asked_from_the_kernel_again():
    assert faults("kept") < 0.5 * faults("given back")


def test_where_there_is_no_glibc_nothing_is_told(monkeypatch):
    monkeypatch.setattr(cpu_memory.platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(cpu_memory.ctypes, "CDLL", None)
    assert cpu_memory.keep_freed_memory() is False


def test_a_training_on_a_cpu_keeps_its_memory(monkeypatch):
    told = []
    monkeypatch.setattr(devices, "keep_freed_memory", lambda: told.append(True))
    devices.start_fabric(LoopConfig(device="cpu"))
    assert told


def test_segmenting_on_a_cpu_keeps_its_memory(monkeypatch):
    told = []
    monkeypatch.setattr(predict, "keep_freed_memory", lambda: told.append(True))
    monkeypatch.setattr(predict, "restore_network", lambda _: torch.nn.Identity())
    monkeypatch.setattr(predict, "predict_probabilities", lambda *_, **__: None)
    predict._infer(MagicMock(), MagicMock(), predict.SegmentConfig(device="cpu"), progress=None)
    assert told
