#include "server/session/snapshot.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "server/session/byte_codec.h"
#include "server/session/sealed.h"
#include "server/session/snapshot_body.h"

namespace gma {
namespace {

constexpr std::string_view kMagic("GMASNAP\0", 8);
constexpr size_t kHeadBytes = 148, kHeadBytesV1 = 132;
constexpr size_t kVersionEnd = 12;  // once so many bytes are there, the version is known

size_t HeadBytes(uint32_t version) { return version == 1 ? kHeadBytesV1 : kHeadBytes; }

// A field of the head.
template <typename T>
T At(std::string_view head, size_t offset) {
  T value{};
  ByteReader reader(head.substr(offset));
  reader(value);
  return value;
}

std::string Associated(const std::string& head, const std::optional<SessionId>& id) {
  return id ? head + IdBytes(*id) : head;
}

bool StandsAt(const RowBytes& row, const SessionPoint& point) {
  int64_t position;
  std::memcpy(&position, row.data(), sizeof(position));
  return position == point.fed;
}

}  // namespace

SnapshotWriter::SnapshotWriter(const SnapshotScope& scope, const SnapshotLabel& label,
                               SessionImage image)
    : scope_(scope),
      encoding_(label.encoding),
      image_(std::move(image)),
      body_(WriteSnapshotBody(image_)) {
  const std::vector<CheckpointImage>& checkpoints = image_.past.checkpoints;
  const size_t row_bytes = scope.layout.row_bytes();
  GMA_CHECK(image_.row.size() == row_bytes && scope.fingerprint.size() == 64);
  for (const CheckpointImage& checkpoint : checkpoints) {
    GMA_CHECK(checkpoint.row->size() == row_bytes);
  }
  GMA_CHECK(body_.size() <= (label.id ? kMaxSnapshotBodyBytes : kMaxExportedBodyBytes) &&
            checkpoints.size() <= (label.id ? kMaxSnapshotCheckpoints : 0));
  const std::string nonce = RandomNonce();
  ByteWriter rest;
  head_ = kMagic;
  rest(kSnapshotVersion, scope.layout_version);
  head_ += rest.bytes() + absl::HexStringToBytes(scope.fingerprint) + OwnerHash(label.owner);
  rest = ByteWriter();
  rest(uint32_t{scope.layout.compensated() ? 1u : 0u}, static_cast<uint32_t>(encoding_),
       label.epoch, image_.point.context_tokens(), absl::ToUnixSeconds(label.created_at),
       uint64_t{row_bytes}, uint32_t{label.id ? 1u : 0u}, static_cast<uint32_t>(checkpoints.size()),
       uint64_t{body_.size()});
  head_ += rest.bytes() + nonce;
  GMA_CHECK(head_.size() == kHeadBytes);
  total_ = kHeadBytes + body_.size() +
           (1 + checkpoints.size()) * EncodedBytes(scope.layout, encoding_) + Gcm::kTagBytes;
  cipher_ = std::make_unique<Gcm>(Gcm::Direction::kSeal, scope.key.bytes(), nonce,
                                  Associated(head_, label.id));
}

SnapshotWriter::~SnapshotWriter() = default;

void SnapshotWriter::BeginPart() {
  const size_t index = parts_begun_++;
  if (index == 0) {
    part_ = {reinterpret_cast<const uint8_t*>(body_.data()), body_.size()};
    return;
  }
  const RowBytes& row = index == 1 ? image_.row : *image_.past.checkpoints[index - 2].row;
  part_ = row;
  if (encoding_ == RowEncoding::kFloat32) return;
  encoded_ = EncodeRow(scope_.layout, row, encoding_);
  part_ = encoded_;
}

std::string SnapshotWriter::Next(size_t most) {
  GMA_CHECK(most > 0);
  if (ended_) return {};
  std::string bytes = parts_begun_ == 0 ? head_ : std::string();
  if (part_.empty()) {
    if (parts_begun_ == 2 + image_.past.checkpoints.size()) {
      ended_ = true;
      return cipher_->Tag();
    }
    BeginPart();
  }
  const size_t count = std::min(most, part_.size()), from = bytes.size();
  bytes.resize(from + count);
  cipher_->Run(part_.data(), count, bytes.data() + from);
  part_.remove_prefix(count);
  return bytes;
}

SnapshotReader::SnapshotReader(const SnapshotScope& scope, std::string_view owner,
                               std::optional<SessionId> id)
    : scope_(scope),
      owner_(owner),
      id_(id),
      what_(id ? "the stored session " + id->Short() : "the exported session") {}

SnapshotReader::~SnapshotReader() = default;

// The version is known; the rest of the head may still be missing.
absl::Status SnapshotReader::TakeHead() {
  if (head_.compare(0, kMagic.size(), kMagic) != 0) {
    return absl::InvalidArgumentError(absl::StrCat("the bytes are no ", id_ ? "stored" : "exported",
                                                   " session: they begin otherwise"));
  }
  version_ = At<uint32_t>(head_, 8);
  if (version_ == 0 || version_ > kSnapshotVersion || (version_ == 1 && id_)) {
    return absl::FailedPreconditionError(absl::StrCat(what_, " has format version ", version_,
                                                      ", this server reads version ", id_ ? 2 : 1,
                                                      " to ", kSnapshotVersion));
  }
  if (head_.size() < HeadBytes(version_)) return absl::OkStatus();
  body_bytes_ = kSnapshotBodyBytesV1;
  size_t nonce_at = kHeadBytesV1 - Gcm::kNonceBytes;
  if (version_ > 1) {
    encoding_ = static_cast<RowEncoding>(At<uint32_t>(head_, 84));
    checkpoints_ = At<uint32_t>(head_, 124);
    body_bytes_ = At<uint64_t>(head_, 128);
    nonce_at = kHeadBytes - Gcm::kNonceBytes;
  }
  GMA_RETURN_IF_ERROR(CheckScope());
  GMA_RETURN_IF_ERROR(CheckSizes());
  cipher_ = std::make_unique<Gcm>(Gcm::Direction::kOpen, scope_.key.bytes(),
                                  std::string_view(head_).substr(nonce_at), Associated(head_, id_));
  return absl::OkStatus();
}

absl::Status SnapshotReader::CheckScope() const {
  const std::string model = absl::BytesToHexString(head_.substr(16, 32));
  if (model != scope_.fingerprint) {
    return absl::FailedPreconditionError(
        absl::StrCat(what_, " is of another model: its fingerprint is ", model,
                     ", this server's is ", scope_.fingerprint));
  }
  const auto layout = At<uint32_t>(head_, 12);
  const auto compensated = At<uint32_t>(head_, 80);
  const auto row_bytes = At<uint64_t>(head_, 112);
  const uint32_t own_compensated = scope_.layout.compensated() ? 1 : 0;
  if (layout != scope_.layout_version || compensated != own_compensated ||
      row_bytes != scope_.layout.row_bytes()) {
    return absl::FailedPreconditionError(absl::StrCat(
        what_, " has another state layout: version ", layout, ", compensated ", compensated, ", ",
        row_bytes, " bytes; this server's is version ", scope_.layout_version, ", compensated ",
        own_compensated, ", ", scope_.layout.row_bytes(), " bytes"));
  }
  if (encoding_ != RowEncoding::kFloat32 && encoding_ != RowEncoding::kBfloat16) {
    return absl::FailedPreconditionError(absl::StrCat(what_, " has row encoding ",
                                                      static_cast<uint32_t>(encoding_),
                                                      ", this server reads 0 and 1"));
  }
  if (head_.compare(48, 32, OwnerHash(owner_)) != 0) {
    return absl::PermissionDeniedError(absl::StrCat(what_, " belongs to another owner"));
  }
  return absl::OkStatus();
}

absl::Status SnapshotReader::CheckSizes() const {
  const uint32_t stored = version_ > 1 ? At<uint32_t>(head_, 120) : 0;
  if (stored != (id_ ? 1u : 0u)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the bytes are no ", id_ ? "stored session but an exported one"
                                              : "exported session but a stored one"));
  }
  const uint64_t max_body = id_ ? kMaxSnapshotBodyBytes : kMaxExportedBodyBytes;
  if (body_bytes_ > max_body) {
    return absl::InvalidArgumentError(
        absl::StrCat(what_, " has a body of ", body_bytes_, " bytes, limit ", max_body));
  }
  const uint32_t max_checkpoints = id_ ? kMaxSnapshotCheckpoints : 0;
  const uint64_t checkpoint_bytes = checkpoints_ * uint64_t{scope_.layout.row_bytes()};
  if (checkpoints_ > max_checkpoints || checkpoint_bytes > kMaxSnapshotCheckpointBytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        what_, " has ", checkpoints_, " checkpoints of ", checkpoint_bytes, " bytes, limits ",
        max_checkpoints, " and ", kMaxSnapshotCheckpointBytes, " bytes"));
  }
  return absl::OkStatus();
}

