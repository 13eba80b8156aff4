#include "server/session/snapshot.h"

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"
#include "tests/unit/session/golden_file.h"
#include "tests/unit/session/sealed_fixture.h"

namespace gma {
namespace {

using ::testing::ElementsAre;
using testing::GoldenFile;
using testing::GoldenId;
using ::testing::HasSubstr;
using testing::IsOk;
using testing::StatusIs;

constexpr auto kOther = absl::StatusCode::kFailedPrecondition;
constexpr auto kBad = absl::StatusCode::kInvalidArgument;
constexpr size_t kHeadBytes = 148, kNonceAt = 136;
constexpr RowEncoding kBoth[] = {RowEncoding::kFloat32, RowEncoding::kBfloat16};

RowBytes Row(int64_t fed) {
  RowBytes row(256);
  for (size_t i = 0; i < 248; ++i) row[8 + i] = static_cast<uint8_t>(i * 7);
  std::memcpy(row.data(), &fed, 8);
  return row;
}

// As make_snapshot.py has it.
SessionImage Image() {
  SessionImage image;
  image.ttl = absl::Seconds(900);
  image.point = {.fed = 1000, .pending = 17, .answer_open = true, .answer_tail = {4, 5, 17}};
  image.row = Row(1000);
  return image;
}

// The same with a past: positions 900 to 1000, and two checkpoints.
SessionImage ImageWithPast() {
  SessionImage image = Image();
  image.sequence = 77;
  image.turn_key = "key-1";
  image.last_turn_answers = true;
  image.journaled = 5;
  // What the log of version 2's golden file has grown from.
  TokenLog log(100);
  SessionPoint point = {.fed = 885, .pending = 0, .answer_open = false, .answer_tail = {}};
  log.Restart(point);
  log.BeginTurn({.fed = 910, .pending = {}, .answer_tail = {1, 2}}, /*generates=*/true,
                /*new_input=*/true);
  for (int64_t at = 886; at < 990; ++at) log.Put(at, static_cast<int32_t>(at % 50), at >= 950);
  log.BeginTurn({.fed = 990, .pending = {}, .answer_tail = {3}}, /*generates=*/true,
                /*new_input=*/false);
  for (int64_t at = 990; at < 1001; ++at) log.Put(at, at == 1000 ? 17 : 30, false);
  image.past.log = log;
  image.past.checkpoints.push_back({.kind = CheckpointKind::kNumbered,
                                    .name = "3",
                                    .point = {.fed = 950, .pending = 1, .answer_tail = {}},
                                    .shared_tokens = 40,
                                    .row = std::make_shared<const RowBytes>(Row(950))});
  image.past.checkpoints.push_back(
      {.kind = CheckpointKind::kNamed,
       .name = "here",
       .point = {.fed = 990, .pending = {}, .answer_open = true, .answer_tail = {9}},
       .shared_tokens = 990,
       .row = std::make_shared<const RowBytes>(Row(990))});
  image.past.last_number = 3;
  return image;
}

class SnapshotTest : public ::testing::Test {
 protected:
  static SnapshotLabel Stored(RowEncoding encoding = RowEncoding::kFloat32) {
    return {.owner = "alice",
            .created_at = absl::FromUnixSeconds(1785200000),
            .id = GoldenId(),
            .epoch = 7,
            .encoding = encoding};
  }
  static SnapshotLabel Exported() {
    return {.owner = "alice", .created_at = absl::FromUnixSeconds(1785200000)};
  }
  std::string Seal(SessionImage image, const SnapshotLabel& label = Exported(), size_t most = 100) {
    SnapshotWriter writer(scope, label, std::move(image));
    std::string blob;
    for (std::string part = writer.Next(most); !part.empty(); part = writer.Next(most)) {
      EXPECT_LE(part.size(), most + kHeadBytes);
      blob += part;
    }
    EXPECT_EQ(writer.Next(most), "");
    EXPECT_EQ(blob.size(), writer.bytes());
    return blob;
  }
  std::string SealStored(SessionImage image, RowEncoding encoding = RowEncoding::kFloat32) {
    return Seal(std::move(image), Stored(encoding));
  }
  absl::StatusOr<SessionImage> Open(std::string_view blob, size_t most = 1 << 20,
                                    const std::string& owner = "alice",
                                    std::optional<SessionId> id = std::nullopt) {
    SnapshotReader reader(scope, owner, id);
    for (size_t from = 0; from < blob.size(); from += most) {
      if (absl::Status status = reader.Add(blob.substr(from, most)); !status.ok()) return status;
    }
    return std::move(reader).Finish();
  }
  absl::StatusOr<SessionImage> OpenStored(std::string_view blob, size_t most = 1 << 20) {
    return Open(blob, most, "alice", GoldenId());
  }
  // A row as it comes back.
  RowBytes Kept(RowBytes row, RowEncoding encoding) const {
    DecodeRow(scope.layout, EncodeRow(scope.layout, row, encoding), encoding, absl::MakeSpan(row));
    return row;
  }
  void ExpectImage(const absl::StatusOr<SessionImage>& image,
                   RowEncoding encoding = RowEncoding::kFloat32) {
    ASSERT_THAT(image, IsOk());
    EXPECT_EQ(image->ttl, absl::Seconds(900));
    EXPECT_EQ(image->point.fed, 1000);
    EXPECT_EQ(image->point.pending, 17);
    EXPECT_TRUE(image->point.answer_open);
    EXPECT_THAT(image->point.answer_tail, ElementsAre(4, 5, 17));
    EXPECT_EQ(image->row, Kept(Row(1000), encoding));
  }
  void ExpectPast(const absl::StatusOr<SessionImage>& image,
                  RowEncoding encoding = RowEncoding::kFloat32) {
    ExpectImage(image, encoding);
    EXPECT_EQ(image->sequence, 77);
    EXPECT_EQ(image->turn_key, "key-1");
    EXPECT_TRUE(image->last_turn_answers);
    EXPECT_EQ(image->journaled, 5);
    EXPECT_EQ(image->past.last_number, 3);
    ASSERT_EQ(image->past.checkpoints.size(), 2u);
    const CheckpointImage &numbered = image->past.checkpoints[0],
                          &named = image->past.checkpoints[1];
    EXPECT_EQ(numbered.kind, CheckpointKind::kNumbered);
    EXPECT_EQ(numbered.name, "3");
    EXPECT_EQ(numbered.point.fed, 950);
    EXPECT_EQ(numbered.point.pending, 1);
    EXPECT_EQ(numbered.shared_tokens, 40);
    EXPECT_EQ(*numbered.row, Kept(Row(950), encoding));
    EXPECT_EQ(named.kind, CheckpointKind::kNamed);
    EXPECT_EQ(named.name, "here");
    EXPECT_FALSE(named.point.pending.has_value());
    EXPECT_TRUE(named.point.answer_open);
    EXPECT_THAT(named.point.answer_tail, ElementsAre(9));
    EXPECT_EQ(named.shared_tokens, 990);
    EXPECT_EQ(*named.row, Kept(Row(990), encoding));
  }

