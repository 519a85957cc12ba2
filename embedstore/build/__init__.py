"""Builds: records and a backbone in, published segments out."""

from embedstore.build.plan import Plan
from embedstore.build.run import BuildConfig, BuildReport, build, plan_build
from embedstore.store.failures import Failure

__all__ = ["BuildConfig", "BuildReport", "Failure", "Plan", "build", "plan_build"]
