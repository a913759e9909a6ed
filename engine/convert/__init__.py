"""Published weights to extractors: `conversion.convert` does it, `layouts` says which files there is a way for.

There is one module for each file format. Its `read(path)` returns the tensors that a network computes with, as float32.
They have the file's own names and the file's own layout. `onnx_graph` gives them in the order of their use, folded
already. `modules` turns them into our layers' kernels and biases, with `folding`. `sources` does so for the files that
are unlike any other.
"""
