"""Speed and memory, printed: `python -m benchmarks [NAME ...]`. Each module is one benchmark with a `main()`."""
