#include "tests/bench/session_figures.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/status_macros.h"

namespace gma::bench {
namespace {

constexpr int64_t kAppendTokens = 4096;  // of one call
constexpr int32_t kForks = 64, kForkRounds = 5;
constexpr int32_t kReplay = 100;  // tokens fed again by a rewind
constexpr int32_t kBehind = 150;  // tokens that it takes back at least kReplay of
constexpr int32_t kAnswer = 50;   // tokens
constexpr char kBase[] = "base";  // a checkpoint
constexpr absl::Duration kSettle = absl::Milliseconds(50);  // writes that are on their way
constexpr absl::Duration kPatience = absl::Seconds(30);

}  // namespace

absl::Status SessionFigures::AddFed(int64_t tokens) {
  GMA_ASSIGN_OR_RETURN(const std::string id, Open());
  for (int64_t done = 0; done < tokens; done += kAppendTokens) {
    GMA_RETURN_IF_ERROR(Append(id, static_cast<int32_t>(std::min(kAppendTokens, tokens - done))));
  }
  places_.push_back({tokens, id});
  return absl::OkStatus();
}

absl::Status SessionFigures::AddImported(std::string_view blob) {
  GMA_ASSIGN_OR_RETURN(const v1::SessionInfo info, client_.ImportSession(blob));
  places_.push_back({info.context_tokens(), info.session_id()});
  return absl::OkStatus();
}

absl::Status SessionFigures::Append(const std::string& id, int32_t count) {
  v1::AppendRequest request;
  request.set_session_id(id);
  for (int32_t i = 0; i < count; ++i) {
    request.mutable_input()->mutable_tokens()->add_ids(
        static_cast<int32_t>(random_() % static_cast<uint32_t>(vocab_size_)));
  }
  return client_.AppendToSession(std::move(request)).status();
}

absl::StatusOr<double> SessionFigures::Decode(const std::string& id, int32_t count) {
  v1::GenerateRequest request;
  request.set_session_id(id);
  request.mutable_sampling()->set_temperature(0);
  request.mutable_stop()->set_max_tokens(count);
  request.mutable_stop()->set_ignore_eos(true);
  const std::unique_ptr<client::AnswerStream> stream = client_.Generate(std::move(request));
  double milliseconds = 0;
  for (;;) {
    GMA_ASSIGN_OR_RETURN(const std::optional<client::AnswerPiece> piece, stream->Next());
    if (!piece.has_value()) return milliseconds;
    if (piece->finished.has_value()) {
      milliseconds = 1e3 * piece->finished->timings().decode_seconds() / (count - 1);
    }
  }
}

absl::StatusOr<std::string> SessionFigures::Open() {
  GMA_ASSIGN_OR_RETURN(const v1::SessionInfo info, client_.CreateSession({}));
  return info.session_id();
}

absl::Status SessionFigures::Close(const std::string& id) {
  return client_.CloseSession(id).status();
}

absl::Status SessionFigures::ExpectTier(const std::string& id, v1::SessionTier tier) {
  GMA_ASSIGN_OR_RETURN(const v1::SessionInfo info, client_.GetSession(id));
  if (info.tier() == tier) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("a session is in ", v1::SessionTier_Name(info.tier()),
                                          " instead of ", v1::SessionTier_Name(tier)));
}

void SessionFigures::Note(const char* what, const Place& place, double milliseconds) {
  times_[what][place.tokens].push_back(milliseconds);
}

absl::Status SessionFigures::Time(const char* what, const Place& place, const Call& call) {
  const absl::Time start = absl::Now();
  GMA_RETURN_IF_ERROR(call());
  Note(what, place, absl::ToDoubleMilliseconds(absl::Now() - start));
  return absl::OkStatus();
}

absl::StatusOr<int64_t> SessionFigures::RowsInUse(const Place& place) {
  // The engine counts at the end of each round of its work: once it answers this, what it had
  // answered before is counted.
  GMA_RETURN_IF_ERROR(client_.GetSession(place.id).status());
  GMA_ASSIGN_OR_RETURN(const v1::ModelInfo model, client_.GetModel(""));
  return model.sessions_in_use();
}

