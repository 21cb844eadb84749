"""A layered run against a bare one, and against the list of named exceptions."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from .suite import HERE, Outcomes, Suite

# More than these are no accident.
MOST_AGAIN = 100

OUTCOMES = ("passed", "failed", "skipped", "xfailed")


@dataclass(frozen=True)
class Comparison:
    """The changes of a suite's outcomes by the layer."""

    bare: Outcomes
    """Of the tests that do not pass with the layer."""
    layered: Outcomes
    exceptions: dict[str, str]

    @property
    def changed(self) -> set[str]:
        """The tests whose outcome the layer changes. Upstream's own failures don't count."""
        return {
            test
            for test, outcome in self.bare.items()
            if outcome != "failed" and self.layered[test] != outcome
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
        counts = Counter(self.layered.values())
        lines = [
            "".join(f"{outcome:>9}" for outcome in OUTCOMES),
            "".join(f"{counts[outcome]:9}" for outcome in OUTCOMES),
        ]
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
    """Return the id of a test without its parameters; it names the test with any of them."""
    return test.partition("[")[0]


def not_passed(outcomes: Outcomes) -> list[str]:
    """Return the tests that failed, were skipped, failed as expected, or did not run."""
    return sorted(test for test, outcome in outcomes.items() if outcome != "passed")


def compare(suite: Suite, errors: str, only: Sequence[str] = ()) -> Comparison:
    """Run the suite, or some of its tests, with the layer; run what did not pass without it.

    What differs from the list runs once more, alone.
    """
    names = [suite.name] + [f"{suite.name}-problems"] * (errors == "problems")
    named = {test: why for name in names for test, why in exceptions(name).items()}
    layered = suite.layered(errors, only)
    if not only:
        layered = dict.fromkeys(suite.collected(), "absent") | layered
    bare = suite.bare(not_passed(layered))
    found = Comparison(bare, layered, named)
    ran = {test for test, outcome in layered.items() if outcome != "absent"}
    known = ran | {function(test) for test in ran}
    again = [test for test in found.unexplained + found.stale if test in known]
    if 0 < len(again) <= MOST_AGAIN:
        layered |= suite.layered(errors, again)
        bare |= suite.bare([test for test in not_passed(layered) if test not in bare])
        found = Comparison(bare, layered, named)
    (suite.directory / f"{suite.name}-{errors}.report").write_text(f"{found}\n")
    return found


def exceptions(name: str) -> dict[str, str]:
    """Return the reason by test of a list: the comment above it, up to the next empty line.

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
