"""Other packages' operators, solvers and benchmarks, to and fro; each module needs its package."""
