"""The recipes, techniques and runtimes that `toolkit new` writes as a starting point."""
