// A model to convert requests for: 300 rows, of which the tokenizer names 258, with a chat format.
#ifndef GMA_TESTS_UNIT_RPC_CONVERT_FIXTURE_H_
#define GMA_TESTS_UNIT_RPC_CONVERT_FIXTURE_H_

#include <memory>
#include <string>
#include <utility>

#include "base/check.h"
#include "server/rpc/served_model.h"
#include "tests/support/temp_dir.h"
#include "tests/unit/tokenizer/small_tokenizer.h"

namespace gma::testing {

inline constexpr int32_t kVocab = 300;

class ConvertModel {
 public:
  ConvertModel() : tokenizer_(*Tokenizer::Parse(SmallTokenizerJson().dump())) {
    const TempDir dir;
    dir.Write("tokenizer_config.json", R"({"gma_chat": {"default_system": "be kind", "roles": {
        "system": {"prefix": "<|start|>s", "suffix": "<|end|>"},
        "user": {"prefix": "<|start|>u", "suffix": "<|end|>"},
        "assistant": {"prefix": "<|start|>a", "suffix": "<|end|>"}},
        "generation_prefix": "<|start|>a"}})");
    auto chat = ChatTemplate::Load(dir.path(), *tokenizer_);
    GMA_CHECK(chat.ok());
    chat_ = std::make_unique<ChatTemplate>(*std::move(chat));
    model.name = "small";
    model.vocab_size = kVocab;
    model.tokenizer = tokenizer_.get();
    model.chat = chat_.get();
    model.chat_opening = ChatOpening(*chat_);
    model.end_tokens = {kEndOfText};
  }

  ServedModel model;

 private:
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<ChatTemplate> chat_;
};

}  // namespace gma::testing

#endif  // GMA_TESTS_UNIT_RPC_CONVERT_FIXTURE_H_
