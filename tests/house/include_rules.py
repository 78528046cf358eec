"""Who may include whom. The table; test_includes.py holds the tree to it."""

import re
from pathlib import PurePosixPath

# A room may include itself and what stands here: rooms, or single headers of a room. The longest prefix names a file's room.
ROOMS = {
    "proto": (),
    "common": ("proto",),
    "coordinator/engine": ("common",),
    "coordinator/scheduler": ("common", "coordinator/engine/state.h", "coordinator/engine/labels.h"),
    "coordinator/store": ("coordinator/engine", "proto", "common"),
    "coordinator/service": ("coordinator/engine", "coordinator/store", "proto", "common"),
    "coordinator/metrics": ("common", "coordinator/store/statistics.h"),
    # main and the loop wire the others.
    "coordinator": ("coordinator/engine", "coordinator/scheduler", "coordinator/store", "coordinator/service",
                    "coordinator/metrics", "proto", "common"),
    "worker/agent": ("proto", "common"),
    "worker/trainer": ("common",),  # Of common only headers that need nothing else: is_standalone_header.
    "cli": ("proto", "common"),
    "bench": ("proto", "common"),
    "bench/control": ("bench", "coordinator/scheduler", "proto", "common"),  # Passes in one process.
    "bench/gpu": ("bench", "worker/trainer", "common"),  # The operators that the kernels extend.
    "bench/schemes": ("bench", "worker/trainer", "common"),  # Updates of two models in one process.
    "tests": ("coordinator", "coordinator/engine", "coordinator/scheduler", "coordinator/store", "coordinator/service",
              "coordinator/metrics", "worker/agent", "cli", "proto", "common"),
}

# What a test of the coordinator sets up may come from all its rooms.
_COORDINATOR_TESTS = r"coordinator/.*(_test\.cc|/(testing|simulation)/.*)"

# main.cc sets LibTorch's threads and reports its version.
_TRAINER_WITH_TORCH = (
    r"worker/trainer/(model|train|device|diagnostics|cuda|testing)/.*|worker/trainer/([^/]*_test|main)\.cc|bench/(gpu|schemes)/.*")

# A library's headers -> the only files that may include them.
LIBRARIES = (
    (r"(torch|ATen|c10)/.*", _TRAINER_WITH_TORCH),
    (r".*\.pb\.h|(google/protobuf|grpcpp|grpc)/.*",
     r"common/(spec|grpc|pb_)[^/]*|coordinator/(store|service|testing)/.*|coordinator/[^/]*|worker/agent/.*|(cli|bench|tests)/.*"),
    (r"rocksdb/.*", r"coordinator/store/(rocksdb_store(_test)?\.cc|testing/faulty_disk\.h)"),
    (r"prometheus/.*", r"coordinator/metrics/.*|common/(disk_metrics|metrics_page|metrics_server)[^/]*|worker/agent/(run_)?metrics[^/]*|(coordinator|worker/agent)/main\.cc|worker/agent/.*_test\.cc"),
    (r"(cuda|nccl|cublas)[^/]*\.h", r"worker/trainer/cuda/.*"),
)

_INCLUDE = re.compile(r'^\s*#\s*include\s*["<]([^">]+)[">]', re.MULTILINE)


def includes_of(source):
    return _INCLUDE.findall(source)


def room_of(path):
    """The room of a file or of an included header; None for what is not ours."""
    if str(path).startswith("normlab/v1/"):
        return "proto"
    parents = [str(parent) for parent in PurePosixPath(path).parents]
    return next((parent for parent in parents if parent in ROOMS), None)


def is_standalone_header(header, read):
    """A header that has no .cc beside it and pulls in neither another room nor a control-plane library."""
    if read(header.removesuffix(".h") + ".cc") is not None:
        return False
    source = read(header)
    return source is not None and not any(
        re.match(r"absl/|grpc|google/protobuf|spdlog|.*\.pb\.h", include) for include in includes_of(source))


def violations(path, source, read):
    """Why each forbidden include of the file `path` is forbidden. `read` gives the text of a path, or None."""
    room = room_of(path)
    found = []
    for header in includes_of(source):
        target = room_of(header)
        if target is not None and target != room:
            allowed = ROOMS["coordinator"] if re.fullmatch(_COORDINATOR_TESTS, str(path)) else ROOMS[room]
            if target not in allowed and header not in allowed:
                found.append(f"{path}: includes {header}, but {room} may include only itself, {', '.join(allowed) or 'nothing'}")
            elif room == "worker/trainer" and not is_standalone_header(header, read):
                found.append(f"{path}: includes {header}, which is no header-only part of common")
        for pattern, users in LIBRARIES:
            if re.fullmatch(pattern, header) and not re.fullmatch(users, str(path)):
                found.append(f"{path}: includes {header}, which only files like {users} may")
    return found
