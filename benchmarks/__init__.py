"""How fast the packages are, and how much memory they take, beside plain code and other libraries."""

import os

# Read by numpy's and torch's arithmetic when they are imported, here and in every process that is started from here.
os.environ["OMP_NUM_THREADS"] = "1"
