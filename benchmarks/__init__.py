"""Side-by-side measurements, one script per question: `python -m benchmarks.NAME [--quick] [--out FILE]`."""
