"""The whole of it on one machine, without Docker: `python -m stack`."""

import os

# We start processes, which never use gRPC before they are another program; without this it warns
# of each.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
