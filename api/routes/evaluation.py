"""Saved probes on the test rows of their run."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from api.dependencies import ServicesDep
from api.evaluation import test_predictions
from api.page_schemas import TestPredictions

router = APIRouter(prefix="/v1/probes", tags=["probes"])

MAX_POINTS = 5_000


@router.get("/{name}/predictions")
def read_test_predictions(
    name: str,
    services: ServicesDep,
    limit: Annotated[int, Query(ge=0, le=MAX_POINTS, description="Points at most.")] = 1_000,
) -> TestPredictions:
    """Score with its interval, and predicted and true value of each test row.

    A probe that is not in a run of `probe grid` has no interval and no rows.
    """
    info = services.shelf.info(name)
    return test_predictions(name, info, services.shelf.place(name), limit)
