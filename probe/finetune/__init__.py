"""Fine-tuning on the loaders, heads and statistics of probes: full, and low-rank by peft.

Only what needs no torch is imported here.
"""

from probe.finetune.method import FinetuneConfig, FinetuneGrid, Method, parse_alphas
from probe.finetune.plan import FinetunePlan, plan_finetuning, read_like

__all__ = [
    "FinetuneConfig",
    "FinetuneGrid",
    "FinetunePlan",
    "Method",
    "parse_alphas",
    "plan_finetuning",
    "read_like",
]
