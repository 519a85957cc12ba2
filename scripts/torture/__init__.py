"""What `scripts/torture_*.py` share: samples, damages, operations, and workers that may die."""
