"""Units, workers and the Compose file; a booted Debian with systemd and nginx."""
