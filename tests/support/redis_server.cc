#include "tests/support/redis_server.h"

#include <fcntl.h>
#include <hiredis/hiredis.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/check.h"

namespace gma::testing {
namespace {

int FreePort() {
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  GMA_CHECK(bind(listener, reinterpret_cast<sockaddr*>(&address), size) == 0);
  GMA_CHECK(getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size) == 0);
  close(listener);
  return ntohs(address.sin_port);
}

std::string Text(const redisReply& reply) {
  switch (reply.type) {
    case REDIS_REPLY_INTEGER:
      return absl::StrCat(reply.integer);
    case REDIS_REPLY_ARRAY: {
      std::string text;
      for (size_t i = 0; i < reply.elements; ++i) {
        absl::StrAppend(&text, i == 0 ? "" : " ", Text(*reply.element[i]));
      }
      return text;
    }
    case REDIS_REPLY_NIL:
      return "";
    default:
      return std::string(reply.str, reply.len);
  }
}

}  // namespace

std::unique_ptr<RedisServer> RedisServer::Start(bool tcp, std::string password) {
  if (access("/usr/bin/redis-server", X_OK) != 0) return nullptr;
  std::unique_ptr<RedisServer> server(new RedisServer(tcp ? FreePort() : 0, std::move(password)));
  server->Restart();
  return server;
}

RedisServer::~RedisServer() { Kill(); }

void RedisServer::Restart() {
  Kill();
  const std::string port = absl::StrCat(port_), socket = directory_.File("redis.sock");
  const pid_t parent = getpid();
  process_ = fork();
  GMA_CHECK(process_ >= 0);
  if (process_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);
    const int log = open(directory_.File("log").c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
    dup2(log, STDOUT_FILENO);
    execl("/usr/bin/redis-server", "redis-server", "--port", port.c_str(), "--bind", "127.0.0.1",
          "--unixsocket", socket.c_str(), "--save", "", "--appendonly", "no", "--dir",
          directory_.path().c_str(), "--requirepass", password_.c_str(), "--maxmemory-policy",
          "noeviction", nullptr);
    _exit(127);
  }
  for (int i = 0; i < 500; ++i) {
    redisContext* context = redisConnectUnix(socket.c_str());
    const bool up = context->err == 0;
    redisFree(context);
    if (up) return;
    absl::SleepFor(absl::Milliseconds(20));
  }
  GMA_CHECK(false);  // it does not start
}

void RedisServer::Kill() {
  if (process_ < 0) return;
  kill(process_, SIGKILL);
  waitpid(process_, nullptr, 0);
  process_ = -1;
}

void RedisServer::Freeze() { GMA_CHECK(kill(process_, SIGSTOP) == 0); }
void RedisServer::Thaw() { GMA_CHECK(kill(process_, SIGCONT) == 0); }

std::string RedisServer::Command(const std::vector<std::string>& words) const {
  redisContext* context = redisConnectUnix(directory_.File("redis.sock").c_str());
  const absl::Cleanup free_context = [context] { redisFree(context); };
  GMA_CHECK(context->err == 0);
  if (!password_.empty()) {
    freeReplyObject(redisCommand(context, "AUTH %s", password_.c_str()));
  }
  std::vector<const char*> text;
  std::vector<size_t> sizes;
  for (const std::string& word : words) {
    text.push_back(word.data());
    sizes.push_back(word.size());
  }
  auto* reply = static_cast<redisReply*>(
      redisCommandArgv(context, static_cast<int>(words.size()), text.data(), sizes.data()));
  GMA_CHECK(reply != nullptr);
  const absl::Cleanup free_reply = [reply] { freeReplyObject(reply); };
  GMA_CHECK(reply->type != REDIS_REPLY_ERROR);
  return Text(*reply);
}

}  // namespace gma::testing