absl::Status SessionFigures::MeasureForks(const Place& place, bool many) {
  std::vector<std::string> forks;
  const auto fork = [&] {
    absl::StatusOr<v1::SessionInfo> info = client_.ForkSession(place.id);
    if (info.ok()) forks.push_back(info->session_id());
    return info.status();
  };
  GMA_RETURN_IF_ERROR(Time("fork", place, fork));
  GMA_ASSIGN_OR_RETURN(const double step, Decode(forks[0], kAnswer));
  Note("decode step", place, step);
  const std::unique_ptr<client::AnswerStream> again = client_.ResumeSession(forks[0], 0);
  GMA_RETURN_IF_ERROR(Time("resume, first event", place, [&] { return again->Next().status(); }));
  if (many) {
    GMA_ASSIGN_OR_RETURN(const int64_t before, RowsInUse(place));
    GMA_RETURN_IF_ERROR(Time("64 forks", place, [&] {
      absl::Status status;
      for (int32_t i = 0; i < kForks && status.ok(); ++i) status = fork();
      return status;
    }));
    GMA_ASSIGN_OR_RETURN(const int64_t after, RowsInUse(place));
    if (after - before != kForks) {
      return absl::InternalError(absl::StrCat("64 forks took ", after - before, " rows"));
    }
  }
  for (const std::string& id : forks) GMA_RETURN_IF_ERROR(Close(id));
  return absl::OkStatus();
}

absl::Status SessionFigures::MeasurePast(const Place& place) {
  GMA_RETURN_IF_ERROR(Time("checkpoint", place,
                           [&] { return client_.CheckpointSession(place.id, kBase).status(); }));
  GMA_ASSIGN_OR_RETURN(const v1::SessionInfo base, client_.GetSession(place.id));
  GMA_RETURN_IF_ERROR(Append(place.id, kBehind));
  GMA_RETURN_IF_ERROR(Time("rewind, 100 tokens again", place, [&] {
    return client_.RewindSession(place.id, base.context_tokens() + kReplay).status();
  }));
  return Time("rewind to a checkpoint", place,
              [&] { return client_.RewindSession(place.id, kBase).status(); });
}

absl::Status SessionFigures::MeasureBlob(const Place& place) {
  std::string blob, imported;
  GMA_RETURN_IF_ERROR(Time("export", place, [&] {
    absl::StatusOr<std::string> got = client_.ExportSession(place.id);
    if (got.ok()) blob = *std::move(got);
    return got.status();
  }));
  GMA_RETURN_IF_ERROR(Time("import", place, [&] {
    absl::StatusOr<v1::SessionInfo> got = client_.ImportSession(blob);
    if (got.ok()) imported = got->session_id();
    return got.status();
  }));
  return Close(imported);
}

absl::Status SessionFigures::MeasureCalls(int32_t repeats) {
  for (int32_t i = 0; i < repeats; ++i) {
    for (const Place& place : places_) {
      GMA_RETURN_IF_ERROR(MeasureForks(place, i < kForkRounds));
      GMA_RETURN_IF_ERROR(MeasurePast(place));
      GMA_RETURN_IF_ERROR(MeasureBlob(place));
    }
  }
  return absl::OkStatus();
}

