// A fresh directory that goes with its object, and files in it.
#ifndef GMA_TESTS_SUPPORT_TEMP_DIR_H_
#define GMA_TESTS_SUPPORT_TEMP_DIR_H_

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "base/check.h"

namespace gma::testing {

// A temporary directory, removed with everything in it.
class TempDir {
 public:
  TempDir() {
    path_ = (std::filesystem::temp_directory_path() / "gma_test_XXXXXX").string();
    GMA_CHECK(mkdtemp(path_.data()) != nullptr);
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::string& path() const { return path_; }
  std::string File(const std::string& name) const { return path_ + "/" + name; }
  // Writes `bytes` to the file `name` and returns its path.
  std::string Write(const std::string& name, std::string_view bytes) const {
    std::ofstream out(File(name), std::ios::binary | std::ios::trunc);
    out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    out.close();
    GMA_CHECK(out.good());
    return File(name);
  }

 private:
  std::string path_;
};

}  // namespace gma::testing

#endif  // GMA_TESTS_SUPPORT_TEMP_DIR_H_
