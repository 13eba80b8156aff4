#include <sys/resource.h>

#include <csignal>
#include <cstring>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "model/checkpoint/safetensors.h"
#include "model/checkpoint/safetensors_header.h"
#include "tests/support/safetensors_bytes.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace gma {
namespace {

using ::gma::testing::FloatView;
using ::gma::testing::IsOk;
using ::gma::testing::StatusIs;
using ::gma::testing::TempDir;
using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

size_t FilesIn(const TempDir& dir) {
  size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(dir.path())) {
    ++count;
  }
  return count;
}

TEST(WriteSafetensors, TheReaderGivesBackWhatWasWritten) {
  const std::vector<uint8_t> bytes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const absl::Span<const uint8_t> data(bytes);
  const TensorMap written = {
      {"bytes", {TensorType::kUint8, {3}, data.subspan(0, 3)}},
      {"half", {TensorType::kFloat16, {1, 1}, data.subspan(2, 2)}},
      {"brain", {TensorType::kBFloat16, {2}, data.subspan(4, 4)}},
      {"single", {TensorType::kFloat32, {2}, data.subspan(8, 8)}},
      {"double", {TensorType::kFloat64, {}, data.subspan(0, 8)}},
      {"long", {TensorType::kInt64, {2, 1}, data.subspan(0, 16)}},
      {"int", {TensorType::kInt32, {1}, data.subspan(4, 4)}},
      {"none", {TensorType::kFloat32, {4, 0}, {}}},
      {"a \"quoted\"\nname, \xc3\xa9", {TensorType::kUint8, {1}, data.subspan(5, 1)}},
  };
  TempDir dir;
  ASSERT_THAT(WriteSafetensors(dir.File("f"), written), IsOk());
  GMA_ASSERT_OK_AND_ASSIGN(SafetensorsFile file, SafetensorsFile::Open(dir.File("f")));
  ASSERT_EQ(file.tensors().size(), written.size());
  for (const auto& [name, view] : written) {
    const TensorView& read = file.tensors().at(name);
    EXPECT_EQ(read.type, view.type) << name;
    EXPECT_EQ(read.shape, view.shape) << name;
    EXPECT_EQ(read.data, view.data) << name;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(read.data.data()) % TensorTypeBytes(read.type), 0u);
  }
  EXPECT_EQ(FilesIn(dir), 1u) << "no temporary file is left";
}

TEST(WriteSafetensors, NoTensorsMakeAFileToo) {
  TempDir dir;
  ASSERT_THAT(WriteSafetensors(dir.File("f"), {}), IsOk());
  EXPECT_THAT(SafetensorsFile::Open(dir.File("f")), IsOk());
}

TEST(WriteSafetensors, ReplacesAnOldFileWhole) {
  TempDir dir;
  const std::vector<float> values = {1, 2, 3};
  dir.Write("f", "something else");
  ASSERT_THAT(WriteSafetensors(dir.File("f"), {{"t", FloatView(values, {3})}}), IsOk());
  GMA_ASSERT_OK_AND_ASSIGN(SafetensorsFile file, SafetensorsFile::Open(dir.File("f")));
  EXPECT_EQ(file.tensors().at("t").As<float>(), absl::Span<const float>(values));
}

TEST(WriteSafetensors, RefusesWhatItsReaderWouldRefuse) {
  TempDir dir;
  const std::vector<float> values = {1, 2, 3};
  const TensorView good = FloatView(values, {3});
  struct Case {
    std::string name;
    TensorView view;
    const char* message;
  };
  const Case cases[] = {
      {"t", FloatView(values, {2}), "shape needs 8 bytes, data has 12"},
      {"t", FloatView(values, {-3}), "negative"},
      {"t", FloatView(values, {int64_t{1} << 32, int64_t{1} << 32}), "overflows"},
      {"t", FloatView(values, {1, 1, 1, 1, 1, 1, 1, 1, 3}), "limit 8"},
      {"", good, "name"},
      {"__metadata__", good, "name"},
      {std::string(513, 'n'), good, "512"},
      {"\xff", good, "UTF-8"},
  };
  for (const Case& bad : cases) {
    EXPECT_THAT(WriteSafetensors(dir.File("f"), {{bad.name, bad.view}}),
                StatusIs(kInvalid, HasSubstr(bad.message)));
  }
  EXPECT_EQ(FilesIn(dir), 0u);
}

TEST(WriteSafetensors, AFolderThatIsNotThereIsAnErrorOfTheSystem) {
  TempDir dir;
  EXPECT_THAT(WriteSafetensors(dir.File("none/f"), {}),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("No such file")));
}

TEST(WriteSafetensors, AFailedWriteKeepsTheOldFileAndLeavesNoOther) {
  TempDir dir;
  dir.Write("f", "old");
  const std::vector<float> values(100'000, 1.0f);
  // Files of this process may grow to 64 KiB now: the write fails half way, like on a full disk.
  struct rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  struct rlimit small = {.rlim_cur = 65536, .rlim_max = before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  absl::Status status = WriteSafetensors(dir.File("f"), {{"t", FloatView(values, {100'000})}});
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kInternal, HasSubstr("write: File too large")));
  EXPECT_EQ(FilesIn(dir), 1u);
  EXPECT_EQ(*ReadFile(dir.File("f"), 100), "old");
}

}  // namespace
}  // namespace gma
