"""A recipe file, checked."""
