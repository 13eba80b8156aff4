#include "server/store/disk_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/failpoint.h"
#include "base/status_macros.h"

namespace gma {
namespace {

// Runs a system call that answers -1 and errno, or fails as the failpoint says.
template <typename Call>
absl::Status Checked(int injected, const std::string& path, const char* action, Call call) {
  if (injected != 0) return DiskError(path, action, injected);
  while (call() < 0) {
    if (errno != EINTR) return DiskError(path, action, errno);
  }
  return absl::OkStatus();
}

}  // namespace

OwnedFd::~OwnedFd() {
  if (fd_ >= 0) close(fd_);
}

absl::Status DiskError(const std::string& path, const char* action, int error) {
  const std::string message = absl::StrCat(path, ": ", action, ": ", std::strerror(error));
  if (error == ENOSPC || error == EDQUOT) return absl::ResourceExhaustedError(message);
  return absl::InternalError(message);
}

absl::StatusOr<OwnedFd> OpenDiskFile(const std::string& path, int flags) {
  int fd = -1;
  GMA_RETURN_IF_ERROR(Checked(GMA_FAILPOINT("store.open"), path, "open", [&] {
    return fd = open(path.c_str(), flags | O_CLOEXEC | O_NOFOLLOW, 0600);
  }));
  return OwnedFd(fd);
}

absl::StatusOr<bool> MakeDirectory(const std::string& path) {
  bool made = true;
  GMA_RETURN_IF_ERROR(Checked(GMA_FAILPOINT("store.mkdir"), path, "mkdir", [&] {
    made = mkdir(path.c_str(), 0700) == 0;
    return made || errno == EEXIST ? 0 : -1;
  }));
  return made;
}

absl::Status WriteAll(int fd, std::string_view bytes, const std::string& path) {
  while (!bytes.empty()) {
    size_t size = bytes.size();
    if (GMA_FAILPOINT("store.short_write") != 0) size = (size + 1) / 2;
    ssize_t written = 0;
    GMA_RETURN_IF_ERROR(Checked(GMA_FAILPOINT("store.write"), path, "write",
                                [&] { return written = write(fd, bytes.data(), size); }));
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

absl::Status SyncFile(int fd, const std::string& path) {
  return Checked(GMA_FAILPOINT("store.sync"), path, "fdatasync", [fd] { return fdatasync(fd); });
}

absl::Status SyncDirectory(const std::string& path) {
  GMA_ASSIGN_OR_RETURN(const OwnedFd directory, OpenDiskFile(path, O_RDONLY | O_DIRECTORY));
  return Checked(GMA_FAILPOINT("store.sync_directory"), path, "fsync",
                 [&directory] { return fsync(directory.get()); });
}

absl::Status RenameFile(const std::string& from, const std::string& to) {
  return Checked(GMA_FAILPOINT("store.rename"), to, "rename",
                 [&] { return std::rename(from.c_str(), to.c_str()); });
}

absl::Status UnlinkFile(const std::string& path) {
  return Checked(GMA_FAILPOINT("store.unlink"), path, "unlink", [&path] {
    const int result = unlink(path.c_str());
    return result < 0 && errno == ENOENT ? 0 : result;
  });
}

absl::Status TruncateFile(int fd, size_t bytes, const std::string& path) {
  return Checked(GMA_FAILPOINT("store.truncate"), path, "ftruncate",
                 [&] { return ftruncate(fd, static_cast<off_t>(bytes)); });
}

absl::StatusOr<std::string> ReadDiskFile(const std::string& path, size_t offset, size_t limit) {
  GMA_ASSIGN_OR_RETURN(const OwnedFd file, OpenDiskFile(path, O_RDONLY));
  struct stat info;
  if (fstat(file.get(), &info) != 0) return DiskError(path, "fstat", errno);
  const size_t size = static_cast<size_t>(info.st_size);
  std::string bytes(std::min(limit, size - std::min(offset, size)), '\0');
  size_t filled = 0;
  while (filled < bytes.size()) {
    ssize_t got = 0;
    GMA_RETURN_IF_ERROR(Checked(GMA_FAILPOINT("store.read"), path, "read", [&] {
      return got = pread(file.get(), bytes.data() + filled, bytes.size() - filled,
                         static_cast<off_t>(offset + filled));
    }));
    if (got == 0) break;  // shorter than it was a moment ago
    filled += static_cast<size_t>(got);
  }
  bytes.resize(filled);
  return bytes;
}

}  // namespace gma
