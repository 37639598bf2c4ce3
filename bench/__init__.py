"""The benchmarks: each prints one JSON object as its last line, with ratios from one run."""
