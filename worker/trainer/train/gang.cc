#include "worker/trainer/train/gang.h"

#include <ATen/ops/zeros.h>
#include <arpa/inet.h>
#include <dlfcn.h>
#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <stdexcept>
#include <system_error>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <utility>

#include "worker/trainer/device/nccl.h"

namespace normlab::trainer {
namespace {

using StorePtr = c10::intrusive_ptr<c10d::Store>;

constexpr std::chrono::seconds kConnectTimeout{60};
constexpr std::chrono::seconds kCollectiveTimeout{120};

struct Address {
  std::string host;
  uint16_t port;
};

Address ParseAddress(const std::string& text) {
  const size_t colon = text.rfind(':');
  int port = 0;
  if (colon != std::string::npos) port = std::atoi(text.c_str() + colon + 1);
  if (colon == 0 || port <= 0 || port > 65535) {
    throw PermanentError(fmt::format("rendezvous is \"{}\", must be HOST:PORT as rank 0 reported it", text));
  }
  return {text.substr(0, colon), static_cast<uint16_t>(port)};
}

struct ListeningSocket {
  int fd;
  uint16_t port;
};

/// Listens on a free port of `host` alone; TCPStore itself would listen on all interfaces.
ListeningSocket Listen(const std::string& host) {
  const auto fail = [&](const std::string& what, const std::string& why) {
    throw std::runtime_error(fmt::format("rank 0 cannot {} bind_host {}: {}", what, host, why));
  };
  const addrinfo hints = {.ai_flags = AI_PASSIVE, .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
  addrinfo* found = nullptr;
  if (const int error = getaddrinfo(host.c_str(), "0", &hints, &found); error != 0)
    fail("resolve", gai_strerror(error));
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> address(found, freeaddrinfo);
  const int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_storage bound = {};
  socklen_t bound_size = sizeof(bound);
  if (fd < 0 || bind(fd, address->ai_addr, address->ai_addrlen) != 0 || listen(fd, SOMAXCONN) != 0 ||
      getsockname(fd, reinterpret_cast<sockaddr*>(&bound), &bound_size) != 0) {
    fail("listen on", std::generic_category().message(errno));
  }
  const in_port_t port = bound.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&bound)->sin6_port
                                                     : reinterpret_cast<sockaddr_in*>(&bound)->sin_port;
  return {fd, ntohs(port)};
}

StorePtr OpenStore(const TrainerSpec& spec, EventSink& events) {
  c10d::TCPStoreOptions options;
  options.timeout = kConnectTimeout;
  options.waitWorkers = false;
  if (spec.rank == 0) {
    const ListeningSocket socket = Listen(spec.bind_host);
    options.isServer = true;
    options.port = socket.port;
    options.masterListenFd = socket.fd;
    auto store = c10::make_intrusive<c10d::TCPStore>(spec.bind_host, options);
    events.Emit(RendezvousOpen{.address = fmt::format("{}:{}", spec.bind_host, socket.port)});
    return store;
  }
  const Address address = ParseAddress(spec.rendezvous);
  options.port = address.port;
  try {
    return c10::make_intrusive<c10d::TCPStore>(address.host, options);
  } catch (const std::exception& error) {
    throw std::runtime_error(fmt::format("rank {} cannot reach rank 0 at {} within {} s: {}", spec.rank,
                                         spec.rendezvous, kConnectTimeout.count(), error.what()));
  }
}

std::string ArrivalKey(int rank) { return fmt::format("arrived/{}", rank); }

/// Each rank leaves its digest; returns when all have.
void MeetAll(c10d::Store& store, const TrainerSpec& spec, const std::string& spec_digest) {
  store.set(ArrivalKey(spec.rank), std::vector<uint8_t>(spec_digest.begin(), spec_digest.end()));
  std::vector<std::string> keys;
  for (int rank = 0; rank < spec.world_size; ++rank) keys.push_back(ArrivalKey(rank));
  try {
    store.wait(keys, kConnectTimeout);
  } catch (const std::exception& error) {
    std::vector<int> missing;
    for (int rank = 0; rank < spec.world_size; ++rank) {
      if (!store.check({ArrivalKey(rank)})) missing.push_back(rank);
    }
    throw std::runtime_error(fmt::format("rank {} waited {} s for its gang of {}, missing ranks: {} ({})", spec.rank,
                                         kConnectTimeout.count(), spec.world_size, fmt::join(missing, ", "),
                                         error.what()));
  }
  const std::vector<uint8_t> first = store.get(ArrivalKey(0));
  if (std::string(first.begin(), first.end()) != spec_digest) {
    throw PermanentError(fmt::format("rank {} was given another run or attempt than rank 0 of its gang", spec.rank));
  }
}

c10::intrusive_ptr<c10d::Backend> MakeGloo(const TrainerSpec& spec, const StorePtr& store) {
  auto options = c10d::ProcessGroupGloo::Options::create(kCollectiveTimeout);
  options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname(spec.bind_host));
  return c10::make_intrusive<c10d::ProcessGroupGloo>(c10::make_intrusive<c10d::PrefixStore>("gloo", store), spec.rank,
                                                     spec.world_size, std::move(options));
}

/// Settings of c10d that the environment has not set otherwise; read when the backend is made.
void SetNcclDefaults() {
  // A collective that fails or takes too long: abort the communicators, then end the process. The agent sees that.
  setenv("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1", /*overwrite=*/0);
  // The watchdog itself is watched: a thread that hangs in a driver call ends the process as well.
  setenv("TORCH_NCCL_ENABLE_MONITORING", "1", /*overwrite=*/0);
  setenv("TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC", "180", /*overwrite=*/0);
}

c10::intrusive_ptr<c10d::Backend> MakeNcclBackend(const TrainerSpec& spec, const StorePtr& store) {
  auto* const make = reinterpret_cast<MakeNccl*>(dlsym(RTLD_DEFAULT, kMakeNccl));
  if (make == nullptr) {
    throw std::runtime_error(
        "a gang on GPUs needs NCCL, which is in libnormlab_cuda.so, and that is not loaded: take a build with CUDA "
        "(./dev build cuda, or the bundle of ./dev bundle cuda)");
  }
  SetNcclDefaults();
  return c10::intrusive_ptr<c10d::Backend>::reclaim(make(c10::make_intrusive<c10d::PrefixStore>("nccl", store),
                                                         spec.rank, spec.world_size, kCollectiveTimeout.count()));
}

class WorkPending : public Gang::Pending {
 public:
  explicit WorkPending(c10::intrusive_ptr<c10d::Work> work) : work_(std::move(work)) {}
  void Wait() override { work_->wait(); }