absl::Status SessionFigures::MeasureMemory(const Place& place) {
  const auto wake = [&] { return client_.PinSession(place.id, true).status(); };
  // One row is the place's, the other is used after it.
  GMA_RETURN_IF_ERROR(wake());
  GMA_RETURN_IF_ERROR(client_.PinSession(place.id, false).status());
  std::vector<std::string> fillers(3);
  GMA_ASSIGN_OR_RETURN(fillers[0], Open());
  const auto open = [&](std::string& id) {
    absl::StatusOr<std::string> got = Open();
    if (got.ok()) id = *std::move(got);
    return got.status();
  };
  GMA_RETURN_IF_ERROR(
      Time("park in memory (with an Open)", place, [&] { return open(fillers[1]); }));
  GMA_RETURN_IF_ERROR(ExpectTier(place.id, v1::SESSION_TIER_MEMORY));
  GMA_RETURN_IF_ERROR(Close(fillers[1]));
  GMA_RETURN_IF_ERROR(Time("wake from memory", place, wake));
  GMA_RETURN_IF_ERROR(client_.PinSession(place.id, false).status());
  // Both rows to others, so that it has to drive one out.
  GMA_RETURN_IF_ERROR(open(fillers[1]));
  GMA_RETURN_IF_ERROR(open(fillers[2]));
  GMA_RETURN_IF_ERROR(ExpectTier(place.id, v1::SESSION_TIER_MEMORY));
  GMA_RETURN_IF_ERROR(Time("wake from memory, another parks for it", place, wake));
  GMA_RETURN_IF_ERROR(ExpectTier(place.id, v1::SESSION_TIER_POOL));
  GMA_RETURN_IF_ERROR(client_.PinSession(place.id, false).status());
  for (const std::string& id : fillers) GMA_RETURN_IF_ERROR(Close(id));
  return absl::OkStatus();
}

absl::Status SessionFigures::MeasureDisk(const Place& place) {
  std::vector<std::string> fillers;
  v1::SessionTier tier = v1::SESSION_TIER_POOL;
  while (tier != v1::SESSION_TIER_DISK) {
    GMA_ASSIGN_OR_RETURN(const std::string filler, Open());
    const absl::Time start = absl::Now();
    fillers.push_back(filler);
    // The one that drives it out of memory is known by what becomes of the place.
    while (tier != v1::SESSION_TIER_DISK && absl::Now() - start < kSettle) {
      GMA_ASSIGN_OR_RETURN(const v1::SessionInfo info, client_.GetSession(place.id));
      tier = info.tier();
    }
    if (tier == v1::SESSION_TIER_DISK) {
      Note("park on disk", place, absl::ToDoubleMilliseconds(absl::Now() - start));
    } else if (fillers.size() > 20) {
      return absl::InternalError("20 sessions did not drive another one to disk");
    }
  }
  absl::SleepFor(kSettle);
  GMA_RETURN_IF_ERROR(
      Time("wake from disk", place, [&] { return client_.PinSession(place.id, true).status(); }));
  GMA_RETURN_IF_ERROR(ExpectTier(place.id, v1::SESSION_TIER_POOL));
  GMA_RETURN_IF_ERROR(client_.PinSession(place.id, false).status());
  for (const std::string& id : fillers) GMA_RETURN_IF_ERROR(Close(id));
  absl::SleepFor(kSettle);
  return absl::OkStatus();
}

absl::Status SessionFigures::MeasureTiers(int32_t repeats) {
  for (int32_t i = 0; i < repeats; ++i) {
    for (const Place& place : places_) {
      GMA_RETURN_IF_ERROR(MeasureMemory(place));
      GMA_RETURN_IF_ERROR(MeasureDisk(place));
    }
  }
  return absl::OkStatus();
}

absl::Status SessionFigures::MeasureDecode(int32_t answers) {
  for (int32_t i = 0; i < answers; ++i) {
    for (const Place& place : places_) {
      GMA_ASSIGN_OR_RETURN(const double step, Decode(place.id, kAnswer));
      Note("decode step", place, step);
    }
  }
  return absl::OkStatus();
}

nlohmann::ordered_json SessionFigures::Report() const {
  nlohmann::ordered_json report;
  for (const auto& [what, places] : times_) {
    for (const auto& [tokens, readings] : places) {
      std::vector<double> sorted = readings;
      std::sort(sorted.begin(), sorted.end());
      report[what][absl::StrCat(tokens)] = {{"median_ms", sorted[sorted.size() / 2]},
                                            {"p99_ms", sorted[(sorted.size() - 1) * 99 / 100]},
                                            {"readings", sorted.size()}};
    }
  }
  return report;
}

}  // namespace gma::bench
