"""Speed of the full-size pipeline on a GPU, against its rivals: ``python -m benchmarks.gpu``."""
