"""The most memory is that of one training, not of whatever the process did before."""

import sys

import numpy as np
import pytest
import torch

from probe.peak import peak_bytes, reset_peak

CPU = torch.device("cpu")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can start anew")
def test_memory_given_back_before_does_not_count():
    big = np.ones(32_000_000)  # 256 MB
    before = peak_bytes(CPU)
    del big
    reset_peak(CPU)
    after = peak_bytes(CPU)
    assert before - after > 200_000_000
    np.ones(32_000_000)
    assert peak_bytes(CPU) - after > 200_000_000
