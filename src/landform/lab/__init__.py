"""The laboratory: plans, runs, stores, judges and reports studies."""
