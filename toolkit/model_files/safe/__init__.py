"""Files that may come from anybody, opened without executing anything in them and within bounds of memory and time.

`zipped` and `pickled` look at what a file would do before torch reads it, `allowed` says which classes and functions
it may name, `restricted` lets torch read it, and `honest` looks at what came out. `skeleton` is a module without its
tensors, `tensorfile` tensors in safetensors, `statedict` those that torch.save wrote; `finite` finds NaN.
"""
