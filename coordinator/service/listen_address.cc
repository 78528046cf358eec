#include "coordinator/service/listen_address.h"

#include <absl/strings/numbers.h>
#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <system_error>

#include "common/status.h"

namespace normlab::service {
namespace {

bool IsNumeric(const std::string& host) {
  in_addr ipv4{};
  in6_addr ipv6{};
  return inet_pton(AF_INET, host.c_str(), &ipv4) == 1 || inet_pton(AF_INET6, host.c_str(), &ipv6) == 1;
}

absl::Status Bind(const ListenAddress& address, int fd) {
  const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  sockaddr_storage storage{};
  socklen_t size;
  if (address.host.find(':') != std::string::npos) {
    auto* ipv6 = reinterpret_cast<sockaddr_in6*>(&storage);
    ipv6->sin6_family = AF_INET6;
    ipv6->sin6_port = htons(static_cast<uint16_t>(address.port));
    inet_pton(AF_INET6, address.host.c_str(), &ipv6->sin6_addr);
    size = sizeof(*ipv6);
  } else {
    auto* ipv4 = reinterpret_cast<sockaddr_in*>(&storage);
    ipv4->sin_family = AF_INET;
    ipv4->sin_port = htons(static_cast<uint16_t>(address.port));
    inet_pton(AF_INET, address.host.c_str(), &ipv4->sin_addr);
    size = sizeof(*ipv4);
  }
  if (bind(fd, reinterpret_cast<sockaddr*>(&storage), size) == 0 && listen(fd, 1) == 0) return absl::OkStatus();
  const int error = errno;
  return absl::UnavailableError(
      fmt::format("cannot listen on {}: {}{}", address.ToString(), std::generic_category().message(error),
                  error == EADDRINUSE ? "; another program has the port, choose another" : ""));
}

}  // namespace

std::string ListenAddress::ToString() const {
  return host.find(':') == std::string::npos ? fmt::format("{}:{}", host, port) : fmt::format("[{}]:{}", host, port);
}

bool ListenAddress::is_loopback() const {
  in_addr ipv4{};
  if (inet_pton(AF_INET, host.c_str(), &ipv4) == 1) return (ntohl(ipv4.s_addr) >> 24) == 127;
  in6_addr ipv6{};
  return inet_pton(AF_INET6, host.c_str(), &ipv6) == 1 && IN6_IS_ADDR_LOOPBACK(&ipv6);
}

absl::StatusOr<ListenAddress> ParseListenAddress(const std::string& text) {
  const size_t colon = text.rfind(':');
  ListenAddress address;
  if (colon == std::string::npos || colon == 0 || !absl::SimpleAtoi(text.substr(colon + 1), &address.port) ||
      address.port < 0 || address.port > 65535) {
    return absl::InvalidArgumentError(
        fmt::format("'{}' is no HOST:PORT with a port from 0 to 65535, such as 127.0.0.1:7070", text));
  }
  address.host = text.substr(0, colon);
  if (address.host.size() > 2 && address.host.front() == '[' && address.host.back() == ']') {
    address.host = address.host.substr(1, address.host.size() - 2);
  }
  if (address.host == "localhost") address.host = "127.0.0.1";
  if (!IsNumeric(address.host)) {
    return absl::InvalidArgumentError(fmt::format(
        "'{}': the host must be a numeric address of this machine, such as 127.0.0.1, or 0.0.0.0 for all", text));
  }
  return address;
}

absl::Status ProbeListen(const ListenAddress& address) {
  const int family = address.host.find(':') == std::string::npos ? AF_INET : AF_INET6;
  const int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) {
    return absl::UnavailableError(
        fmt::format("cannot listen on {}: {}", address.ToString(), std::generic_category().message(errno)));
  }
  absl::Status bound = Bind(address, fd);
  close(fd);
  return bound;
}

}  // namespace normlab::service
