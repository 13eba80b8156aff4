// System calls of the file store, each with its failpoint (docs: base/failpoint.h) and a message
// that names the path. ERRORS of all: kResourceExhausted for a full disk or quota, else kInternal.
#ifndef GMA_SERVER_STORE_DISK_FILE_H_
#define GMA_SERVER_STORE_DISK_FILE_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace gma {

// An open file descriptor, closed with its object; -1 for none.
class OwnedFd {
 public:
  OwnedFd() = default;
  explicit OwnedFd(int fd) : fd_(fd) {}
  OwnedFd(OwnedFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  OwnedFd& operator=(OwnedFd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~OwnedFd();

  int get() const { return fd_; }

 private:
  int fd_ = -1;
};

absl::Status DiskError(const std::string& path, const char* action, int error);

// Opens, or makes with mode 0600; `flags` as open(2). Follows no symbolic link. Point store.open.
absl::StatusOr<OwnedFd> OpenDiskFile(const std::string& path, int flags);
// Makes the directory with mode 0700; whether it was not there. Point store.mkdir.
absl::StatusOr<bool> MakeDirectory(const std::string& path);
// Writes all of it, however many calls that takes. Points store.write, and store.short_write which
// lets a call write half of what it was given.
absl::Status WriteAll(int fd, std::string_view bytes, const std::string& path);
// fdatasync(2): the bytes and the size. Point store.sync.
absl::Status SyncFile(int fd, const std::string& path);
// Makes the names in a directory durable. Point store.sync_directory.
absl::Status SyncDirectory(const std::string& path);
// Point store.rename.
absl::Status RenameFile(const std::string& from, const std::string& to);
// A file that is not there is no error. Point store.unlink.
absl::Status UnlinkFile(const std::string& path);
// Point store.truncate.
absl::Status TruncateFile(int fd, size_t bytes, const std::string& path);
// At most `limit` bytes from `offset` on; fewer only where the file ends. Point store.read.
absl::StatusOr<std::string> ReadDiskFile(const std::string& path, size_t offset = 0,
                                         size_t limit = SIZE_MAX);

}  // namespace gma

#endif  // GMA_SERVER_STORE_DISK_FILE_H_
