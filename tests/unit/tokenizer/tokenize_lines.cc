// What tests/integration/test_tokenizer_oracle.py compares with Hugging Face `tokenizers`.
//   tokenize_lines <directory of tokenizer.json> text|template
// Standard input: records of a uint32 length (little endian) and that many bytes. Standard output,
// for each: uint32 count and the tokens (int32), uint32 length and their decoded bytes. Standard
// error, at the end: bytes encoded and the speed of encoding alone.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <iostream>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "model/tokenizer/tokenizer.h"

namespace gma {
namespace {

bool ReadRecord(std::istream& in, std::string& record) {
  uint32_t length = 0;
  if (!in.read(reinterpret_cast<char*>(&length), sizeof length)) return false;
  record.resize(length);
  return static_cast<bool>(in.read(record.data(), length));
}

template <typename Items>
void WriteRecord(std::ostream& out, const Items& items) {
  const uint32_t count = static_cast<uint32_t>(items.size());
  out.write(reinterpret_cast<const char*>(&count), sizeof count);
  out.write(reinterpret_cast<const char*>(items.data()),
            static_cast<std::streamsize>(items.size() * sizeof items[0]));
}

int Run(const std::string& directory, bool as_template) {
  const absl::StatusOr<std::unique_ptr<Tokenizer>> loaded = Tokenizer::Load(directory);
  if (!loaded.ok()) {
    std::cerr << loaded.status().ToString() << "\n";
    return 1;
  }
  const Tokenizer& tokenizer = **loaded;
  std::ios::sync_with_stdio(false);
  std::chrono::duration<double> spent{};
  size_t bytes = 0;
  for (std::string record; ReadRecord(std::cin, record);) {
    const auto start = std::chrono::steady_clock::now();
    const std::vector<int32_t> tokens =
        as_template ? tokenizer.EncodeTemplate(record) : tokenizer.EncodeText(record);
    spent += std::chrono::steady_clock::now() - start;
    bytes += record.size();
    WriteRecord(std::cout, tokens);
    WriteRecord(std::cout, *tokenizer.Decode(tokens, /*skip_special=*/false));
  }
  std::fprintf(stderr, "%zu bytes, %.2f MB/s\n", bytes,
               static_cast<double>(bytes) / 1e6 / spent.count());
  return 0;
}

}  // namespace
}  // namespace gma

int main(int argc, char** argv) {
  const std::string_view mode = argc == 3 ? argv[2] : "";
  if (mode != "text" && mode != "template") {
    std::cerr << "usage: tokenize_lines <directory> text|template\n";
    return 2;
  }
  return gma::Run(argv[1], mode == "template");
}
