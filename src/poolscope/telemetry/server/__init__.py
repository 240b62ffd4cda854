"""Serves metrics over HTTP and HTTPS; `prometheus` is what applications call."""
