// Flags of gma-loadgen.
#ifndef GMA_CLIENT_LOADGEN_FLAGS_H_
#define GMA_CLIENT_LOADGEN_FLAGS_H_

#include <cstdint>
#include <optional>
#include <string>

#include "client/lib/command_line.h"

namespace gma::client {

struct LoadFlags {
  ConnectionFlags connection;
  int32_t connections = 1;
  // Closed loop, unless `rate` is set: so many requests at once, each followed by another.
  int32_t streams = 1;
  double rate = 0;                   // open loop: requests a second, whatever the server does
  std::string arrivals = "poisson";  // or "constant"
  int64_t requests = 0;              // 0: no limit
  double duration = 0;               // seconds in which requests are started; 0: no limit
  double timeout = 600;              // seconds, of one request
  int64_t prompt_tokens = 32;
  int64_t max_tokens = 64;
  bool ignore_eos = false;
  double temperature = 0;
  uint64_t seed = 1;
  double slow_readers = 0;     // share of the requests, [0, 1]
  double slow_read_delay = 1;  // seconds a slow reader waits before each message
  double cancels = 0;          // share of the requests, [0, 1]
  bool json = false;
};

// Nothing when the program is to go on, else its exit code (see ParseCommandLine).
std::optional<int> ParseLoadFlags(int argc, char** argv, LoadFlags& flags);

}  // namespace gma::client

#endif  // GMA_CLIENT_LOADGEN_FLAGS_H_
