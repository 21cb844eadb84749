"""Benchmarks: figures for decisions. Unlike tests, they do not fail on a noisy machine."""
