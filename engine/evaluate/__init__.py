"""The paper's evaluation and its critics': people, cloaks, trackers, presets, report.

It lies above bulk/, because it measures the files that `cloak run` writes and nothing else.
"""
