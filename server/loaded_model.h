// Everything that comes out of a model directory, read and checked before a port is opened.
#ifndef GMA_SERVER_LOADED_MODEL_H_
#define GMA_SERVER_LOADED_MODEL_H_

#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "model/checkpoint/model_dir.h"
#include "model/decoder/compiled_decoder.h"
#include "model/tokenizer/chat_template.h"
#include "model/tokenizer/tokenizer.h"
#include "server/options/server_options.h"
#include "server/rpc/served_model.h"

namespace gma {

// Pointers in `served` and `chat` are to the other members, which stay where they are when it
// moves.
struct LoadedModel {
  ModelDir directory;
  std::unique_ptr<Tokenizer> tokenizer = nullptr;
  std::unique_ptr<ChatTemplate> chat = nullptr;  // null: the model has no chat format
  std::unique_ptr<CompiledDecoder> decoder = nullptr;
  ServedModel served = {};
};

// The files are checked first, the decoder comes last.
// ERRORS: those of the parts, with a message that names the file or the option.
absl::StatusOr<LoadedModel> LoadModel(const ServerOptions& options);

}  // namespace gma

#endif  // GMA_SERVER_LOADED_MODEL_H_
