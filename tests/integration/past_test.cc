// Sessions.Fork, Checkpoint, ListCheckpoints, Rewind, Export and Import, over gRPC on loopback.
#include <memory>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "tests/integration/server_fixture.h"

namespace gma::testing {
namespace {

using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

class PastTest : public ::testing::Test {
 protected:
  void Start(TestServerOptions options = {}) {
    options.engine.past = {
        .checkpoint_bytes = 1 << 20, .checkpoint_tokens = 16, .rewind_tokens = 1000};
    server_ = std::make_unique<TestServer>(std::move(options));
    channel_ = server_->NewChannel();
    stub_ = v1::Generation::NewStub(channel_);
    sessions_ = v1::Sessions::NewStub(channel_);
  }
  template <typename Request, typename Response>
  grpc::Status Call(grpc::Status (v1::Sessions::Stub::*method)(grpc::ClientContext*, const Request&,
                                                               Response*),
                    const Request& request, Response& response, const std::string& key = "") {
    grpc::ClientContext context;
    if (!key.empty()) context.AddMetadata("authorization", "Bearer " + key);
    return ((*sessions_).*method)(&context, request, &response);
  }
  std::string Open(const std::string& key = "") {
    v1::SessionInfo info;
    EXPECT_TRUE(Call(&v1::Sessions::Stub::Open, v1::OpenSessionRequest(), info, key).ok());
    return info.session_id();
  }
  grpc::Status Fork(const std::string& id, v1::SessionInfo& info, const std::string& key = "") {
    v1::ForkRequest request;
    request.set_session_id(id);
    return Call(&v1::Sessions::Stub::Fork, request, info, key);
  }
  grpc::Status Checkpoint(const std::string& id, const std::string& name, v1::CheckpointInfo& info,
                          const std::string& key = "") {
    v1::CheckpointRequest request;
    request.set_session_id(id);
    request.set_name(name);
    return Call(&v1::Sessions::Stub::Checkpoint, request, info, key);
  }
  grpc::Status RewindTo(const std::string& id, int64_t tokens, v1::SessionInfo& info,
                        const std::string& key = "") {
    v1::RewindRequest request;
    request.set_session_id(id);
    request.set_context_tokens(tokens);
    return Call(&v1::Sessions::Stub::Rewind, request, info, key);
  }
  grpc::Status Export(const std::string& id, std::string& blob, const std::string& key = "") {
    grpc::ClientContext context;
    if (!key.empty()) context.AddMetadata("authorization", "Bearer " + key);
    v1::ExportRequest request;
    request.set_session_id(id);
    const auto reader = sessions_->Export(&context, request);
    v1::StateChunk chunk;
    while (reader->Read(&chunk)) blob += chunk.data();
    return reader->Finish();
  }
  grpc::Status Import(const std::string& blob, size_t chunk_bytes, v1::SessionInfo& info,
                      const std::string& key = "") {
    grpc::ClientContext context;
    if (!key.empty()) context.AddMetadata("authorization", "Bearer " + key);
    const auto writer = sessions_->Import(&context, &info);
    v1::StateChunk chunk;
    for (size_t from = 0; from < blob.size(); from += chunk_bytes) {
      chunk.set_data(blob.substr(from, chunk_bytes));
      if (!writer->Write(chunk)) break;
    }
    writer->WritesDone();
    return writer->Finish();
  }
  std::vector<int32_t> Say(const std::string& id, const std::vector<int32_t>& prompt,
                           int64_t max_tokens) {
    v1::GenerateRequest request = GreedyRequest(prompt, max_tokens);
    if (prompt.empty()) request.clear_input();
    request.set_session_id(id);
    return Generate(*stub_, request).tokens;
  }

