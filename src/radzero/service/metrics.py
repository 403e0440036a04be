"""Count what a service does, in Prometheus' format."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """Counters of one service, separate from those of other services in the process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "radzero_requests", "Requests answered.", ("method", "route", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "radzero_request_seconds",
            "Time from a request's headers to the end of its answer.",
            ("route",),
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
            registry=self.registry,
        )
        self.pending = Gauge("radzero_pending_requests", "Requests that wait or are worked on.", registry=self.registry)
        self.refused = Counter(
            "radzero_films_refused", "Films that could not be read, by reason.", ("reason",), registry=self.registry
        )
        self.batch = Histogram(
            "radzero_batch_films", "Films per pass.", buckets=(1, 2, 4, 8, 16, 32, 64), registry=self.registry
        )
        self.cached = Gauge(
            "radzero_cached_bytes", "Memory of films that are kept.", ("cache",), registry=self.registry
        )
        self.hits = Gauge("radzero_cache_hits", "Films answered from the cache.", registry=self.registry)

    def text(self) -> bytes:
        """Return all counters in the text format that Prometheus scrapes."""
        return generate_latest(self.registry)
