"""Code-RLM."""
