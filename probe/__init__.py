"""Probes: trained heads on stored embeddings.

Example: `load_probe(Path("run/probes/one-hot-mrna")).predict(tokens, lengths)`
"""

from probe.audit import Audit
from probe.audited import audit_collection
from probe.grid import Grid
from probe.plan import Plan, plan_run
from probe.predict import Predictions, predict_collection
from probe.runs import run_grid
from probe.saved import Probe, ProbeInfo, load_probe, read_probe_info, save_probe
from probe.split_rules import SplitRule, make_split
from probe.splits import Split, load_split, random_split
from probe.stream import Trained
from probe.tasks import Task
from probe.training import TrainingConfig, train_head

__all__ = [
    "Audit",
    "Grid",
    "Plan",
    "Predictions",
    "Probe",
    "ProbeInfo",
    "Split",
    "SplitRule",
    "Task",
    "Trained",
    "TrainingConfig",
    "audit_collection",
    "load_probe",
    "load_split",
    "make_split",
    "plan_run",
    "predict_collection",
    "random_split",
    "read_probe_info",
    "run_grid",
    "save_probe",
    "train_head",
]
