"""Scores, simple regressors to compare with, and reports."""
