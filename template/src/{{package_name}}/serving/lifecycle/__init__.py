"""The life of a process: start, readiness, drain."""
