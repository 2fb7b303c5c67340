"""Checks changes against limits: `code-rlm check`, the action, the pre-commit hook and the pytest plugin."""
