#include "model/checkpoint/safetensors.h"

#include <sys/stat.h>

#include <chrono>
#include <filesystem>
#include <string>

#include "absl/strings/str_cat.h"
#include "model/checkpoint/safetensors_header.h"
#include "tests/support/safetensors_bytes.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace gma {
namespace {

using ::gma::testing::AsBytes;
using ::gma::testing::IsOk;
using ::gma::testing::SafetensorsImage;
using ::gma::testing::StatusIs;
using ::gma::testing::TempDir;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

// {"a": F32 [2, 2], "b": U8 [3]} over 19 bytes of data.
const char kGoodHeader[] = R"({"__metadata__":{"format":"pt"},)"
                           R"("a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},)"
                           R"("b":{"data_offsets":[16,19],"shape":[3],"dtype":"U8"}})";

TEST(Safetensors, ReadsNamesTypesShapesAndBytes) {
  const std::string image = SafetensorsImage(kGoodHeader, 19);
  GMA_ASSERT_OK_AND_ASSIGN(TensorMap tensors, ParseSafetensors(AsBytes(image)));
  ASSERT_EQ(tensors.size(), 2u);
  const TensorView& a = tensors.at("a");
  EXPECT_EQ(a.type, TensorType::kFloat32);
  EXPECT_THAT(a.shape, ElementsAre(2, 2));
  EXPECT_EQ(a.As<float>().size(), 4u);
  EXPECT_EQ(a.data[15], 15);
  EXPECT_THAT(tensors.at("b").As<uint8_t>(), ElementsAre(16, 17, 18));
}

TEST(Safetensors, ScalarsAndEmptyTensorsAreTensors) {
  const std::string image =
      SafetensorsImage(R"({"scalar":{"dtype":"F64","shape":[],"data_offsets":[0,8]},)"
                       R"("empty":{"dtype":"F64","shape":[0,5],"data_offsets":[8,8]}})",
                       8);
  GMA_ASSERT_OK_AND_ASSIGN(TensorMap tensors, ParseSafetensors(AsBytes(image)));
  EXPECT_EQ(tensors.at("scalar").As<double>().size(), 1u);
  EXPECT_THAT(tensors.at("empty").data, IsEmpty());
}

TEST(Safetensors, AnEmptyHeaderIsAFileWithoutTensors) {
  GMA_ASSERT_OK_AND_ASSIGN(TensorMap tensors, ParseSafetensors(AsBytes(SafetensorsImage("{}", 0))));
  EXPECT_THAT(tensors, IsEmpty());
}

TEST(Safetensors, EveryTypeNameIsReadBack) {
  for (TensorType type :
       {TensorType::kFloat64, TensorType::kFloat32, TensorType::kFloat16, TensorType::kBFloat16,
        TensorType::kInt64, TensorType::kInt32, TensorType::kUint8}) {
    EXPECT_EQ(TensorTypeFromName(TensorTypeName(type)), type);
  }
  EXPECT_EQ(TensorTypeFromName("F8_E4M3"), std::nullopt);
}

struct HeaderCase {
  const char* header;
  const char* message;  // part of it
};

// One entry "t" with the given fields, beside 16 bytes of data.
#define ENTRY(fields) R"({"t":{)" fields R"(}})"

