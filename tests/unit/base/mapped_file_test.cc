#include "base/mapped_file.h"

#include <sys/stat.h>

#include <filesystem>
#include <string>
#include <utility>

#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace gma {
namespace {

using ::gma::testing::StatusIs;
using ::gma::testing::TempDir;
using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(MappedFile, ShowsTheBytesOfTheFile) {
  TempDir dir;
  const std::string text("some\0text", 9);
  GMA_ASSERT_OK_AND_ASSIGN(MappedFile file, MappedFile::Open(dir.Write("f", text)));
  EXPECT_EQ(file.text(), text);
  EXPECT_EQ(file.bytes().size(), 9u);
}

TEST(MappedFile, AnEmptyFileIsAnEmptySpan) {
  TempDir dir;
  GMA_ASSERT_OK_AND_ASSIGN(MappedFile file, MappedFile::Open(dir.Write("f", "")));
  EXPECT_TRUE(file.bytes().empty());
}

TEST(MappedFile, BytesOutliveMovesAndTheNameOfTheFile) {
  TempDir dir;
  GMA_ASSERT_OK_AND_ASSIGN(MappedFile file, MappedFile::Open(dir.Write("f", "text")));
  std::filesystem::remove(dir.File("f"));
  const uint8_t* data = file.bytes().data();
  MappedFile moved = std::move(file);
  EXPECT_EQ(moved.bytes().data(), data);
  GMA_ASSERT_OK_AND_ASSIGN(MappedFile other, MappedFile::Open(dir.Write("g", "other")));
  other = std::move(moved);
  EXPECT_EQ(other.text(), "text");
}

TEST(MappedFile, RefusesEverythingButARegularFileWithoutBlocking) {
  TempDir dir;
  EXPECT_THAT(MappedFile::Open(dir.File("none")),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr(dir.File("none"))));
  EXPECT_THAT(MappedFile::Open(dir.Write("f", "x") + "/below"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("f/below")));
  ASSERT_EQ(mkfifo(dir.File("fifo").c_str(), 0600), 0);
  for (const std::string& path : {dir.path(), dir.File("fifo"), std::string("/dev/zero")}) {
    EXPECT_THAT(MappedFile::Open(path),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         AllOf(HasSubstr(path), HasSubstr("not a regular file"))));
  }
}

TEST(MappedFile, AFailureOfTheSystemIsInternal) {
  TempDir dir;
  std::filesystem::create_symlink("loop", dir.File("loop"));
  EXPECT_THAT(MappedFile::Open(dir.File("loop")),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("symbolic links")));
}

TEST(ReadFile, ReadsUpToTheLimit) {
  TempDir dir;
  const std::string path = dir.Write("f", "12345");
  EXPECT_EQ(*ReadFile(path, 5), "12345");
  EXPECT_THAT(ReadFile(path, 4),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("5 bytes, limit 4")));
  EXPECT_EQ(*ReadFile(dir.Write("empty", ""), 0), "");
}

TEST(MappedFile, BytesComeBackAfterTheirPagesWereLetGo) {
  const std::string text(100'000, 'x');
  TempDir dir;
  GMA_ASSERT_OK_AND_ASSIGN(const MappedFile file, MappedFile::Open(dir.Write("f", text)));
  EXPECT_EQ(file.text(), text);
  file.LetGoOfPages();
  EXPECT_EQ(file.text(), text);
}

}  // namespace
}  // namespace gma
