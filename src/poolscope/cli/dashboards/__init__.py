"""`poolscope dashboards push`: send boards to a Grafana by its HTTP API.

`grafana` speaks with the server and says in words what went wrong, `push` says what to send.
"""