  SnapshotScope scope = testing::GoldenScope();
};

TEST_F(SnapshotTest, WhatWasSealedIsOpenedWhateverTheChunks) {
  for (const size_t chunk : {1, 7, 147, 148, 149, 1000}) {
    ExpectImage(Open(Seal(Image(), Exported(), chunk), chunk));
    for (const RowEncoding encoding : kBoth) {
      const std::string blob = Seal(ImageWithPast(), Stored(encoding), chunk);
      const auto opened = OpenStored(blob, chunk);
      ExpectPast(opened, encoding);
      EXPECT_EQ(opened->past.log.Serialize(), ImageWithPast().past.log.Serialize());
    }
  }
  EXPECT_NE(Seal(Image()), Seal(Image()));  // a new nonce each time
  SessionImage fresh;
  fresh.ttl = absl::Seconds(1);
  fresh.row.resize(256);
  const auto opened = Open(Seal(fresh));
  ASSERT_THAT(opened, IsOk());
  EXPECT_FALSE(opened->point.pending.has_value());
}

TEST_F(SnapshotTest, TheGoldenFilesOfEveryVersionAreRead) {
  ExpectImage(Open(GoldenFile("session_v1.bin")));
  ExpectImage(Open(GoldenFile("session_v2_exported.bin")));
  for (const RowEncoding encoding : kBoth) {
    const bool narrow = encoding == RowEncoding::kBfloat16;
    const auto opened =
        OpenSnapshot(scope, "alice", GoldenId(),
                     GoldenFile(narrow ? "session_v2_bfloat16.bin" : "session_v2.bin"));
    ExpectPast(opened, encoding);
    const TokenLog& log = opened->past.log;
    EXPECT_EQ(log.begin(), 916);
    EXPECT_EQ(log.end(), 1001);
    EXPECT_THAT(log.Tokens(997, 1001), ElementsAre(41, 44, 47, 17));
    EXPECT_EQ(log.PointAt(960).answer_tail.size(), 10u);  // 950 on were drawn
  }
}

// But for the nonce and what it changes: what the script sealed takes as many bytes from the
// server.
TEST_F(SnapshotTest, TheServerWritesTheGoldenFiles) {
  for (const RowEncoding encoding : kBoth) {
    const std::string file = GoldenFile(
        encoding == RowEncoding::kFloat32 ? "session_v2.bin" : "session_v2_bfloat16.bin");
    const auto image = OpenStored(file);
    ASSERT_THAT(image, IsOk());
    const std::string written = SealSnapshot(scope, Stored(encoding), *image);
    EXPECT_EQ(written.substr(0, kNonceAt), file.substr(0, kNonceAt));
    EXPECT_EQ(written.size(), file.size());
  }
}

TEST_F(SnapshotTest, OneThatIsCutAnywhereIsRefused) {
  for (const RowEncoding encoding : kBoth) {
    const std::string blob = SealStored(ImageWithPast(), encoding);
    for (size_t size = 0; size < blob.size(); ++size) {
      const std::string of = size < kHeadBytes ? "" : " bytes of " + std::to_string(blob.size());
      EXPECT_THAT(OpenStored(blob.substr(0, size)),
                  StatusIs(kBad, HasSubstr("is cut: it has " + std::to_string(size) + of)));
    }
    const std::string longer = "longer than its " + std::to_string(blob.size()) + " bytes";
    EXPECT_THAT(OpenStored(blob + "x"), StatusIs(kBad, HasSubstr(longer)));
    EXPECT_THAT(OpenStored(blob + std::string(1000, 'x'), 10), StatusIs(kBad, HasSubstr(longer)));
  }
  const std::string first = GoldenFile("session_v1.bin");
  for (size_t size = 0; size < first.size(); ++size) {
    EXPECT_THAT(Open(first.substr(0, size)), StatusIs(kBad, HasSubstr("is cut: it has ")));
  }
  EXPECT_THAT(Open(first + "x"), StatusIs(kBad, HasSubstr("longer than its 492 bytes")));
}

TEST_F(SnapshotTest, AnyChangedBitIsSeen) {
  const auto expect_seen = [&](const std::string& blob, size_t nonce_at,
                               std::optional<SessionId> id) {
    for (size_t bit = 0; bit < 8 * blob.size(); ++bit) {
      std::string changed = blob;
      changed[bit / 8] = static_cast<char>(changed[bit / 8] ^ (1 << bit % 8));
      const auto opened = Open(changed, 1 << 20, "alice", id);
      ASSERT_FALSE(opened.ok()) << bit;
      // Of the header, the field is named; all else is seen by the tag.
      if (bit / 8 < nonce_at) continue;
      ASSERT_THAT(opened, StatusIs(kBad, HasSubstr("was changed"))) << bit;
    }
  };
  expect_seen(GoldenFile("session_v1.bin"), 120, std::nullopt);
  expect_seen(GoldenFile("session_v2.bin"), kNonceAt, GoldenId());
  expect_seen(GoldenFile("session_v2_bfloat16.bin"), kNonceAt, GoldenId());
}

TEST_F(SnapshotTest, AnotherModelLayoutOwnerVersionAndKeyAreNamed) {
  const std::string blob = Seal(Image());
  std::string other = blob;
  other[8] = 3;
  EXPECT_THAT(Open(other), StatusIs(kOther, HasSubstr("format version 3, this server reads version "
                                                      "1 to 2")));
  other = blob;
  other[0] = 'X';
  EXPECT_THAT(Open(other), StatusIs(kBad, HasSubstr("no exported session")));
  other = blob;
  other[84] = 2;
  EXPECT_THAT(Open(other), StatusIs(kOther, HasSubstr("has row encoding 2")));
  EXPECT_THAT(Open(blob, 1000, "bob"),
              StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr("another owner")));
  const SnapshotScope own = scope;
  scope.fingerprint[0] = '2';
  EXPECT_THAT(Open(blob), StatusIs(kOther, HasSubstr("of another model: its fingerprint is 1f1f")));
  scope = own;
  scope.layout = testing::GoldenLayout(/*compensated=*/false, /*head_dim=*/16);
  EXPECT_THAT(Open(blob), StatusIs(kOther, HasSubstr("256 bytes; this server's is version 1")));
  scope = own;
  scope.layout = testing::GoldenLayout(/*compensated=*/true, /*head_dim=*/4);
  ASSERT_EQ(scope.layout.row_bytes(), 256u);
  EXPECT_THAT(Open(blob), StatusIs(kOther, HasSubstr("another state layout")));
  scope = own;
  scope.layout_version = 2;
  EXPECT_THAT(Open(blob), StatusIs(kOther, HasSubstr("another state layout: version 1")));
  scope = own;
  scope.key = StateKey::Random();
  EXPECT_THAT(Open(blob), StatusIs(kBad, HasSubstr("no --state_key")));
}

TEST_F(SnapshotTest, AStoresSnapshotIsItsSessionsAlone) {
  const std::string stored = SealStored(ImageWithPast()), exported = Seal(Image());
  const SessionId other = *SessionId::FromHex("00112233445566778899aabbccddeefe");
  EXPECT_THAT(Open(stored, 1000, "alice", other),
              StatusIs(kBad, HasSubstr("sealed as another one")));
  EXPECT_THAT(Open(stored), StatusIs(kBad, HasSubstr("no exported session but a stored one")));
  EXPECT_THAT(OpenStored(exported),
              StatusIs(kBad, HasSubstr("no stored session but an exported one")));
  EXPECT_THAT(OpenStored(GoldenFile("session_v1.bin")), StatusIs(kOther, HasSubstr("version 1")));
  // Nor is it taken for an exported one when its header says so.
  std::string changed = SealStored(Image());
  changed[120] = 0;
  EXPECT_THAT(Open(changed), StatusIs(kBad, HasSubstr("was changed")));
}

TEST_F(SnapshotTest, SizesAreJudgedBeforeTheyAreUsed) {
  std::string blob = Seal(Image()).substr(0, kHeadBytes);
  blob[129] = 17;  // 4,096 bytes and more
  EXPECT_THAT(Open(blob), StatusIs(kBad, HasSubstr("bytes, limit 4096")));
  blob = Seal(Image()).substr(0, kHeadBytes);
  blob[124] = 1;
  EXPECT_THAT(Open(blob), StatusIs(kBad, HasSubstr("has 1 checkpoints of 256 bytes, limits 0")));
  blob = SealStored(ImageWithPast()).substr(0, kHeadBytes);
  blob[135] = '\xff';
  EXPECT_THAT(OpenStored(blob), StatusIs(kBad, HasSubstr("bytes, limit 1073741824")));
  blob = SealStored(ImageWithPast()).substr(0, kHeadBytes);
  blob[127] = '\xff';
  EXPECT_THAT(OpenStored(blob), StatusIs(kBad, HasSubstr("has 4278190082 checkpoints of")));
}

TEST_F(SnapshotTest, WhatContradictsItselfIsRefusedAlthoughItIsSealed) {
  const std::vector<void (*)(SessionImage&)> wrongs = {
      [](SessionImage& image) { image.point.pending = 50; },  // no token of the model
      [](SessionImage& image) { image.point.answer_tail.assign(17, 1); },
      [](SessionImage& image) { image.point.answer_tail[0] = -1; },
      [](SessionImage& image) { image.row[0] ^= 1; },  // another position
      [](SessionImage& image) { image.ttl = absl::ZeroDuration(); },
      [](SessionImage& image) { image.sequence = -1; },
      [](SessionImage& image) { image.journaled = -1; },
      [](SessionImage& image) { image.turn_key = std::string(65, 'k'); },
      [](SessionImage& image) { image.past.last_number = -1; },
      [](SessionImage& image) { image.past.log.Truncate(1000); },  // not where the session stands
      [](SessionImage& image) { image.past.checkpoints[0].name = ""; },
      [](SessionImage& image) { image.past.checkpoints[0].name = std::string(65, 'n'); },
      [](SessionImage& image) { image.past.checkpoints[0].kind = CheckpointKind::kAutomatic; },
      [](SessionImage& image) { image.past.checkpoints[0].shared_tokens = 952; },
      [](SessionImage& image) { image.past.checkpoints[1].point.fed = 991; },
  };
  EXPECT_THAT(OpenStored(SealStored(ImageWithPast())), IsOk());
  for (size_t i = 0; i < wrongs.size(); ++i) {
    SessionImage image = ImageWithPast();
    wrongs[i](image);
    EXPECT_THAT(OpenStored(SealStored(image)), StatusIs(kBad, HasSubstr("contradicts"))) << i;
  }
}

}  // namespace
}  // namespace gma
