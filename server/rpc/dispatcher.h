// The thread on which all calls live. Reactions of gRPC, notices of token streams and answers of
// the engine only enqueue here, so a call needs no lock, and writing to sockets (tens of
// microseconds a message) costs the engine's thread nothing.
#ifndef GMA_SERVER_RPC_DISPATCHER_H_
#define GMA_SERVER_RPC_DISPATCHER_H_

#include <thread>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/functional/any_invocable.h"
#include "absl/time/time.h"
#include "base/mailbox.h"

namespace gma {

// A streaming call while gRPC knows it. All methods are called on the dispatcher's thread.
class LiveCall {
 public:
  virtual ~LiveCall() = default;
  // About once a second: for heartbeats.
  virtual void Tick() = 0;
  // The server is going down: end with UNAVAILABLE.
  virtual void EndForShutdown() = 0;
};

// THREADS: Post and EndAll from any; Add and Remove on the dispatcher's own.
class Dispatcher {
 public:
  using Task = absl::AnyInvocable<void()>;

  // `tick`: time between two ticks of every live call.
  explicit Dispatcher(absl::Duration tick);
  // Runs what is queued and joins the thread.
  ~Dispatcher();
  Dispatcher(const Dispatcher&) = delete;
  Dispatcher& operator=(const Dispatcher&) = delete;

  // Runs `task` on the thread, in order of posting; drops it when the dispatcher is stopping. Each
  // call has a handful of tasks under way at most, so the queue is bounded by the calls.
  void Post(Task task);

  // REQUIRES: `call` stays until Remove.
  void Add(LiveCall* call) { calls_.insert(call); }
  void Remove(LiveCall* call) { calls_.erase(call); }
  // Ends every live call, and those that are added later.
  void EndAll();
  bool ending() const { return ending_; }

 private:
  void Run();

  const absl::Duration tick_;
  Mailbox<Task> mailbox_;
  bool stopping_ = false;  // these three belong to the thread
  bool ending_ = false;
  absl::flat_hash_set<LiveCall*> calls_;
  std::thread thread_;
};

}  // namespace gma

#endif  // GMA_SERVER_RPC_DISPATCHER_H_
