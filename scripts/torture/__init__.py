"""What `scripts/torture_*.py` share: samples, damages, operations, and workers that may die."""

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before numpy: workers are forked, and threads are not
