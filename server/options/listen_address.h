// Where a server listens: "host:port", as in --listen and --metrics_listen.
#ifndef GMA_SERVER_OPTIONS_LISTEN_ADDRESS_H_
#define GMA_SERVER_OPTIONS_LISTEN_ADDRESS_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace gma {

struct ListenAddress {
  std::string host;   // a name or an address, without brackets
  uint16_t port = 0;  // 0: the system picks one

  // "host:port", with brackets around an IPv6 address.
  std::string ToString() const;
};

// Reads "127.0.0.1:50051", "localhost:0" or "[::1]:9464".
// ERRORS: kInvalidArgument naming `flag`, the value and the form that is wanted.
absl::StatusOr<ListenAddress> ParseListenAddress(std::string_view flag, std::string_view text);

// Whether every address that the host stands for is a loopback address.
// ERRORS: kInvalidArgument naming `flag` and the host when it stands for none.
absl::StatusOr<bool> IsLoopback(std::string_view flag, const ListenAddress& address);

// Binds the port and lets it go again, so that a port in use is seen before a model is loaded.
// ERRORS: kFailedPrecondition naming `flag`, address and reason ("Address already in use").
absl::Status ProbePort(std::string_view flag, const ListenAddress& address);

}  // namespace gma

#endif  // GMA_SERVER_OPTIONS_LISTEN_ADDRESS_H_
