"""The fuzzer of tools/fuzz.py: corpus, mutations by structure, planted pictures, a pool of bounded workers."""
