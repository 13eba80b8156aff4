// SIGTERM and SIGINT as something a thread can wait for, and the watchdog of the way out.
#ifndef GMA_SERVER_PROCESS_SIGNALS_H_
#define GMA_SERVER_PROCESS_SIGNALS_H_

#include "absl/time/time.h"

namespace gma {

// From now on SIGTERM and SIGINT are counted and end the process no more; SIGPIPE is ignored.
// Before, they end it at once: nothing is half started that would need care.
// THREADS: the main thread, once.
void CatchStopSignals();

// Waits until a stop signal that was not yet waited for has come, at most `timeout`.
// Returns whether one has.
bool WaitForStopSignal(absl::Duration timeout);

// Ends the process with code 1 after `timeout`, whatever hangs then.
void StartExitWatchdog(absl::Duration timeout);

}  // namespace gma

#endif  // GMA_SERVER_PROCESS_SIGNALS_H_
