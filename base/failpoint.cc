#include "base/failpoint.h"

#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/log.h"
#include "base/mutex.h"

namespace gma {
namespace {

constexpr int kCrash = -1;

struct Point {
  int action = 0;       // an errno, or kCrash
  int64_t only_at = 0;  // 0: each time
  int64_t reached = 0;
};
using Points = std::map<std::string, Point, std::less<>>;

struct Registry {
  Mutex mutex;
  Points points ABSL_GUARDED_BY(mutex);
  bool environment_read ABSL_GUARDED_BY(mutex) = false;
};

Registry& TheRegistry() {
  static Registry& registry = *new Registry;  // never destroyed: points are reached at exit too
  return registry;
}

absl::StatusOr<Point> ParseAction(absl::string_view text) {
  static constexpr std::pair<const char*, int> kActions[] = {{"EIO", EIO},     {"ENOSPC", ENOSPC},
                                                             {"EROFS", EROFS}, {"EDQUOT", EDQUOT},
                                                             {"EINTR", EINTR}, {"crash", kCrash}};
  const std::pair<absl::string_view, absl::string_view> parts =
      absl::StrSplit(text, absl::MaxSplits('@', 1));
  Point point;
  for (const auto& [name, action] : kActions) {
    if (parts.first == name) point.action = action;
  }
  const bool counted = text.find('@') != absl::string_view::npos;
  if (point.action == 0 ||
      (counted && (!absl::SimpleAtoi(parts.second, &point.only_at) || point.only_at < 1))) {
    return absl::InvalidArgumentError(
        absl::StrCat("failpoint action \"", text, "\" must be an errno or crash, and @N"));
  }
  return point;
}

absl::StatusOr<Points> Parse(std::string_view text) {
  Points points;
  for (absl::string_view item :
       absl::StrSplit(absl::string_view(text.data(), text.size()), ';', absl::SkipEmpty())) {
    const std::pair<std::string, absl::string_view> parts =
        absl::StrSplit(item, absl::MaxSplits('=', 1));
    const absl::StatusOr<Point> point = ParseAction(parts.second);
    if (!point.ok()) return point.status();
    points[parts.first] = *point;
  }
  return points;
}

void Replace(Registry& registry, Points points) ABSL_EXCLUSIVE_LOCKS_REQUIRED(registry.mutex) {
  registry.environment_read = true;
  failpoint_internal::maybe_on.store(!points.empty(), std::memory_order_relaxed);
  registry.points = std::move(points);
}

void ReadEnvironment(Registry& registry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(registry.mutex) {
  const char* text = std::getenv("GMA_FAILPOINTS");
  absl::StatusOr<Points> points = Parse(text == nullptr ? "" : text);
  if (!points.ok()) {
    GMA_LOG(kError, "failpoints_malformed", {{"reason", std::string(points.status().message())}});
    _exit(2);
  }
  Replace(registry, *std::move(points));
}

}  // namespace

namespace failpoint_internal {

std::atomic<bool> maybe_on{true};

int Reach(std::string_view name) {
  Registry& registry = TheRegistry();
  MutexLock lock(&registry.mutex);
  if (!registry.environment_read) ReadEnvironment(registry);
  const auto found = registry.points.find(name);
  if (found == registry.points.end()) return 0;
  Point& point = found->second;
  ++point.reached;
  if (point.only_at != 0 && point.reached != point.only_at) return 0;
  if (point.action == kCrash) {
    kill(getpid(), SIGKILL);  // nothing is flushed and nothing runs at exit, as in a power cut
    pause();
  }
  return point.action;
}

}  // namespace failpoint_internal

absl::Status SetFailpoints(std::string_view text) {
  absl::StatusOr<Points> points = Parse(text);
  if (!points.ok()) return points.status();
  Registry& registry = TheRegistry();
  MutexLock lock(&registry.mutex);
  Replace(registry, *std::move(points));
  return absl::OkStatus();
}

void ClearFailpoints() {
  Registry& registry = TheRegistry();
  MutexLock lock(&registry.mutex);
  Replace(registry, {});
}

}  // namespace gma