const HeaderCase kBadHeaders[] = {
    // Data that does not add up.
    {ENTRY(R"("dtype":"U8","shape":[17],"data_offsets":[0,17])"), "outside the file"},
    {ENTRY(R"("dtype":"U8","shape":[1],"data_offsets":[100,101])"), "outside the file"},
    {ENTRY(R"("dtype":"U8","shape":[16],"data_offsets":[0,18446744073709551615])"), "outside"},
    {ENTRY(R"("dtype":"U8","shape":[16],"data_offsets":[18446744073709551615,16])"), "backwards"},
    {ENTRY(R"("dtype":"U8","shape":[16],"data_offsets":[16,0])"), "backwards"},
    {ENTRY(R"("dtype":"U8","shape":[15],"data_offsets":[0,16])"), "shape needs 15 bytes"},
    {ENTRY(R"("dtype":"F32","shape":[16],"data_offsets":[0,16])"), "shape needs 64 bytes"},
    {ENTRY(R"("dtype":"U8","shape":[8],"data_offsets":[8,16])"), "hole"},
    {ENTRY(R"("dtype":"U8","shape":[8],"data_offsets":[0,8])"), "8 trailing bytes"},
    {"{}", "16 trailing bytes"},
    {R"({"a":{"dtype":"U8","shape":[10],"data_offsets":[0,10]},)"
     R"("b":{"dtype":"U8","shape":[8],"data_offsets":[8,16]}})",
     "overlap"},
    {R"({"a":{"dtype":"U8","shape":[16],"data_offsets":[0,16]},)"
     R"("b":{"dtype":"U8","shape":[16],"data_offsets":[0,16]}})",
     "overlap"},
    {R"({"a":{"dtype":"U8","shape":[16],"data_offsets":[0,16]},)"
     R"("b":{"dtype":"U8","shape":[0],"data_offsets":[8,8]}})",
     "overlap"},
    {R"({"a":{"dtype":"U8","shape":[6],"data_offsets":[0,6]},)"
     R"("b":{"dtype":"U8","shape":[8],"data_offsets":[8,16]}})",
     "hole"},
    {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
     R"("b":{"dtype":"F32","shape":[3],"data_offsets":[2,14]},)"
     R"("c":{"dtype":"U8","shape":[2],"data_offsets":[14,16]}})",
     "of the file, must be a multiple of 4"},
    // Shapes that overflow or are none.
    {ENTRY(R"("dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0])"), "overflows"},
    {ENTRY(R"("dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0])"), "overflows"},
    {ENTRY(R"("dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,0])"),
     "shape overflows: 9223372036854775808"},
    {ENTRY(R"("dtype":"U8","shape":[18446744073709551616],"data_offsets":[0,0])"), "integer"},
    {ENTRY(R"("dtype":"U8","shape":[-16],"data_offsets":[0,16])"),
     "negative number -16, must be an integer of at least 0"},
    {ENTRY(R"("dtype":"U8","shape":[-4,-4],"data_offsets":[0,16])"), "negative"},
    {ENTRY(R"("dtype":"U8","shape":[16.0],"data_offsets":[0,16])"),
     "number 16.0 is not an integer"},
    {ENTRY(R"("dtype":"U8","shape":[1,1,1,1,1,1,1,1,16],"data_offsets":[0,16])"), "8 dimensions"},
    {ENTRY(R"("dtype":"U8","shape":16,"data_offsets":[0,16])"), "number is not expected"},
    {ENTRY(R"("dtype":"U8","shape":[[16]],"data_offsets":[0,16])"), "array is not expected"},
    {ENTRY(R"("dtype":"U8","shape":["16"],"data_offsets":[0,16])"), "string is not expected"},
    {ENTRY(R"("dtype":"U8","shape":[true],"data_offsets":[0,16])"), "truth value"},
    // Entries that are not entries.
    {ENTRY(R"("dtype":"U8","shape":[16],"data_offsets":[-1,16])"), "negative"},
    {ENTRY(R"("dtype":"U8","shape":[16],"data_offsets":[0])"), "two numbers"},
    {ENTRY(R"("dtype":"U8","shape":[16],"data_offsets":[0,16,16])"), "two numbers"},
    {ENTRY(R"("dtype":"U8","shape":[16],"data_offsets":{})"), "object is not expected"},
    {ENTRY(R"("dtype":"F8","shape":[16],"data_offsets":[0,16])"),
     "unknown dtype \"F8\", known are F64, F32"},
    {ENTRY(R"("dtype":"f32","shape":[4],"data_offsets":[0,16])"), "unknown dtype"},
    {ENTRY(R"("dtype":["U8"],"shape":[16],"data_offsets":[0,16])"), "dtype must be a string"},
    {ENTRY(R"("dtype":null,"shape":[16],"data_offsets":[0,16])"), "null is not expected"},
    {ENTRY(R"("shape":[16],"data_offsets":[0,16])"), "missing key dtype"},
    {ENTRY(R"("dtype":"U8","data_offsets":[0,16])"), "missing key shape"},
    {ENTRY(R"("dtype":"U8","shape":[16])"), "missing key data_offsets"},
    {ENTRY(R"("dtype":"U8","dtype":"U8","shape":[16],"data_offsets":[0,16])"), "duplicate key"},
    {ENTRY(R"("dtype":"U8","shape":[16],"data_offsets":[0,16],"strides":[1])"),
     "unknown key \"strides\", known are dtype, shape, data_offsets"},
    {R"({"t":[]})", "array is not expected"},
    {R"({"t":"U8"})", "string is not expected"},
    {R"({"":{"dtype":"U8","shape":[16],"data_offsets":[0,16]}})", "empty name"},
    {R"({"t":{"dtype":"U8","shape":[16],"data_offsets":[0,16]},)"
     R"("t":{"dtype":"U8","shape":[16],"data_offsets":[0,16]}})",
     "duplicate name"},
    {R"({"__metadata__":{},"__metadata__":{}})", "duplicate name"},
    {R"({"__metadata__":{"a":{}}})", "object is not expected"},
    {R"({"__metadata__":{"a":1}})", "number is not expected"},
    {R"({"__metadata__":["a"]})", "array is not expected"},
    // Text that is not the JSON of a header.
    {"[]", "does not start with '{'"},
    {" {}", "does not start with '{'"},
    {"{", "syntax error"},
    {"{} {}", "syntax error"},
    {"{\"\xff\":{}}", "syntax error"},
    {"{\"a\":NaN}", "syntax error"},
};

