"""High-throughput image cloaking against face recognition."""
