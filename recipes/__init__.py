"""The recipes that ship with the toolkit: `toolkit recipes` lists them, `toolkit run mnist` runs one."""
