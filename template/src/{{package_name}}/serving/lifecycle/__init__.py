"""Lifecycle of a process: start, readiness, drain."""
