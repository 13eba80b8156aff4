// The result of a run, for people and for programs.
#ifndef GMA_CLIENT_LOADGEN_REPORT_H_
#define GMA_CLIENT_LOADGEN_REPORT_H_

#include <string>

#include "client/loadgen/flags.h"
#include "client/loadgen/runner.h"
#include "gma/v1/models.pb.h"

namespace gma::client {

std::string TableOf(const LoadResult& result);
// One object; times in seconds.
std::string JsonOf(const LoadFlags& flags, const v1::ModelInfo& model, const LoadResult& result);
// "12.3 s: 8 running, 40 done, 0 failed, 2560 tokens (208/s)".
std::string LineOf(const Progress& progress);

}  // namespace gma::client

#endif  // GMA_CLIENT_LOADGEN_REPORT_H_
