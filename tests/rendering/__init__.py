"""Rendering: questions, files, the project's own checks and tests, its pipeline."""
