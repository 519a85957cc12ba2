"""Probes: trained heads on stored embeddings.

Example: `load_probe(Path("run/probes/one-hot-mrna")).predict(tokens, lengths)`
"""

from probe.grid import Grid
from probe.plan import Plan, plan_run
from probe.predict import Predictions, predict_collection
from probe.runs import run_grid
from probe.saved import Probe, ProbeInfo, load_probe, read_probe_info, save_probe
from probe.splits import Split, load_split, random_split
from probe.tasks import Task
from probe.training import Trained, TrainingConfig, train_head

__all__ = [
    "Grid",
    "Plan",
    "Predictions",
    "Probe",
    "ProbeInfo",
    "Split",
    "Task",
    "Trained",
    "TrainingConfig",
    "load_probe",
    "load_split",
    "plan_run",
    "predict_collection",
    "random_split",
    "read_probe_info",
    "run_grid",
    "save_probe",
    "train_head",
]
