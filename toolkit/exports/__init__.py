"""Files that other runtimes run: written by a plugin, opened in a clean process, compared and timed there."""
