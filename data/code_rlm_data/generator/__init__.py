"""Small algorithmic programs in many languages, generated from one internal form."""
