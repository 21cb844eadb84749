"""PostgreSQL: its files, and a service with a real server."""
