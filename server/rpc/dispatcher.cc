#include "server/rpc/dispatcher.h"

#include <utility>

#include "absl/time/clock.h"

namespace gma {

Dispatcher::Dispatcher(absl::Duration tick)
    : tick_(tick), mailbox_(1), thread_([this] { Run(); }) {}

Dispatcher::~Dispatcher() {
  Post([this] { stopping_ = true; });
  thread_.join();
}

void Dispatcher::Post(Task task) { mailbox_.PostUnbounded(std::move(task)); }

void Dispatcher::EndAll() {
  Post([this] {
    ending_ = true;
    // A call that ends does not leave the set before gRPC is done with it.
    for (LiveCall* call : calls_) call->EndForShutdown();
  });
}

void Dispatcher::Run() {
  std::vector<Task> tasks;
  // Deadlines of waits alone: a jump of the wall clock moves one tick.
  absl::Time next_tick = absl::Now() + tick_;
  while (!stopping_) {
    mailbox_.WaitForMessage(std::max(absl::ZeroDuration(), next_tick - absl::Now()));
    mailbox_.TakeAll(tasks);
    for (Task& task : tasks) std::move(task)();
    tasks.clear();
    if (absl::Now() < next_tick) continue;
    for (LiveCall* call : calls_) call->Tick();
    next_tick = absl::Now() + tick_;
  }
  mailbox_.Close();
}

}  // namespace gma
