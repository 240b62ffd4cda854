"""How spans are made of events; `otel_spans` is what applications call."""
