"""Process model: environment, shared output and metrics, secrets."""
