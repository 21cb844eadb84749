"""A layered run against the bare one, and against the list of named exceptions."""

from collections import Counter
from dataclasses import dataclass

from .suite import HERE, Outcomes, Suite

# More than these are no accident.
MOST_AGAIN = 100

OUTCOMES = ("passed", "failed", "skipped", "xfailed")


@dataclass(frozen=True)
class Comparison:
    """The changes of a suite's outcomes by the layer."""

    bare: Outcomes
    layered: Outcomes
    exceptions: dict[str, str]

    @property
    def changed(self) -> set[str]:
        """The tests whose outcome the layer changes. Upstream's own failures don't count."""
        every = self.bare.keys() | self.layered.keys()
        return {
            test
            for test in every
            if self.bare.get(test) != "failed" and self.layered.get(test) != self.bare.get(test)
        }

    @property
    def unexplained(self) -> list[str]:
        """The changed tests that are not named."""
        return sorted(t for t in self.changed if not {t, function(t)} & self.exceptions.keys())

    @property
    def stale(self) -> list[str]:
        """The names for which no test changes. Those of upstream's own failures may stay."""
        failed = {test for test, outcome in self.bare.items() if outcome == "failed"}
        needed = self.changed | failed
        return sorted(self.exceptions.keys() - needed - {function(test) for test in needed})

    def __str__(self) -> str:
        lines = [f"{'':8}" + "".join(f"{outcome:>9}" for outcome in OUTCOMES)]
        for name, outcomes in (("bare", self.bare), ("layered", self.layered)):
            counts = Counter(outcomes.values())
            lines.append(f"{name:8}" + "".join(f"{counts[outcome]:9}" for outcome in OUTCOMES))
        lines.append(f"named exceptions: {len(self.exceptions)}")
        for heading, tests in (
            ("changed by the layer, and not named", self.unexplained),
            ("named, but not changed by the layer", self.stale),
        ):
            for test in tests:
                was, now = self.bare.get(test, "absent"), self.layered.get(test, "absent")
                lines.append(f"{heading}: {test} ({was}, layered {now})")
        return "\n".join(lines)


def function(test: str) -> str:
    """The id of a test without its parameters; it names the test with any of them."""
    return test.partition("[")[0]


def compare(suite: Suite, errors: str) -> Comparison:
    """Run the suite with the layer; what differs from the list runs once more, alone."""
    names = [suite.name] + [f"{suite.name}-problems"] * (errors == "problems")
    named = {test: why for name in names for test, why in exceptions(name).items()}
    found = Comparison(suite.bare(), suite.layered(errors), named)
    known = found.layered.keys() | {function(test) for test in found.layered}
    again = [test for test in found.unexplained + found.stale if test in known]
    if 0 < len(again) <= MOST_AGAIN:
        layered = found.layered | suite.layered(errors, only=again)
        found = Comparison(found.bare, layered, named)
    (suite.directory / f"{suite.name}-{errors}.report").write_text(f"{found}\n")
    return found


def exceptions(name: str) -> dict[str, str]:
    """The tests of a list with the reason: the comment above them, up to the next empty line.

    Raises `ValueError` for a test without a reason, or one that is listed twice.
    """
    found: dict[str, str] = {}
    reason = ""
    for line in (HERE / "exceptions" / f"{name}.txt").read_text().splitlines():
        if line.startswith("#"):
            reason = f"{reason} {line.removeprefix('#').strip()}".strip()
        elif not line:
            reason = ""
        elif not reason or line in found:
            raise ValueError(f"{name}: {line}: {'twice' if line in found else 'no reason'}")
        else:
            found[line] = reason
    return found
