"""How the metrics of pools become data points; `otel_export` is what applications call."""
