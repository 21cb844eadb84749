"""The users of `make load`. Replace their tasks with what your users do: https://docs.locust.io

Each user is an instance of one of these classes and runs its tasks one after the other.
"""

# mypy: allow-subclassing-any, allow-untyped-decorators, allow-untyped-calls

from locust import FastHttpUser, between, task


class Visitor(FastHttpUser):
    """A user that waits between two requests."""

    wait_time = between(0.5, 1.5)  # seconds
    insecure = False  # require a valid certificate

    @task
    def large_response(self) -> None:
        """Request the example route."""
        self.client.get("/large-response")
