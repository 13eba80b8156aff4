#include "server/session/snapshot.h"

#include <sys/stat.h>

#include <cstring>
#include <string>
#include <utility>

#include "base/mapped_file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace gma {
namespace {

using ::testing::HasSubstr;
using testing::IsOk;
using testing::StatusIs;
using testing::TempDir;

constexpr auto kOther = absl::StatusCode::kFailedPrecondition;
constexpr auto kBad = absl::StatusCode::kInvalidArgument;

class SnapshotTest : public ::testing::Test {
 protected:
  SnapshotTest() {
    std::string bytes(32, '\0');
    for (size_t i = 0; i < 32; ++i) bytes[i] = static_cast<char>(i);
    const std::string path = dir.Write("key", bytes);
    chmod(path.c_str(), 0600);
    auto key = StateKey::LoadOrMake(path);
    EXPECT_THAT(key, IsOk());
    scope.key = *key;
    for (int i = 0; i < 32; ++i) scope.fingerprint += "1f";
  }
  // As make_snapshot.py has it.
  static SessionImage Image() {
    SessionImage image;
    image.ttl = absl::Seconds(900);
    image.point = {.fed = 1000, .pending = 17, .answer_open = true, .answer_tail = {4, 5, 17}};
    image.row.resize(256);
    for (size_t i = 0; i < 248; ++i) image.row[8 + i] = static_cast<uint8_t>(i * 7);
    std::memcpy(image.row.data(), &image.point.fed, 8);
    return image;
  }
  std::string Seal(SessionImage image, size_t most = 100) {
    SnapshotWriter writer(scope, "alice", std::move(image), 1785200000);
    std::string blob;
    for (std::string part = writer.Next(most); !part.empty(); part = writer.Next(most)) {
      blob += part;
    }
    EXPECT_EQ(writer.Next(most), "");
    return blob;
  }
  absl::StatusOr<SessionImage> Open(std::string_view blob, size_t most = 1 << 20,
                                    const std::string& owner = "alice") {
    SnapshotReader reader(scope, owner);
    for (size_t from = 0; from < blob.size(); from += most) {
      if (absl::Status status = reader.Add(blob.substr(from, most)); !status.ok()) return status;
    }
    return std::move(reader).Finish();
  }
  static void ExpectImage(const absl::StatusOr<SessionImage>& image) {
    ASSERT_THAT(image, IsOk());
    EXPECT_EQ(image->ttl, absl::Seconds(900));
    EXPECT_EQ(image->point.fed, 1000);
    EXPECT_EQ(image->point.pending, 17);
    EXPECT_TRUE(image->point.answer_open);
    EXPECT_THAT(image->point.answer_tail, ::testing::ElementsAre(4, 5, 17));
    EXPECT_EQ(image->row, Image().row);
  }