 private:
  c10::intrusive_ptr<c10d::Work> work_;
};

}  // namespace

struct Gang::Impl {
  StorePtr store;
  c10::intrusive_ptr<c10d::Backend> gloo;
  c10::intrusive_ptr<c10d::Backend> nccl;  // Null on a CPU.

  /// Of the library that carries such a tensor.
  c10d::Backend& For(const at::Tensor& tensor) const { return tensor.is_cuda() ? *nccl : *gloo; }
};

Gang::Gang(const TrainerSpec& spec, const std::string& spec_digest, EventSink& events, c10::Device device)
    : rank_(spec.rank), world_size_(spec.world_size) {
  if (world_size_ == 1) return;
  impl_ = std::make_unique<Impl>();
  impl_->store = OpenStore(spec, events);
  MeetAll(*impl_->store, spec, spec_digest);
  impl_->gloo = MakeGloo(spec, impl_->store);
  if (device.is_cuda()) impl_->nccl = MakeNcclBackend(spec, impl_->store);
}

Gang::~Gang() = default;

void Gang::Broadcast(const std::vector<at::Tensor>& tensors, int from) {
  if (!impl_) return;
  c10d::BroadcastOptions options;
  options.rootRank = from;
  for (const at::Tensor& tensor : tensors) {
    std::vector<at::Tensor> list = {tensor.detach()};
    impl_->For(tensor).broadcast(list, options)->wait();
  }
}

void Gang::SendToFirst(const at::Tensor& tensor, int from) {
  if (!impl_ || from == 0) return;
  std::vector<at::Tensor> list = {tensor.detach()};
  if (rank_ == from) impl_->For(tensor).send(list, /*dstRank=*/0, /*tag=*/from)->wait();
  if (rank_ == 0) impl_->For(tensor).recv(list, from, /*tag=*/from)->wait();
}

void Gang::Sum(const at::Tensor& tensor) {
  if (const auto pending = StartSum(tensor)) pending->Wait();
}

std::unique_ptr<Gang::Pending> Gang::StartSum(const at::Tensor& tensor) {
  if (!impl_) return nullptr;
  std::vector<at::Tensor> list = {tensor};
  return std::make_unique<WorkPending>(impl_->For(tensor).allreduce(list, c10d::AllreduceOptions()));
}

void Gang::Barrier() { Sum(at::zeros({1})); }

}  // namespace normlab::trainer
