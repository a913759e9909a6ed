"""Readers of published weight files, one module a format, each `read(path) -> dict[str, np.ndarray]`.

All of them give the tensors that a network computes with, as float32, under the file's own names and in the file's
own layout: what those mean for one network is said where it is converted (tools/convert_weights.py), with `folding`.
"""
