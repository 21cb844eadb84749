"""What depends on the processes that run the service."""
