"""Opens files from untrusted sources within bounds of memory and time, without executing anything in them.

- `archive` and `pickle_scan` examine what a file would do before torch reads it.
- `allowed` decides which classes and functions a file may name; `refusal` explains a no.
- `unpickler` lets torch read the file, and `structure` checks the result.
- `skeleton` handles a module without its tensors, `naming` the names of its classes, `safetensors_file` tensors in
  safetensors, `state_dict` tensors that torch.save wrote; `finite` looks for NaN.
"""
