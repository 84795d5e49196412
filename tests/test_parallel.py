"""Threads of compiled kernels."""

import subprocess
import sys

COUNT_THREADS = """
import numba
import torch
torch.set_num_threads(1)
from cryomorph.parallel import use_torch_threads
use_torch_threads()
print(numba.get_num_threads(), torch.get_num_threads())
torch.set_num_threads(2)
use_torch_threads()
print(numba.get_num_threads(), torch.get_num_threads())
"""


def test_kernels_use_the_threads_of_torch_and_leave_their_number_alone():
    environment = {"NUMBA_NUM_THREADS": "3", "OMP_NUM_THREADS": "3"}
    found = subprocess.run(
        [sys.executable, "-c", COUNT_THREADS], env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == ["1", "1", "2", "2"]


def test_the_command_line_starts_without_numba():
    script = "import sys, cryomorph.cli, cryomorph.config; print('numba' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
