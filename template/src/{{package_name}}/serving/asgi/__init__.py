"""What happens to each request and response."""
