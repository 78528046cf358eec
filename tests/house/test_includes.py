import unittest

import include_rules
import source_tree


def read(path):
    return source_tree.text(path) if (source_tree.ROOT / path).is_file() else None


class IncludeDirection(unittest.TestCase):
    def test_every_include_of_the_house_goes_in_an_allowed_direction(self):
        found = []
        for path in source_tree.files(*source_tree.CPP, rooms=("common", "coordinator", "worker", "cli", "bench", "tests")):
            found += include_rules.violations(path.as_posix(), source_tree.text(path), read)
        self.assertFalse(found, "\n" + "\n".join(found))

    def test_every_cpp_file_lies_in_a_room(self):
        lost = [str(path) for path in source_tree.files(*source_tree.CPP) if include_rules.room_of(path.as_posix()) is None]
        self.assertEqual([], lost)


class PlantedViolations(unittest.TestCase):
    """The rules themselves: what they let pass and what they catch."""

    FILES = {"common/spec.h": '#include "absl/status/status.h"', "common/norm_scheme.h": "#include <cmath>",
             "common/clock.h": "", "common/clock.cc": ""}

    def check(self, path, include):
        return include_rules.violations(path, f"#pragma once\n#include {include}\n", self.FILES.get)

    def test_catches_edges_against_the_direction(self):
        for path, include in (
            ("coordinator/engine/engine.cc", '"coordinator/store/store.h"'),
            ("coordinator/engine/engine.cc", '"normlab/v1/run.pb.h"'),
            ("coordinator/scheduler/scheduler.cc", '"coordinator/engine/engine.h"'),
            ("coordinator/store/keys.h", '"coordinator/service/run_service.h"'),
            ("common/ids.h", '"coordinator/engine/state.h"'),
            ("worker/agent/main.cc", '"worker/trainer/spec.h"'),
            ("worker/trainer/main.cc", '"normlab/v1/trainer_event.pb.h"'),
            ("cli/watch.cc", '"coordinator/engine/run_state.h"'),
        ):
            self.assertTrue(self.check(path, include), f"{path} {include}")

    def test_catches_libraries_outside_their_place(self):
        for path, include in (
            ("worker/trainer/spec.cc", "<torch/types.h>"),
            ("worker/agent/child.cc", "<ATen/ATen.h>"),
            ("coordinator/store/memory_store.cc", "<rocksdb/db.h>"),
            ("coordinator/engine/engine.cc", "<grpcpp/grpcpp.h>"),
            ("common/clock.cc", "<google/protobuf/message.h>"),
            ("coordinator/service/run_service.cc", "<prometheus/counter.h>"),
            ("worker/trainer/train/trainer.cc", "<cuda_runtime.h>"),
        ):
            self.assertTrue(self.check(path, include), f"{path} {include}")

    def test_catches_common_parts_that_the_trainer_would_have_to_link(self):
        self.assertTrue(self.check("worker/trainer/spec.cc", '"common/spec.h"'))
        self.assertTrue(self.check("worker/trainer/spec.cc", '"common/clock.h"'))

    def test_allows_the_edges_of_the_table(self):
        for path, include in (
            ("worker/trainer/model/block.h", '"common/norm_scheme.h"'),
            ("coordinator/scheduler/scheduler.cc", '"coordinator/engine/state.h"'),
            ("coordinator/service/run_service.cc", '"normlab/v1/run.grpc.pb.h"'),
            ("coordinator/scheduler/scheduler_test.cc", '"coordinator/engine/testing/script.h"'),
            ("coordinator/main.cc", '"coordinator/scheduler/scheduler.h"'),
            ("coordinator/store/rocksdb_store.cc", "<rocksdb/db.h>"),
            ("worker/trainer/model/norm.cc", "<ATen/core/Tensor.h>"),
            ("cli/submit.cc", '"common/spec.h"'),
        ):
            self.assertEqual([], self.check(path, include), f"{path} {include}")


if __name__ == "__main__":
    unittest.main()
