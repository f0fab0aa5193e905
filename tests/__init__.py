"""The tests. Threads of torch that wait for each other spin unless told otherwise, before torch
is imported: where the cores are shared, that made building the small pipelines 3 times slower."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
