"""Test settings that have to be there before torch is imported."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models: more threads only get in each other's way
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test needs the network
