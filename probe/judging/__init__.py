"""What test scores allow to say: a design and predictions in, intervals and verdicts out."""

from probe.judging.design import Design, join_rows, read_design
from probe.judging.predicted import Predicted
from probe.judging.resample import Judged, Pair, Score, resample, resamples_within
from probe.judging.smallest import Candidate, Smallest, find_smallest

__all__ = [
    "Candidate",
    "Design",
    "Judged",
    "Pair",
    "Predicted",
    "Score",
    "Smallest",
    "find_smallest",
    "join_rows",
    "read_design",
    "resample",
    "resamples_within",
]
