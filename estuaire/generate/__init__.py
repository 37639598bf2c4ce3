"""Made-up files in the formats of producers, of any size, for tests and benchmarks."""