  std::unique_ptr<TestServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Generation::Stub> stub_;
  std::unique_ptr<v1::Sessions::Stub> sessions_;
};

TEST_F(PastTest, ForkCheckpointAndRewindKeepTheTokens) {
  Start();
  const std::string id = Open();
  std::vector<int32_t> tokens = {1, 2, 3};
  const std::vector<int32_t> first = Say(id, tokens, 40);
  tokens.insert(tokens.end(), first.begin(), first.end());
  v1::SessionInfo fork, info;
  ASSERT_TRUE(Fork(id, fork).ok());
  EXPECT_EQ(fork.context_tokens(), 43);
  EXPECT_EQ(fork.ttl_seconds(), 1800);
  EXPECT_GT(fork.checkpoints(), 2);
  EXPECT_EQ(fork.checkpoint_bytes(), fork.checkpoints() * fork.state_bytes());
  v1::CheckpointInfo kept;
  ASSERT_TRUE(Checkpoint(id, "a", kept).ok());
  EXPECT_EQ(kept.name(), "a");
  EXPECT_EQ(kept.context_tokens(), 43);
  // Each position of the answer, each from the fork as it was.
  for (const int64_t position : {43, 42, 20, 3, 1}) {
    ASSERT_TRUE(RewindTo(fork.session_id(), position, info).ok()) << position;
    EXPECT_EQ(info.context_tokens(), position);
    std::vector<int32_t> prompt(tokens.begin(), tokens.begin() + position);
    prompt.push_back(9);
    EXPECT_THAT(Say(fork.session_id(), {9}, 6), ElementsAreArray(OracleTokens(prompt, 6)));
  }
  v1::RewindRequest rewind;
  rewind.set_session_id(id);
  rewind.set_checkpoint("a");
  Say(id, {30}, 5);
  ASSERT_TRUE(Call(&v1::Sessions::Stub::Rewind, rewind, info).ok());
  tokens.push_back(9);
  EXPECT_THAT(Say(id, {9}, 6), ElementsAreArray(OracleTokens(tokens, 6)));
  v1::ListCheckpointsRequest list;
  list.set_session_id(id);
  v1::ListCheckpointsResponse listed;
  ASSERT_TRUE(Call(&v1::Sessions::Stub::ListCheckpoints, list, listed).ok());
  int named = 0;
  for (const v1::CheckpointInfo& checkpoint : listed.checkpoints()) {
    EXPECT_EQ(checkpoint.automatic(), checkpoint.name().empty());
    named += checkpoint.name() == "a" ? 1 : 0;
  }
  EXPECT_EQ(named, 1);
}

TEST_F(PastTest, AStreamGoesOnFromWhereItsSessionWasRewoundTo) {
  Start();
  SessionClient client(*stub_);
  const std::string id = client.Open({}).session_id();
  client.StartGenerate({1, 2, 3}, 20);
  const std::vector<int32_t> first = client.ReadTurn().tokens;
  v1::SessionInfo info;
  ASSERT_TRUE(RewindTo(id, 10, info).ok());
  client.StartGenerate({}, 13);
  EXPECT_THAT(client.ReadTurn().tokens, ElementsAreArray(first.begin() + 7, first.end()));
}

TEST_F(PastTest, BadRequestsAreRefusedByName) {
  Start();
  const std::string id = Open();
  v1::SessionInfo info;
  v1::CheckpointInfo kept;
  grpc::Status status = Checkpoint(id, std::string(65, 'x'), kept);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("checkpoint.name is 65 bytes"));
  EXPECT_TRUE(Checkpoint(id, std::string(64, 'x'), kept).ok());
  v1::RewindRequest rewind;
  rewind.set_session_id(id);
  status = Call(&v1::Sessions::Stub::Rewind, rewind, info);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("target is not set"));
  rewind.set_checkpoint("never");
  EXPECT_EQ(Call(&v1::Sessions::Stub::Rewind, rewind, info).error_code(),
            grpc::StatusCode::NOT_FOUND);
  status = RewindTo(id, 1, info);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::OUT_OF_RANGE);
  EXPECT_THAT(status.error_message(), HasSubstr("holds 0 tokens"));
  EXPECT_EQ(RewindTo(id, -1, info).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(Fork("xyz", info).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(PastTest, AFullPoolNamesItsRowsAndSaysWhenToComeBack) {
  TestServerOptions options;
  options.engine.park_memory_bytes = 0;
  Start(std::move(options));
  const std::string id = Open();
  std::string blob;
  ASSERT_TRUE(Export(id, blob).ok());
  v1::SessionInfo info;
  for (int i = 0; i < 7; ++i) ASSERT_TRUE(Fork(id, info).ok());
  grpc::ClientContext context;
  v1::ForkRequest request;
  request.set_session_id(id);
  const grpc::Status status = sessions_->Fork(&context, request, &info);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("all 8 state rows"));
  EXPECT_EQ(context.GetServerTrailingMetadata().count("retry-after-ms"), 1u);
  EXPECT_EQ(Import(blob, 1000, info).error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(PastTest, AFullPoolMakesRoomByParkingIdleSessions) {
  Start();
  const std::string id = Open();
  const std::vector<int32_t> tokens = {1, 2, 3};
  const std::vector<int32_t> first = Say(id, tokens, 4);
  v1::SessionInfo info;
  std::string oldest;
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(Fork(id, info).ok());
    if (i == 0) oldest = info.session_id();
  }
  std::vector<int32_t> prompt = tokens;
  prompt.insert(prompt.end(), first.begin(), first.end());
  EXPECT_THAT(Say(oldest, {}, 6), ElementsAreArray(OracleTokens(prompt, 6)));
  EXPECT_THAT(Say(id, {}, 6), ElementsAreArray(OracleTokens(prompt, 6)));
}

TEST_F(PastTest, OneOwnersImportsAtOnceAreBounded) {
  Start();
  const std::string id = Open();
  Say(id, {1, 2, 3}, 4);
  // Streams that send next to nothing and stay.
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<v1::SessionInfo>> infos;
  std::vector<std::unique_ptr<grpc::ClientWriter<v1::StateChunk>>> writers;
  const auto open_import = [&] {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    infos.push_back(std::make_unique<v1::SessionInfo>());
    writers.push_back(sessions_->Import(contexts.back().get(), infos.back().get()));
    v1::StateChunk chunk;
    chunk.set_data("G");
    writers.back()->Write(chunk);
  };
  for (int i = 0; i < 31; ++i) open_import();
  // An export on its way may take the place of an import, so more than one may be needed yet.
  std::string blob;
  grpc::Status refused;
  for (int i = 0; i < 200 && refused.ok(); ++i) {
    open_import();
    absl::SleepFor(absl::Milliseconds(10));
    refused = Export(id, blob);
  }
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(refused.error_message(), HasSubstr("32 exports and imports are under way, limit 32"));
  for (size_t i = 0; i < writers.size(); ++i) {
    contexts[i]->TryCancel();
    EXPECT_FALSE(writers[i]->Finish().ok());
  }
  grpc::Status now = refused;
  for (int i = 0; i < 1000 && !now.ok(); ++i) {
    blob.clear();
    now = Export(id, blob);
    absl::SleepFor(absl::Milliseconds(10));
  }
  EXPECT_TRUE(now.ok()) << now.error_message();
}

TEST_F(PastTest, AnExportedSessionIsImportedAsANewOne) {
  Start();
  const std::string id = Open();
  std::vector<int32_t> tokens = {1, 2, 3};
  const std::vector<int32_t> first = Say(id, tokens, 10);
  tokens.insert(tokens.end(), first.begin(), first.end());
  std::string blob;
  ASSERT_TRUE(Export(id, blob).ok());
  v1::SessionInfo info;
  for (const size_t chunk : {size_t{1}, size_t{100}, size_t{1} << 20}) {
    ASSERT_TRUE(Import(blob, chunk, info).ok());
    const std::string copy = info.session_id();
    EXPECT_NE(copy, id);
    EXPECT_EQ(info.context_tokens(), 13);
    std::vector<int32_t> prompt = tokens;
    prompt.push_back(9);
    EXPECT_THAT(Say(copy, {9}, 6), ElementsAreArray(OracleTokens(prompt, 6)));
    EXPECT_EQ(RewindTo(copy, 5, info).error_code(), grpc::StatusCode::OUT_OF_RANGE);
    ASSERT_TRUE(RewindTo(copy, 14, info).ok());
    EXPECT_THAT(Say(copy, {}, 6), ElementsAreArray(OracleTokens(prompt, 6)));
  }
  EXPECT_THAT(Import(blob.substr(0, 200), 100, info).error_message(), HasSubstr("is cut"));
  EXPECT_THAT(Import(std::string(1 << 20, 'x'), 1 << 20, info).error_message(),
              HasSubstr("no exported session"));
  EXPECT_THAT(Import(blob + std::string(1 << 20, 'x'), 1 << 20, info).error_message(),
              HasSubstr("longer than"));
  EXPECT_THAT(Import(std::string((1 << 20) + 1, 'x'), (1 << 20) + 1, info).error_message(),
              HasSubstr("import.data is 1048577 bytes"));
  EXPECT_EQ(Import("", 1, info).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(Export("xyz", blob).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(PastTest, AnotherOwnersSessionIsNotFoundWhateverIsCalled) {
  TestServerOptions options;
  const auto keys = ApiKeys::Parse(
      // echo -n alice | sha256sum, and of bob.
      "alice:2bd806c97f0e00af1a1fc3328fa763a9269723c8db8fac4f93af71db186d6e90\n"
      "bob:81b637d8fcd2c6da6359e6963113a1170de795e4b725b84d1e0b4cfd9ec58ce9\n");
  ASSERT_TRUE(keys.ok()) << keys.status().ToString();
  options.api_keys = *keys;
  Start(options);
  const std::string id = Open("alice");
  v1::SessionInfo info;
  v1::CheckpointInfo kept;
  v1::ListCheckpointsRequest list;
  list.set_session_id(id);
  v1::ListCheckpointsResponse listed;
  ASSERT_TRUE(Checkpoint(id, "a", kept, "alice").ok());
  v1::RewindRequest rewind;
  rewind.set_session_id(id);
  rewind.set_checkpoint("a");
  for (const grpc::Status& status :
       {Fork(id, info, "bob"), Checkpoint(id, "a", kept, "bob"), RewindTo(id, 0, info, "bob"),
        Call(&v1::Sessions::Stub::Rewind, rewind, info, "bob"),
        Call(&v1::Sessions::Stub::ListCheckpoints, list, listed, "bob")}) {
    EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
    EXPECT_EQ(status.error_message(), "session " + id + " is unknown");
  }
  std::string blob;
  EXPECT_EQ(Export(id, blob, "bob").error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(blob, "");
  ASSERT_TRUE(Export(id, blob, "alice").ok());
  const grpc::Status stolen = Import(blob, 100, info, "bob");
  EXPECT_EQ(stolen.error_code(), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(stolen.error_message(), "the exported session belongs to another owner");
  EXPECT_TRUE(RewindTo(id, 0, info, "alice").ok());
}

}  // namespace
}  // namespace gma::testing
