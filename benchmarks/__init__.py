"""The benchmarks behind `./dev bench`: each starts a broker and a database of its own, and prints ratios of one run."""