uint64_t SnapshotReader::total_bytes() const {
  return head_.size() + body_bytes_ +
         (uint64_t{1} + checkpoints_) * EncodedBytes(scope_.layout, encoding_) + Gcm::kTagBytes;
}

absl::Status SnapshotReader::Add(std::string_view bytes) {
  while (cipher_ == nullptr && !bytes.empty()) {
    const size_t end = version_ == 0 ? kVersionEnd : HeadBytes(version_);
    const size_t count = std::min(bytes.size(), end - head_.size());
    head_ += bytes.substr(0, count);
    bytes.remove_prefix(count);
    if (head_.size() == end) GMA_RETURN_IF_ERROR(TakeHead());
  }
  if (bytes.empty()) return absl::OkStatus();
  TakeSealed(bytes);
  if (tag_.size() + bytes.size() > Gcm::kTagBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(what_, " is longer than its ", total_bytes(), " bytes"));
  }
  tag_ += bytes;
  return absl::OkStatus();
}

// Opens what of `bytes` is before the tag, and removes it from them.
void SnapshotReader::TakeSealed(std::string_view& bytes) {
  size_t count = std::min<uint64_t>(bytes.size(), body_bytes_ - body_.size());
  const size_t body_from = body_.size();
  body_.resize(body_from + count);
  cipher_->Run(bytes.data(), count, body_.data() + body_from);
  bytes.remove_prefix(count);
  const size_t encoded_bytes = EncodedBytes(scope_.layout, encoding_);
  while (!bytes.empty() && rows_.size() < uint64_t{1} + checkpoints_) {
    if (encoded_.empty()) encoded_.reserve(encoded_bytes);
    const size_t from = encoded_.size();
    count = std::min(bytes.size(), encoded_bytes - from);
    encoded_.resize(from + count);
    cipher_->Run(bytes.data(), count, encoded_.data() + from);
    bytes.remove_prefix(count);
    if (encoded_.size() < encoded_bytes) return;
    if (encoding_ == RowEncoding::kFloat32) {
      rows_.push_back(std::exchange(encoded_, RowBytes()));
      continue;
    }
    rows_.emplace_back(scope_.layout.row_bytes());
    DecodeRow(scope_.layout, encoded_, encoding_, absl::MakeSpan(rows_.back()));
    encoded_.clear();
  }
}

