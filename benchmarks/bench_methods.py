"""Milliseconds of every method, and the default over EVS and FlashVID: the part "methods" of `bench_cpu`."""

import sys

from benchmarks.bench_cpu import main

if __name__ == "__main__":
    sys.exit(main(["--parts", "methods", *sys.argv[1:]]))
