// Models (server/rpc/services.h).
#include <string>
#include <utility>
#include <vector>

#include "base/status_macros.h"
#include "server/options/limits.h"
#include "server/rpc/convert.h"
#include "server/rpc/services.h"

namespace gma {
namespace {

void FillModel(const ServedModel& model, const EngineStatus& status, v1::ModelInfo& info) {
  info.set_name(model.name);
  info.set_fingerprint(model.fingerprint);
  info.set_parameter_count(model.parameter_count);
  info.set_vocab_size(model.vocab_size);
  info.set_num_layers(model.num_layers);
  info.set_num_attention_heads(model.num_attention_heads);
  info.set_num_memory_heads(model.num_memory_heads);
  info.set_num_components(model.num_components);
  info.set_state_bytes(model.state_bytes);
  info.set_session_capacity(status.rows_total);
  info.set_sessions_in_use(status.rows_used);
  info.set_max_step_tokens(model.max_step_tokens);
  info.set_max_batch_rows(model.max_batch_rows);
  info.set_device(model.device);
  info.set_weights(model.weights);
  info.set_has_chat_format(model.chat != nullptr);
  info.set_server_version(model.version);
}

}  // namespace

grpc::ServerUnaryReactor* ModelsService::List(Context* context, const v1::ListModelsRequest*,
                                              v1::ListModelsResponse* response) {
  return ServeUnary(context, env_, [&](UnaryReply& reply) -> absl::Status {
    GMA_RETURN_IF_ERROR(OwnerOf(*context, env_).status());
    FillModel(env_.model, env_.engine.GetStatus(), *response->add_models());
    std::move(reply).Finish(absl::OkStatus());
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* ModelsService::Get(Context* context, const v1::GetModelRequest* request,
                                             v1::ModelInfo* response) {
  return ServeUnary(context, env_, [&](UnaryReply& reply) -> absl::Status {
    GMA_RETURN_IF_ERROR(OwnerOf(*context, env_).status());
    GMA_RETURN_IF_ERROR(CheckModelName(request->model(), env_.model));
    FillModel(env_.model, env_.engine.GetStatus(), *response);
    std::move(reply).Finish(absl::OkStatus());
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* ModelsService::Tokenize(Context* context,
                                                  const v1::TokenizeRequest* request,
                                                  v1::TokenizeResponse* response) {
  return ServeUnary(context, env_, [&](UnaryReply& reply) -> absl::Status {
    GMA_RETURN_IF_ERROR(OwnerOf(*context, env_).status());
    GMA_RETURN_IF_ERROR(CheckModelName(request->model(), env_.model));
    GMA_RETURN_IF_ERROR(CheckLimit(limits::kTokenizeBytes, request->text().size()));
    const std::vector<int32_t> ids = env_.model.tokenizer->EncodeText(request->text());
    response->mutable_ids()->Add(ids.begin(), ids.end());
    std::move(reply).Finish(absl::OkStatus());
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* ModelsService::Detokenize(Context* context,
                                                    const v1::DetokenizeRequest* request,
                                                    v1::DetokenizeResponse* response) {
  return ServeUnary(context, env_, [&](UnaryReply& reply) -> absl::Status {
    GMA_RETURN_IF_ERROR(OwnerOf(*context, env_).status());
    GMA_RETURN_IF_ERROR(CheckDetokenize(*request, env_.model));
    GMA_ASSIGN_OR_RETURN(std::string text,
                         env_.model.tokenizer->Decode(request->ids(), /*skip_special=*/false));
    response->set_text(std::move(text));
    std::move(reply).Finish(absl::OkStatus());
    return absl::OkStatus();
  });
}

}  // namespace gma
