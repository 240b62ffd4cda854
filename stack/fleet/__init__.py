"""A simulated fleet: how much many processes with pools ask of a Collector and a Prometheus."""
