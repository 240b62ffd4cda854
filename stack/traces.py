"""A receiver of spans that keeps them: where exemplars lead to, as long as this process lives."""

import gzip
import json
import re
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any, Self

import grpc  # type: ignore[import-untyped]
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)

from stack.pages import Answer, Pages

MOST_TRACES = 200_000
"""Beyond these the oldest are forgotten."""

_QUESTION = re.compile(r"/api/traces/([0-9a-f]{32})")


class Traces(TraceServiceServicer):
    """Takes spans by OTLP and gives the names of those of a trace.

    By gRPC it listens at `endpoint`, by HTTP at `address`, where it is also asked as Tempo is:
    `/api/traces/<trace id>`.
    """

    def __init__(self) -> None:
        self._spans: OrderedDict[str, list[str]] = OrderedDict()
        self._lock = Lock()
        self._pages = Pages(self._answer, "127.0.0.1", 0)
        self.address = self._pages.address
        self._workers = ThreadPoolExecutor(1)
        self._server = grpc.server(self._workers)
        add_TraceServiceServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]
        self.endpoint = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def spans(self, trace_id: str) -> list[str]:
        """Return the names of the spans of a trace that have arrived."""
        with self._lock:
            return list(self._spans.get(trace_id, ()))

    def __len__(self) -> int:
        return len(self._spans)

    def Export(self, request: ExportTraceServiceRequest, context: Any) -> Any:
        """Take spans, as gRPC calls it."""
        with self._lock:
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        self._spans.setdefault(span.trace_id.hex(), []).append(span.name)
            while len(self._spans) > MOST_TRACES:
                self._spans.popitem(last=False)
        return ExportTraceServiceResponse()

    def __enter__(self) -> Self:
        self._pages.__enter__()
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait()
        self._workers.shutdown()
        self._pages.__exit__()

    def _answer(self, path: str, body: bytes) -> Answer:
        if path == "/v1/traces":
            zipped = body.startswith(b"\x1f\x8b")
            request = ExportTraceServiceRequest.FromString(
                gzip.decompress(body) if zipped else body
            )
            return 200, self.Export(request, None).SerializeToString()
        question = _QUESTION.fullmatch(path)
        if question is None:
            return 200, f"{len(self)} traces; ask /api/traces/<trace id>\n".encode()
        spans = self.spans(question[1])
        return (200 if spans else 404), json.dumps(spans).encode()