TEST(Safetensors, RefusesEveryHeaderThatDoesNotAddUp) {
  for (const HeaderCase& bad : kBadHeaders) {
    const std::string image = SafetensorsImage(bad.header, 16);
    EXPECT_THAT(ParseSafetensors(AsBytes(image)), StatusIs(kInvalid, HasSubstr(bad.message)))
        << bad.header;
  }
}

TEST(Safetensors, RefusalsNameTheEntry) {
  const std::string image = SafetensorsImage(
      R"({"model.norm.weight":{"dtype":"U8","shape":[-1],"data_offsets":[0,16]}})", 16);
  EXPECT_THAT(ParseSafetensors(AsBytes(image)),
              StatusIs(kInvalid, HasSubstr("\"model.norm.weight\": negative")));
  const std::string hostile =
      SafetensorsImage(R"({"new\nline":{"dtype":"U8","shape":[-1],"data_offsets":[0,16]}})", 16);
  EXPECT_THAT(ParseSafetensors(AsBytes(hostile)),
              StatusIs(kInvalid, AllOf(HasSubstr("new\\nline"), Not(HasSubstr("\n")))));
}

TEST(Safetensors, RefusesLengthsThatLie) {
  EXPECT_THAT(ParseSafetensors({}), StatusIs(kInvalid, HasSubstr("truncated header")));
  std::string image = SafetensorsImage("{}", 0);
  image[0] = 9;
  EXPECT_THAT(ParseSafetensors(AsBytes(image)), StatusIs(kInvalid, HasSubstr("truncated header")));
  image[0] = 0;
  EXPECT_THAT(ParseSafetensors(AsBytes(image)), StatusIs(kInvalid, HasSubstr("start with")));
  image[7] = '\x80';
  EXPECT_THAT(ParseSafetensors(AsBytes(image)), StatusIs(kInvalid, HasSubstr("oversized header")));
}

TEST(Safetensors, RefusesAHugeHeaderBeforeReadingIt) {
  const std::string image = SafetensorsImage("{" + std::string(100 << 20, ' ') + "}", 0);
  EXPECT_THAT(ParseSafetensors(AsBytes(image)), StatusIs(kInvalid, HasSubstr("limit 16777216")));
}

TEST(Safetensors, RefusesAZeroByteInTheHeader) {
  // The JSON parser would take it for the end of the text.
  const std::string image = SafetensorsImage(std::string("{}\0{}", 5), 0);
  EXPECT_THAT(ParseSafetensors(AsBytes(image)),
              StatusIs(kInvalid, HasSubstr("zero byte at byte 2")));
}

TEST(Safetensors, RefusesNamesOverTheLimit) {
  auto header = [](size_t bytes) {
    return absl::StrCat("{\"", std::string(bytes, 'n'),
                        R"(":{"dtype":"U8","shape":[16],"data_offsets":[0,16]}})");
  };
  EXPECT_THAT(ParseSafetensors(AsBytes(SafetensorsImage(header(512), 16))), IsOk());
  EXPECT_THAT(ParseSafetensors(AsBytes(SafetensorsImage(header(513), 16))),
              StatusIs(kInvalid, HasSubstr("513 bytes, limit 512")));
}

TEST(Safetensors, AFileCutAnywhereIsRefused) {
  const std::string image = SafetensorsImage(kGoodHeader, 19);
  for (size_t size = 0; size < image.size(); ++size) {
    // A copy of exactly this size: a read past its end is seen by the sanitizer.
    const std::string cut = image.substr(0, size);
    EXPECT_THAT(ParseSafetensors(AsBytes(cut)), StatusIs(kInvalid, Not(""))) << size;
  }
}

// A header with `count` entries of no bytes.
std::string ManyEntries(size_t count) {
  std::string header = "{";
  for (size_t i = 0; i < count; ++i) {
    absl::StrAppend(&header, i == 0 ? "" : ",", "\"tensor", i,
                    R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})");
  }
  return SafetensorsImage(header + "}", 0);
}