absl::StatusOr<SessionImage> SnapshotReader::Finish() && {
  if (cipher_ == nullptr || tag_.size() != Gcm::kTagBytes) {
    std::string size = absl::StrCat(head_.size());
    if (cipher_ != nullptr) {
      const uint64_t sealed =
          body_.size() + encoded_.size() + rows_.size() * EncodedBytes(scope_.layout, encoding_);
      size = absl::StrCat(head_.size() + sealed + tag_.size(), " bytes of ", total_bytes());
    }
    return absl::InvalidArgumentError(absl::StrCat(what_, " is cut: it has ", size));
  }
  if (!cipher_->TagIs(tag_)) {
    return absl::InvalidArgumentError(absl::StrCat(
        what_, " was changed, or sealed ", id_ ? "as another one, or " : "", "with another key",
        scope_.key.kept() ? "" : "; this server has no --state_key, so its key ends with it"));
  }
  return TakeImage();
}

absl::StatusOr<SessionImage> SnapshotReader::TakeImage() {
  absl::StatusOr<SessionImage> image = version_ == 1 ? ReadSnapshotBodyV1(body_, scope_.vocab_size)
                                                     : ReadSnapshotBody(body_, scope_.vocab_size);
  const absl::Status contradiction =
      absl::InvalidArgumentError(absl::StrCat(what_, " contradicts itself"));
  if (!image.ok()) return contradiction;
  std::vector<CheckpointImage>& checkpoints = image->past.checkpoints;
  if (checkpoints.size() != checkpoints_ || !StandsAt(rows_[0], image->point) ||
      image->point.context_tokens() != At<int64_t>(head_, 96)) {
    return contradiction;
  }
  image->row = std::move(rows_[0]);
  for (size_t i = 0; i < checkpoints.size(); ++i) {
    if (!StandsAt(rows_[i + 1], checkpoints[i].point)) return contradiction;
    checkpoints[i].row = std::make_shared<const RowBytes>(std::move(rows_[i + 1]));
  }
  return image;
}

std::string SealSnapshot(const SnapshotScope& scope, const SnapshotLabel& label,
                         SessionImage image) {
  constexpr size_t kPiece = 256 << 10;
  SnapshotWriter writer(scope, label, std::move(image));
  std::string bytes;
  bytes.reserve(writer.bytes());
  for (std::string part = writer.Next(kPiece); !part.empty(); part = writer.Next(kPiece)) {
    bytes += part;
  }
  return bytes;
}

absl::StatusOr<SessionImage> OpenSnapshot(const SnapshotScope& scope, std::string_view owner,
                                          const std::optional<SessionId>& id,
                                          std::string_view bytes) {
  SnapshotReader reader(scope, owner, id);
  GMA_RETURN_IF_ERROR(reader.Add(bytes));
  return std::move(reader).Finish();
}

}  // namespace gma
