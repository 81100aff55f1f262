"""What is kept of a run so that nothing is lost and nothing is done twice.

`files` writes so that a crash leaves the old or the new file and nothing between; `record` is one file of tensors and
JSON that knows whether it is intact; `identity` says what determines a result; `results` turns a finished stage into a
record and back, `training_state` a training under way; `checkpoints` keeps both in the run directory, `cache` keeps
results for other runs; `lock` keeps two runs out of one place.
"""