TEST(Safetensors, ALargeNumberOfBogusEntriesIsCheap) {
  const std::string most = ManyEntries(kMaxSafetensorsEntries);
  const std::string too_many = ManyEntries(kMaxSafetensorsEntries + 1);
  const auto start = std::chrono::steady_clock::now();
  GMA_ASSERT_OK_AND_ASSIGN(TensorMap tensors, ParseSafetensors(AsBytes(most)));
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  EXPECT_EQ(tensors.size(), kMaxSafetensorsEntries);
  EXPECT_THAT(ParseSafetensors(AsBytes(too_many)),
              StatusIs(kInvalid, HasSubstr("more than 100000 entries")));
  RecordProperty("milliseconds", static_cast<int>(1000 * seconds.count()));
  std::printf("100,000 entries, %zu bytes: %.3f s\n", most.size(), seconds.count());
}

TEST(Safetensors, DeepNestingIsRefusedAtOnce) {
  const std::string image = SafetensorsImage("{\"t\":" + std::string(1 << 20, '['), 0);
  EXPECT_THAT(ParseSafetensors(AsBytes(image)), StatusIs(kInvalid, HasSubstr("array")));
}

TEST(SafetensorsFile, MissingAndIrregularFilesAreRefusedWithTheirPath) {
  TempDir dir;
  EXPECT_THAT(SafetensorsFile::Open(dir.File("none")),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr(dir.File("none"))));
  EXPECT_THAT(SafetensorsFile::Open(dir.path()), StatusIs(kInvalid, HasSubstr("not a regular")));
  ASSERT_EQ(mkfifo(dir.File("fifo").c_str(), 0600), 0);
  EXPECT_THAT(SafetensorsFile::Open(dir.File("fifo")),
              StatusIs(kInvalid, HasSubstr("not a regular file")));
  std::filesystem::create_directory_symlink(dir.path(), dir.File("link"));
  EXPECT_THAT(SafetensorsFile::Open(dir.File("link")),
              StatusIs(kInvalid, HasSubstr("not a regular file")));
  EXPECT_THAT(SafetensorsFile::Open(dir.Write("empty", "")),
              StatusIs(kInvalid, AllOf(HasSubstr(dir.File("empty")), HasSubstr("truncated"))));
}

TEST(SafetensorsFile, ALinkToAFileIsFollowed) {
  // Caches of models are made of such links.
  TempDir dir;
  dir.Write("blob", SafetensorsImage(kGoodHeader, 19));
  std::filesystem::create_symlink("blob", dir.File("model.safetensors"));
  EXPECT_THAT(SafetensorsFile::Open(dir.File("model.safetensors")), IsOk());
}

TEST(SafetensorsFile, ViewsOutliveAMoveOfTheFileObject) {
  TempDir dir;
  GMA_ASSERT_OK_AND_ASSIGN(SafetensorsFile file, SafetensorsFile::Open(dir.Write(
                                                     "f", SafetensorsImage(kGoodHeader, 19))));
  const TensorView view = file.tensors().at("b");
  SafetensorsFile moved = std::move(file);
  EXPECT_THAT(view.As<uint8_t>(), ElementsAre(16, 17, 18));
  EXPECT_EQ(moved.tensors().at("b").data.data(), view.data.data());
}

TEST(SafetensorsFile, ReadsWhatThePythonPackageWrites) {
  GMA_ASSERT_OK_AND_ASSIGN(
      SafetensorsFile file,
      SafetensorsFile::Open(GMA_SOURCE_DIR "/tests/golden/plain/expected.safetensors"));
  const TensorView& tokens = file.tensors().at("tokens");
  EXPECT_EQ(tokens.type, TensorType::kInt64);
  EXPECT_THAT(tokens.shape, ElementsAre(512));
  for (int64_t token : tokens.As<int64_t>()) ASSERT_TRUE(token >= 0 && token < 128) << token;
  EXPECT_EQ(file.tensors().at("logits").type, TensorType::kFloat64);
}

TEST(SafetensorsFile, AFileOfThePythonPackageCutAnywhereIsRefused) {
  GMA_ASSERT_OK_AND_ASSIGN(
      std::string image,
      ReadFile(GMA_SOURCE_DIR "/tests/golden/plain/model.safetensors", size_t{1} << 20));
  for (size_t size = 0; size < image.size(); size += 64) {
    const std::string cut = image.substr(0, size);
    ASSERT_THAT(ParseSafetensors(AsBytes(cut)), StatusIs(kInvalid, Not(""))) << size;
  }
}

}  // namespace
}  // namespace gma
