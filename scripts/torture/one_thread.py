"""Import it before numpy and torch: workers are forked, and threads of the parent are not."""

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
