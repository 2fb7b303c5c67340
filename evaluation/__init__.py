"""Scores, simple regressors to compare with, calibration, reports and plots."""

from pathlib import Path

# `evaluate.load(str(METRIC_FOLDER))` gives the scores of a report as a metric of Hugging Face evaluate.
METRIC_FOLDER = Path(__file__).parent / "rlm_metrics"

__all__ = ["METRIC_FOLDER"]