  TempDir dir;
  SnapshotScope scope{.key = StateKey::Random(),
                      .fingerprint = "",
                      .compensated = false,
                      .row_bytes = 256,
                      .vocab_size = 50};
};

TEST_F(SnapshotTest, WhatWasSealedIsOpenedWhateverTheChunks) {
  for (const size_t chunk : {1, 7, 131, 132, 133, 1000}) {
    const std::string blob = Seal(Image(), chunk);
    EXPECT_EQ(blob.size(), scope.snapshot_bytes());
    ExpectImage(Open(blob, chunk));
  }
  EXPECT_NE(Seal(Image()), Seal(Image()));  // a new nonce each time
  SessionImage fresh;
  fresh.ttl = absl::Seconds(1);
  fresh.row.resize(256);
  const auto opened = Open(Seal(fresh));
  ASSERT_THAT(opened, IsOk());
  EXPECT_FALSE(opened->point.pending.has_value());
}

TEST_F(SnapshotTest, TheGoldenBlobOfVersionOneIsRead) {
  const auto blob =
      ReadFile(std::string(GMA_SOURCE_DIR) + "/tests/golden/snapshot/session_v1.bin", 1 << 20);
  ASSERT_THAT(blob, IsOk());
  ExpectImage(Open(*blob));
}

TEST_F(SnapshotTest, OneThatIsCutAnywhereIsRefused) {
  const std::string blob = Seal(Image());
  for (size_t size = 0; size < blob.size(); ++size) {
    EXPECT_THAT(
        Open(blob.substr(0, size)),
        StatusIs(kBad, HasSubstr("is cut: it has " + std::to_string(size) + " bytes of 492")));
  }
  EXPECT_THAT(Open(blob + "x"), StatusIs(kBad, HasSubstr("longer than its 492 bytes")));
  EXPECT_THAT(Open(blob + std::string(1000, 'x'), 10), StatusIs(kBad, HasSubstr("longer")));
}

TEST_F(SnapshotTest, AnyChangedBitIsSeen) {
  const std::string blob = Seal(Image());
  for (size_t bit = 0; bit < 8 * blob.size(); ++bit) {
    std::string changed = blob;
    changed[bit / 8] = static_cast<char>(changed[bit / 8] ^ (1 << bit % 8));
    const auto opened = Open(changed);
    ASSERT_FALSE(opened.ok()) << bit;
    // Of the header, the field is named; all else is seen by the tag.
    if (bit / 8 < 120) continue;
    EXPECT_THAT(opened, StatusIs(kBad, HasSubstr("was changed"))) << bit;
  }
}

TEST_F(SnapshotTest, AnotherModelLayoutOwnerVersionAndKeyAreNamed) {
  const std::string blob = Seal(Image());
  std::string other = blob;
  other[8] = 2;
  EXPECT_THAT(Open(other), StatusIs(kOther, HasSubstr("has format version 2, this server reads")));
  other = blob;
  other[0] = 'X';
  EXPECT_THAT(Open(other), StatusIs(kBad, HasSubstr("no exported session")));
  EXPECT_THAT(Open(blob, 1000, "bob"),
              StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr("another owner")));
  const SnapshotScope own = scope;
  scope.fingerprint[0] = '2';
  EXPECT_THAT(Open(blob), StatusIs(kOther, HasSubstr("of another model: its fingerprint is 1f1f")));
  scope = own;
  scope.row_bytes = 320;
  EXPECT_THAT(Open(blob), StatusIs(kOther, HasSubstr("256 bytes; this server's is version 1")));
  scope = own;
  scope.compensated = true;
  EXPECT_THAT(Open(blob), StatusIs(kOther, HasSubstr("another state layout")));
  scope = own;
  scope.layout_version = 2;
  EXPECT_THAT(Open(blob), StatusIs(kOther, HasSubstr("another state layout: version 1")));
  scope = own;
  scope.key = StateKey::Random();
  EXPECT_THAT(Open(blob), StatusIs(kBad, HasSubstr("no --state_key")));
}

TEST_F(SnapshotTest, WhatContradictsItselfIsRefusedAlthoughItIsSealed) {
  SessionImage image = Image();
  image.point.pending = 50;  // no token of the model
  EXPECT_THAT(Open(Seal(image)), StatusIs(kBad, HasSubstr("contradicts")));
  image = Image();
  image.row[0] ^= 1;  // another position
  EXPECT_THAT(Open(Seal(image)), StatusIs(kBad, HasSubstr("contradicts")));
  image = Image();
  image.ttl = absl::ZeroDuration();
  EXPECT_THAT(Open(Seal(image)), StatusIs(kBad, HasSubstr("contradicts")));
}

TEST(StateKey, IsMadeOnceAndIsTheOwnersAlone) {
  const TempDir dir;
  const std::string path = dir.Write("x", "") + ".key";
  const auto made = StateKey::LoadOrMake(path);
  ASSERT_THAT(made, IsOk());
  struct stat info = {};
  ASSERT_EQ(stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  const auto read = StateKey::LoadOrMake(path);
  ASSERT_THAT(read, IsOk());
  EXPECT_EQ(read->bytes(), made->bytes());
  EXPECT_TRUE(read->kept());
  EXPECT_FALSE(StateKey::Random().kept());
  chmod(path.c_str(), 0640);
  EXPECT_THAT(StateKey::LoadOrMake(path), StatusIs(kBad, HasSubstr("must have mode 0600")));
  const std::string shorter = dir.Write("short", "abc");
  EXPECT_THAT(StateKey::LoadOrMake(shorter), StatusIs(kBad, HasSubstr("has 3 bytes")));
  EXPECT_THAT(StateKey::LoadOrMake("/no/such/folder/key"),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("/no/such/folder/key")));
}

}  // namespace
}  // namespace gma
