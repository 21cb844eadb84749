"""How the processes run: environment, shared output and metrics, secrets."""
