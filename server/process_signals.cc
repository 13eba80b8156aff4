#include "server/process_signals.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdint>

#include "base/check.h"

namespace gma {
namespace {

int stop_events = -1;  // an eventfd that counts one for each read: handlers may only write to it

extern "C" void CountStopSignal(int) {
  const uint64_t one = 1;
  // A full counter means that a signal is waiting anyway.
  [[maybe_unused]] const ssize_t written = write(stop_events, &one, sizeof(one));
}

extern "C" void ExitOnAlarm(int) {
  static constexpr char kLine[] =
      "{\"level\":\"error\",\"event\":\"exit_watchdog\",\"reason\":\"shutdown hangs\"}\n";
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, kLine, sizeof(kLine) - 1);
  _exit(1);
}

void Handle(int signal, void (*handler)(int)) {
  struct sigaction action = {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;
  GMA_CHECK(sigaction(signal, &action, nullptr) == 0);
}

}  // namespace

void CatchStopSignals() {
  stop_events = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE);
  GMA_CHECK(stop_events >= 0);
  Handle(SIGTERM, &CountStopSignal);
  Handle(SIGINT, &CountStopSignal);
  Handle(SIGPIPE, SIG_IGN);
}

bool WaitForStopSignal(absl::Duration timeout) {
  pollfd waiter = {.fd = stop_events, .events = POLLIN, .revents = 0};
  const bool forever = timeout == absl::InfiniteDuration();
  // An interrupted poll says that the handler has just run: look again.
  while (poll(&waiter, 1, forever ? -1 : static_cast<int>(absl::ToInt64Milliseconds(timeout))) <
         0) {
  }
  uint64_t count = 0;
  return read(stop_events, &count, sizeof(count)) == sizeof(count);
}

void StartExitWatchdog(absl::Duration timeout) {
  Handle(SIGALRM, &ExitOnAlarm);
  alarm(static_cast<unsigned>(std::max<int64_t>(1, absl::ToInt64Seconds(timeout))));
}

}  // namespace gma
