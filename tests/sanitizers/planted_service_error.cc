// Makes the error that its argument names inside the coordinator's services, on real connections; a sanitizer is to
// report it. Errors of the same shape as those that a service may have: between gRPC's threads, the loop's and a third.
#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include <atomic>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include "common/clock.h"
#include "coordinator/loop.h"
#include "coordinator/service/server.h"
#include "coordinator/service/testing/sample_commands.h"
#include "coordinator/store/memory_store.h"
#include "normlab/v1/experiment.grpc.pb.h"

namespace normlab {
namespace {

/// What the planted errors are made at, in front of the loop.
struct Plants {
  std::function<void()> on_grpc_thread = [] {};
  std::function<void()> on_loop_thread = [] {};
};

class PlantedPort final : public service::EnginePort {
 public:
  PlantedPort(service::EnginePort& engine, Plants plants) : engine_(engine), plants_(std::move(plants)) {}

  void Submit(engine::Command command, ReplyCallback done) override {
    plants_.on_grpc_thread();
    engine_.Submit(std::move(command), [this, done = std::move(done)](const auto& reply, const service::View* view) {
      plants_.on_loop_thread();
      done(reply, view);
    });
  }
  void Read(ReadCallback read) override { engine_.Read(std::move(read)); }

 private:
  service::EnginePort& engine_;
  const Plants plants_;
};

/// One call of a client over TCP that comes by both plants. False if it fails.
bool CreateExperiment(const std::string& address) {
  const auto stub = v1::ExperimentService::NewStub(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()));
  v1::CreateExperimentRequest request;
  *request.mutable_spec() = MakeSpec();
  request.set_request_id("planted");
  request.set_owner("ada");
  grpc::ClientContext context;
  v1::CreateExperimentResponse response;
  const grpc::Status status = stub->CreateExperiment(&context, request, &response);
  if (!status.ok()) std::fprintf(stderr, "CreateExperiment: %s\n", status.error_message().c_str());
  return status.ok();
}

bool Serve(Plants plants) {
  const RealClock clock;
  Metrics metrics;
  const auto store = *store::OpenMemoryStore(std::make_shared<store::MemoryDisk>());
  const auto loop = *Loop::Create(engine::Options(), *store, clock, metrics);
  PlantedPort port(*loop, std::move(plants));
  service::Server server(port, *store, {.address = {.host = "127.0.0.1"}, .http_address = "127.0.0.1:1"});
  for (service::TickListener* listener : server.listeners()) loop->AddListener(listener);
  if (const absl::Status listens = server.Listen(); !listens.ok()) {
    std::fprintf(stderr, "%s\n", listens.ToString().c_str());
    return false;
  }
  std::thread loop_thread([&] { loop->Run().IgnoreError(); });
  const bool is_served = CreateExperiment(server.address());
  server.Shutdown(absl::ZeroDuration());
  loop->Stop();
  loop_thread.join();
  return is_served;
}

/// A thread of ours counts without a lock before a call that counts, too, begins. Nothing but the time orders them: a
/// relaxed flag is no edge.
bool Race(std::function<void()> Plants::*place) {
  int counter = 0;
  std::atomic<bool> has_counted = false;
  std::thread third([&] {
    ++counter;
    has_counted.store(true, std::memory_order_relaxed);
  });
  while (!has_counted.load(std::memory_order_relaxed)) std::this_thread::yield();
  Plants plants;
  plants.*place = [&counter] { ++counter; };
  const bool is_served = Serve(std::move(plants));
  third.join();
  std::printf("%d were counted\n", counter);
  return is_served;
}

bool UseAfterFree() {
  auto owner = std::make_unique<int>(1);
  const volatile int* value = owner.get();
  Plants plants;
  plants.on_grpc_thread = [&owner] { owner.reset(); };
  plants.on_loop_thread = [value] { std::printf("%d is gone\n", *value); };
  return Serve(std::move(plants));
}

int Main(std::string_view error) {
  bool is_served = false;
  if (error == "none") {
    is_served = Serve({});
  } else if (error == "handler_race") {
    is_served = Race(&Plants::on_grpc_thread);
  } else if (error == "loop_race") {
    is_served = Race(&Plants::on_loop_thread);
  } else if (error == "loop_use_after_free") {
    is_served = UseAfterFree();
  } else {
    std::fprintf(stderr, "usage: normlab-planted-service-error none|handler_race|loop_race|loop_use_after_free\n");
    return 2;
  }
  std::printf("no sanitizer stopped this\n");
  return is_served ? 0 : 1;
}

}  // namespace
}  // namespace normlab

int main(int argc, char** argv) { return normlab::Main(argc == 2 ? argv[1] : ""); }
