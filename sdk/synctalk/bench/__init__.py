"""``synctalk bench``: how fast an avatar is on this machine, end to end. Its report: docs/benchmarking.md."""
