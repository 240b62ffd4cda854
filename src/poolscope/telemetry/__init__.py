"""Subscribers that turn events and snapshots into OpenTelemetry, Prometheus and logs."""
