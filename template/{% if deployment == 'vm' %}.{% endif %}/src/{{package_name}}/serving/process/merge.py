"""Merge the metric files of all processes.

The result equals that of prometheus_client's `MultiProcessCollector.merge`. That creates a sample
for each value of each process and frees them all at once, which blocks the event loop. Here each
sample is created when it is rendered.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

Labels = tuple[tuple[str, str], ...]


class Family:
    """A metric. Its series are keyed by the JSON of metric name, sample name and labels."""

    def __init__(self, kind: str, mode: str, documentation: str) -> None:
        self.kind = kind
        self.mode = mode.removeprefix("live")
        self.documentation = documentation
        self.values: dict[str, float] = {}
        self.timestamps: dict[str, float] = {}

    def add(self, series: str, value: float, timestamp: float, process: str) -> None:
        """Add the value of a process."""
        match self.mode:
            case "all":
                series += f"\n{process}"  # JSON has no line break
            case "min":
                value = min(value, self.values.get(series, value))
            case "max":
                value = max(value, self.values.get(series, value))
            case "mostrecent":
                if timestamp <= self.timestamps.get(series, 0.0):
                    return
                self.timestamps[series] = timestamp
            case _:
                value += self.values.get(series, 0.0)
        self.values[series] = value

    def metric(self, name: str) -> Metric:
        """Return the metric. Its samples can be read only once."""
        metric = Metric(name, self.documentation, self.kind)
        samples = self.buckets(name) if self.kind == "histogram" else self.samples()
        metric.samples = samples  # type: ignore[assignment]
        return metric

    def samples(self) -> Iterator[Sample]:
        """Yield a sample for each value."""
        for series in list(self.values):
            text, _, process = series.partition("\n")
            _, name, labels = json.loads(text)
            value = self.values.pop(series)
            yield Sample(name, labels | ({"pid": process} if process else {}), value)

    def buckets(self, name: str) -> Iterator[Sample]:
        """Yield the samples of a histogram, with cumulative buckets."""
        sums: dict[Labels, Sample] = {}
        counts: dict[Labels, dict[float, float]] = defaultdict(dict)
        for series in list(self.values):
            _, sample_name, labels = json.loads(series)
            value = self.values.pop(series)
            limit = labels.pop("le", None)
            child = tuple(sorted(labels.items()))
            if limit is None:
                sums[child] = Sample(sample_name, labels, value)
            else:
                counts[child][float(limit)] = value
        for child, by_limit in counts.items():
            total = 0.0
            for limit, count in sorted(by_limit.items()):
                total += count
                le: str = floatToGoString(limit)  # type: ignore[no-untyped-call]
                yield Sample(f"{name}_bucket", {**dict(child), "le": le}, total)
            yield Sample(f"{name}_count", dict(child), total)
        yield from sums.values()


def merge(files: Iterable[str]) -> Iterator[Metric]:
    """Yield the metrics in files named KIND[_MODE]_PROCESS.db; deleted files are skipped."""
    families: dict[str, Family] = {}
    for file in files:
        kind, *mode, process = Path(file).stem.split("_")
        try:
            values = MmapedDict.read_all_values_from_file(file)  # type: ignore[no-untyped-call]
        except FileNotFoundError:
            continue
        for key, value, timestamp, _ in values:
            # `["metric", "sample", {"label": "value"}, "documentation"]`: quotes in it are escaped.
            series, _, documentation = key.rpartition('}, "')
            name = key.split('"', 2)[1]
            family = families.get(name)
            if family is None:
                [text] = json.loads(f'["{documentation}')
                family = families[name] = Family(kind, "".join(mode), text)
            family.add(f"{series}}}]", value, timestamp, process)
    for name in list(families):
        yield families.pop(name).metric(name)
