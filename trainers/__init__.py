"""Thin trainers over dataforge's shards. Each detector is one file, run as `python -m trainers.<name>`."""

import os

# Decoding threads and torch's share the cores. By default, torch's threads that wait for a preempted one burn the
# core that it needs. OpenMP reads this when torch is first imported, hence here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
