"""Published weights to extractors: `conversion.convert` does it, `layouts` says which files there is a way for.

One module a file format, each with `read(path)`: the tensors that a network computes with, as float32, under the file's
own names and in the file's own layout (`onnx_graph` gives them in the order of their use, folded already). `modules`
turns them into our layers' kernels and biases, with `folding`; `sources` does for the files that are unlike any other.
"""
