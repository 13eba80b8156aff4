#include "server/options/listen_address.h"

#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/status_macros.h"

namespace gma {
namespace {

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

using AddressList = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

absl::StatusOr<AddressList> Resolve(std::string_view flag, const ListenAddress& address) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const std::string port = absl::StrCat(address.port);
  if (const int error = getaddrinfo(address.host.c_str(), port.c_str(), &hints, &found)) {
    return absl::InvalidArgumentError(
        absl::StrCat(View(flag), " is \"", address.ToString(),
                     "\", must be on a host of this machine: ", gai_strerror(error)));
  }
  return AddressList(found, &freeaddrinfo);
}

bool IsLoopbackAddress(const addrinfo& info) {
  if (info.ai_family == AF_INET) {
    const auto* in = reinterpret_cast<const sockaddr_in*>(info.ai_addr);
    return ntohl(in->sin_addr.s_addr) >> 24 == 127;
  }
  if (info.ai_family == AF_INET6) {
    const auto* in6 = reinterpret_cast<const sockaddr_in6*>(info.ai_addr);
    return IN6_IS_ADDR_LOOPBACK(&in6->sin6_addr);
  }
  return false;
}

}  // namespace

std::string ListenAddress::ToString() const {
  const bool v6 = host.find(':') != std::string::npos;
  return v6 ? absl::StrCat("[", host, "]:", port) : absl::StrCat(host, ":", port);
}

absl::StatusOr<ListenAddress> ParseListenAddress(std::string_view flag, std::string_view text) {
  const auto error = [&] {
    return absl::InvalidArgumentError(
        absl::StrCat(View(flag), " is \"", View(text),
                     "\", must be host:port with a port in [0, 65535], such as 127.0.0.1:50051"));
  };
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return error();
  std::string_view host = text.substr(0, colon);
  const std::string_view port = text.substr(colon + 1);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  } else if (host.find_first_of(":[]") != std::string_view::npos) {
    return error();
  }
  uint32_t number = 0;
  const bool digits =
      !port.empty() && port.find_first_not_of("0123456789") == std::string_view::npos;
  if (host.empty() || !digits || !absl::SimpleAtoi(View(port), &number) || number > 65535) {
    return error();
  }
  return ListenAddress{std::string(host), static_cast<uint16_t>(number)};
}

absl::StatusOr<bool> IsLoopback(std::string_view flag, const ListenAddress& address) {
  GMA_ASSIGN_OR_RETURN(const AddressList list, Resolve(flag, address));
  for (const addrinfo* info = list.get(); info != nullptr; info = info->ai_next) {
    if (!IsLoopbackAddress(*info)) return false;
  }
  return true;
}

absl::Status ProbePort(std::string_view flag, const ListenAddress& address) {
  if (address.port == 0) return absl::OkStatus();
  GMA_ASSIGN_OR_RETURN(const AddressList list, Resolve(flag, address));
  for (const addrinfo* info = list.get(); info != nullptr; info = info->ai_next) {
    const int fd = socket(info->ai_family, info->ai_socktype | SOCK_CLOEXEC, info->ai_protocol);
    if (fd < 0) continue;  // a family that this machine does not have
    const absl::Cleanup closer = [fd] { close(fd); };
    const int on = 1;
    // As the servers do: connections of an earlier run in TIME_WAIT are no hindrance.
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(fd, info->ai_addr, info->ai_addrlen) != 0 || listen(fd, 1) != 0) {
      return absl::FailedPreconditionError(absl::StrCat(
          View(flag), ": cannot listen on ", address.ToString(), ": ", std::strerror(errno)));
    }
  }
  return absl::OkStatus();
}

}  // namespace gma
