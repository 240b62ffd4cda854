"""What Grafana, Prometheus and Alertmanager are given; `grafana/build.py` writes most of it."""
