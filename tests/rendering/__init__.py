"""What is rendered: questions, files, the project's own checks and tests, its pipeline."""
