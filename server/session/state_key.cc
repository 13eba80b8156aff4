#include "server/session/state_key.h"

#include <fcntl.h>
#include <openssl/rand.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace gma {
namespace {

absl::Status Failed(const std::string& what, const std::string& path) {
  return absl::InternalError(absl::StrCat("cannot ", what, " ", path, ": ", strerror(errno)));
}

// A file that this process alone has open.
class File {
 public:
  explicit File(int descriptor) : descriptor_(descriptor) {}
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() {
    if (descriptor_ >= 0) close(descriptor_);
  }
  int get() const { return descriptor_; }

 private:
  const int descriptor_;
};

}  // namespace

StateKey StateKey::Random() {
  StateKey key;
  GMA_CHECK(RAND_bytes(key.bytes_.data(), static_cast<int>(key.bytes_.size())) == 1);
  return key;
}

absl::StatusOr<StateKey> StateKey::LoadOrMake(const std::string& path) {
  // Written beside and linked, so that a file of this name holds a whole key or is not there.
  StateKey key = Random();
  const std::string draft = absl::StrCat(path, ".", getpid());
  if (access(path.c_str(), F_OK) != 0) {
    const File file(open(draft.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (file.get() < 0) return Failed("make", draft);
    const bool written = write(file.get(), key.bytes_.data(), key.bytes_.size()) ==
                             static_cast<ssize_t>(key.bytes_.size()) &&
                         fsync(file.get()) == 0;
    const bool linked = written && (link(draft.c_str(), path.c_str()) == 0 || errno == EEXIST);
    absl::Status status = linked ? absl::OkStatus() : Failed("write", path);
    unlink(draft.c_str());
    if (!status.ok()) return status;
  }
  const File file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat info = {};
  if (file.get() < 0 || fstat(file.get(), &info) != 0) return Failed("open", path);
  if (!S_ISREG(info.st_mode) || info.st_size != static_cast<off_t>(key.bytes_.size())) {
    return absl::InvalidArgumentError(absl::StrCat(path, " has ", info.st_size,
                                                   " bytes, must be a regular file of ",
                                                   key.bytes_.size(), " or not be there"));
  }
  if ((info.st_mode & 077) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " can be used by others, must have mode 0600"));
  }
  if (read(file.get(), key.bytes_.data(), key.bytes_.size()) !=
      static_cast<ssize_t>(key.bytes_.size())) {
    return Failed("read", path);
  }
  key.kept_ = true;
  return key;
}

}  // namespace gma
