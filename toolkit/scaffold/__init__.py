"""The recipes and techniques that `toolkit new` writes as a starting point."""
