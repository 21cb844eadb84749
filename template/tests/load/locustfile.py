"""What the users of `make load` do. Yours: let them do what yours do, see https://docs.locust.io.

Each of them is one of these classes, and does one of its tasks after the other.
"""

# mypy: allow-subclassing-any, allow-untyped-decorators, allow-untyped-calls

from locust import FastHttpUser, between, task


class Visitor(FastHttpUser):
    """Somebody who looks at what came before asking again."""

    wait_time = between(0.5, 1.5)  # seconds
    insecure = False  # what has no valid certificate is not asked

    @task
    def large_response(self) -> None:
        """The example route."""
        self.client.get("/large-response?size_kb=100", name="/large-response")
