"""Run directories, checkpoints and the cache: interrupted runs resume, and runs reuse each other's results.

`files` writes files atomically. `record` is the file format: tensors and JSON with a checksum. `identity` computes the
keys that tell whether two results are the same. `results` converts a finished stage to a record and back, and
`training_state` does the same for a training in progress. `run_directory` is the folder of one run, `checkpoints` saves
its training state there, `cache` stores results for other runs, and `resume` looks a stage up in both. `lock` keeps two
runs from using the same folder.
"""
