"""What the users of `make load` do. Let them do what yours do: https://docs.locust.io says how.

A user belongs to one of these classes, and does one of its tasks after the other.
"""

# mypy: allow-subclassing-any, allow-untyped-decorators, allow-untyped-calls

from locust import FastHttpUser, between, task


class Visitor(FastHttpUser):
    """Somebody who looks at what came before asking again."""

    wait_time = between(0.5, 1.5)  # seconds
    insecure = False  # https takes a valid certificate

    @task
    def large_response(self) -> None:
        """Ask for the example."""
        self.client.get("/large-response")
