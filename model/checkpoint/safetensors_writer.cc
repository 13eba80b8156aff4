#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <optional>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/checkpoint/safetensors.h"
#include "model/checkpoint/safetensors_header.h"
#include "nlohmann/json.hpp"

namespace gma {
namespace {

using Json = nlohmann::ordered_json;
using Item = const TensorMap::value_type*;

absl::Status SystemError(const std::string& path, const char* action) {
  return absl::InternalError(absl::StrCat(path, ": ", action, ": ", std::strerror(errno)));
}

absl::Status Refuse(std::string_view name, std::string_view reason) {
  return absl::InvalidArgumentError(absl::StrCat("tensor ", ShowTensorName(name), ": ",
                                                 absl::string_view(reason.data(), reason.size())));
}

bool IsUtf8(const std::string& text) {
  using Handler = Json::error_handler_t;
  const Json value = text;
  return value.dump(-1, ' ', false, Handler::ignore) ==
         value.dump(-1, ' ', false, Handler::replace);
}

// Whatever is written must be readable again.
absl::Status CheckWritable(const std::string& name, const TensorView& view) {
  if (name.empty() || name.size() > kMaxTensorNameBytes || name == kSafetensorsMetadata ||
      !IsUtf8(name)) {
    return Refuse(name, absl::StrCat("the name must be UTF-8 of 1 to ", kMaxTensorNameBytes,
                                     " bytes and not __metadata__"));
  }
  if (view.shape.size() > kMaxTensorDimensions) {
    return Refuse(name,
                  absl::StrCat(view.shape.size(), " dimensions, limit ", kMaxTensorDimensions));
  }
  const std::optional<uint64_t> bytes = TensorBytes(view.type, view.shape);
  if (!bytes.has_value()) return Refuse(name, "shape is negative or overflows");
  if (*bytes != view.data.size()) {
    return Refuse(name,
                  absl::StrCat("shape needs ", *bytes, " bytes, data has ", view.data.size()));
  }
  return absl::OkStatus();
}

// Wide elements first, then by name: with data that starts at a multiple of 8, every tensor is then
// aligned without holes.
std::vector<Item> FileOrder(const TensorMap& tensors) {
  std::vector<Item> items;
  for (const auto& item : tensors) items.push_back(&item);
  std::stable_sort(items.begin(), items.end(), [](Item a, Item b) {
    return TensorTypeBytes(a->second.type) > TensorTypeBytes(b->second.type);
  });
  return items;
}

// Length and JSON text, padded with spaces to a multiple of 8 bytes.
absl::StatusOr<std::string> MakeHeader(const std::vector<Item>& items) {
  if (items.size() > kMaxSafetensorsEntries) {
    return absl::InvalidArgumentError(
        absl::StrCat(items.size(), " tensors, limit ", kMaxSafetensorsEntries));
  }
  std::string json = "{";
  uint64_t offset = 0;
  for (Item item : items) {
    const auto& [name, view] = *item;
    Json entry;
    entry["dtype"] = TensorTypeName(view.type);
    entry["shape"] = view.shape;
    entry["data_offsets"] = {offset, offset + view.data.size()};
    offset += view.data.size();
    absl::StrAppend(&json, json.size() > 1 ? "," : "", Json(name).dump(), ":", entry.dump());
  }
  json += "}";
  json.resize((json.size() + 7) / 8 * 8, ' ');
  if (json.size() > kMaxSafetensorsHeaderBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("header of ", json.size(), " bytes, limit ", kMaxSafetensorsHeaderBytes));
  }
  std::string length;
  for (size_t i = 0; i < kSafetensorsLengthBytes; ++i) {
    length.push_back(static_cast<char>(static_cast<uint64_t>(json.size()) >> (8 * i)));
  }
  return length + json;
}

absl::Status WriteAll(int fd, const void* data, size_t size, const std::string& path) {
  const char* next = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t written = write(fd, next, size);
    if (written < 0) {
      if (errno == EINTR) continue;
      return SystemError(path, "write");
    }
    next += written;
    size -= static_cast<size_t>(written);
  }
  return absl::OkStatus();
}

absl::Status WriteContents(int fd, const std::string& header, const std::vector<Item>& items,
                           const std::string& path) {
  GMA_RETURN_IF_ERROR(WriteAll(fd, header.data(), header.size(), path));
  for (Item item : items) {
    GMA_RETURN_IF_ERROR(WriteAll(fd, item->second.data.data(), item->second.data.size(), path));
  }
  // mkstemp makes the file private; weights are not a secret.
  if (fchmod(fd, 0644) != 0) return SystemError(path, "chmod");
  if (fsync(fd) != 0) return SystemError(path, "fsync");
  return absl::OkStatus();
}

// The rename is durable once the directory is on disk.
absl::Status SyncDirectoryOf(const std::string& path) {
  // An absolute path has a parent, also for a bare file name.
  std::error_code error;
  const std::string directory = std::filesystem::absolute(path, error).parent_path().string();
  const int fd = open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return SystemError(directory, "open");
  absl::Cleanup close_directory = [fd] { close(fd); };
  if (fsync(fd) != 0) return SystemError(directory, "fsync");
  return absl::OkStatus();
}

}  // namespace

absl::Status WriteSafetensors(const std::string& path, const TensorMap& tensors) {
  for (const auto& [name, view] : tensors) GMA_RETURN_IF_ERROR(CheckWritable(name, view));
  const std::vector<Item> items = FileOrder(tensors);
  GMA_ASSIGN_OR_RETURN(const std::string header, MakeHeader(items));

  std::string temporary = absl::StrCat(path, ".tmp-XXXXXX");
  const int fd = mkostemp(temporary.data(), O_CLOEXEC);
  if (fd < 0) return SystemError(path, "create");
  absl::Cleanup remove_temporary = [&temporary] { unlink(temporary.c_str()); };
  absl::Status written = WriteContents(fd, header, items, path);
  // Network file systems report a failed write as late as here.
  if (close(fd) != 0 && written.ok()) written = SystemError(path, "close");
  GMA_RETURN_IF_ERROR(written);
  if (rename(temporary.c_str(), path.c_str()) != 0) return SystemError(path, "rename");
  std::move(remove_temporary).Cancel();
  return SyncDirectoryOf(path);
}

}  // namespace gma
