"""The benchmark suite: `python -m benchmarks.suite`. It measures cases round by round and writes docs/performance.md.

- `cases` lists the cases; `contacts`, `formats` and `services` make their contestants.
- `ours`, `psql` and `dlt` measure one load each; `processes` measures a command.
- `results` stores the samples; `marks`, `page` and `plot` turn them into the page.
"""
